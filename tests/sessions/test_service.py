"""What a service does for its sessions whatever its policy does."""

from __future__ import annotations

from twisted.logger import LogLevel

from rproxy.sessions.endings import Ending
from tests.fakes import RaisingPolicy, logged
from tests.sessions.opening import Bench, taken


def test_a_policy_that_fails_costs_no_session_its_back_end() -> None:
    bench = Bench(policy=RaisingPolicy("choose", "opened", "closed"))
    with logged() as events:
        for _ in range(5):
            bench.connected().ended(Ending.CLOSED)
    assert {event["log_level"] for event in events} == {LogLevel.critical}
    assert sum(total for _, _, total in bench.counts) == 5
    assert bench.counters.endings == {Ending.CLOSED: 5}


def test_a_policy_that_fails_to_note_a_failure_costs_no_try() -> None:
    bench = Bench(policy=RaisingPolicy("failed"))
    session = bench.open()
    with logged():
        first = taken(session)
        session.connect_failed()
        assert taken(session) is not first
    assert bench.counts == [(0, 0, 0), (1, 0, 0), (0, 0, 0)]
