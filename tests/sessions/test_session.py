"""A session's choices and accounts, on plain memory: no transport, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.pool.states import Administration, State
from rproxy.sessions.endings import Ending, Phase
from rproxy.sessions.link import NO_LINK
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.session import CONNECT_TIMEOUT_S, TRIES_MAX, Session
from tests.fakes import FakeLink, confirm, logged, registered
from tests.sessions.opening import Bench, taken

TOTAL_S = 5.0
"""The longest that a client waits."""


def test_a_choice_is_the_policys_and_counts_as_pending_until_connected() -> None:
    bench = Bench()
    session = bench.open()
    backend = taken(session)
    assert (backend.address, session.backend) == ("10.0.0.1", backend)
    assert bench.counts == [(1, 0, 0), (0, 0, 0), (0, 0, 0)]
    session.connected()
    assert bench.counts == [(0, 1, 1), (0, 0, 0), (0, 0, 0)]
    session.ended(Ending.CLOSED)
    assert bench.counts == [(0, 0, 1), (0, 0, 0), (0, 0, 0)]
    assert bench.counters.endings == {Ending.CLOSED: 1}
    assert [bench.told(event) for event in ("opened", "closed", "failed")] == [1, 1, 0]


def test_opening_a_session_chooses_nothing_yet() -> None:
    bench = Bench()
    bench.open()
    assert bench.counts == [(0, 0, 0)] * 3


def test_each_try_goes_to_a_backend_not_tried_before_and_three_are_all() -> None:
    bench = Bench(up=5)
    session = bench.open()
    tried = []
    while (backend := session.choose_backend()) is not None:
        tried.append(backend.address)
        session.connect_failed()
    assert tried == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert len(tried) == TRIES_MAX == 3
    assert bench.counters.redispatches == 2
    assert session.give_up() is Ending.UNREACHABLE
    assert [bench.told(event) for event in ("opened", "failed", "closed")] == [3, 3, 3]
    assert bench.counts == [(0, 0, 0)] * 5


def test_with_fewer_backends_than_tries_none_is_tried_twice() -> None:
    session = Bench(up=1).open()
    taken(session)
    session.connect_failed()
    assert session.choose_backend() is None


def test_a_second_try_that_connects_counts_for_the_second_backend_only() -> None:
    bench = Bench()
    session = bench.open()
    taken(session)
    session.connect_failed()
    taken(session)
    session.connected()
    session.ended(Ending.CLOSED)
    assert bench.counts == [(0, 0, 0), (0, 0, 1), (0, 0, 0)]
    assert bench.counters.redispatches == 1


@pytest.mark.parametrize(("connects", "expected"), [(True, 7), (False, 0)])
def test_what_a_client_sends_counts_once_for_the_back_end_that_serves_it(connects: bool, expected: int) -> None:
    bench = Bench()
    session = bench.open()
    taken(session)
    session.up = 3  # as carriers that read before they are connected
    session.connect_failed()
    last = taken(session)
    session.up = 7
    if connects:
        session.connected()
    session.ended(Ending.CLIENT_RESET)
    assert [backend.counts.bytes_up for backend in bench.pool] == [expected * (each is last) for each in bench.pool]
    assert bench.counters.up == expected


def test_a_backend_that_comes_up_between_the_tries_is_tried() -> None:
    bench = Bench(up=1)
    session = bench.open()
    taken(session)
    session.connect_failed()
    newcomer = registered(bench.pool, "10.0.0.9")
    confirm(bench.pool, newcomer, token=99)
    assert session.choose_backend() is newcomer


@pytest.mark.parametrize(("backend_fault", "failures"), [(True, 1), (False, 0)])
def test_only_a_back_ends_own_failures_count_against_it(backend_fault: bool, failures: int) -> None:
    bench = Bench()
    session = bench.open()
    backend = taken(session)
    session.connect_failed(backend_fault=backend_fault)
    assert (bench.policy.told["failed"][backend], bench.policy.told["closed"][backend]) == (failures, 1)
    assert bench.counts == [(0, 0, 0)] * 3
    assert session.choose_backend() is not backend


def test_the_policy_hears_of_a_failure_before_the_closing_that_it_leads_to() -> None:
    bench = Bench()
    heard: list[str] = []
    bench.policy.failed = lambda *_: heard.append("failed")  # type: ignore[method-assign]
    bench.policy.closed = lambda *_: heard.append("closed")  # type: ignore[method-assign]
    session = bench.open()
    taken(session)
    session.connect_failed()
    assert heard == ["failed", "closed"]


def test_the_policy_is_told_how_long_a_session_was_served() -> None:
    """None for one that never connected, and for one that its back-end failed after all."""
    bench = Bench()
    served: list[float | None] = []
    bench.policy.closed = lambda backend, now, served_s: served.append(served_s)  # type: ignore[method-assign]
    session = bench.open()
    taken(session)
    bench.clock.advance(1)
    session.connected()
    bench.clock.advance(2)
    session.ended(Ending.CLOSED)

    failing = bench.open()
    taken(failing)
    failing.connect_failed()
    taken(failing)
    failing.connected()
    assert failing.try_redispatch(0, reset=True)
    taken(failing)
    failing.ended(Ending.CLIENT_RESET)
    assert served == [2.0, None, None, None]


def test_tries_that_all_time_out_end_within_five_seconds() -> None:
    bench = Bench()
    session = bench.open()
    patience = []
    while session.choose_backend() is not None:
        patience.append(session.connect_timeout_s())
        bench.clock.advance(session.connect_timeout_s() + 0.05)
        session.connect_failed()
    assert patience[:2] == [CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S] == [2, 2]
    assert 0 < patience[2] < 1
    assert bench.clock.seconds() < TOTAL_S


def test_tries_that_fail_at_once_may_each_take_two_seconds() -> None:
    session = Bench().open()
    for _ in range(TRIES_MAX):
        taken(session)
        assert session.connect_timeout_s() == 2
        session.connect_failed()


@pytest.mark.parametrize("tries", [1, 2])
def test_no_further_try_starts_once_the_time_is_over(tries: int) -> None:
    """However long a try took: the reactor may have been blocked."""
    bench = Bench()
    session = bench.open()
    for _ in range(tries - 1):
        taken(session)
        session.connect_failed()
    taken(session)
    bench.clock.advance(TOTAL_S)
    session.connect_failed()
    assert session.choose_backend() is None


@pytest.mark.parametrize("elapsed_s", [0.0, 2.1, 4.0, 4.7, 4.79])
def test_a_try_that_starts_has_time_and_not_more_than_is_left(elapsed_s: float) -> None:
    bench = Bench()
    session = bench.open()
    taken(session)
    bench.clock.advance(elapsed_s)
    session.connect_failed()
    taken(session)
    assert 0 < session.connect_timeout_s() <= min(2, TOTAL_S - elapsed_s)


@pytest.mark.parametrize(("up", "ending"), [(0, Ending.NO_BACKEND), (1, Ending.UNREACHABLE)])
def test_giving_up_returns_whether_any_back_end_was_tried(up: int, ending: Ending) -> None:
    bench = Bench(up)
    session = bench.open()
    while session.choose_backend() is not None:
        session.connect_failed()
    assert session.give_up() is ending
    assert session.ending is ending
    assert bench.counters.endings == {ending: 1}


@pytest.mark.parametrize("ending", list(Ending))
def test_only_the_first_ending_counts(ending: Ending) -> None:
    bench = Bench()
    session = bench.connected()
    session.ended(ending)
    session.ended(Ending.CLOSED)
    session.ended(Ending.STOPPED)
    assert session.ending is ending
    assert bench.counters.endings == {ending: 1}
    assert bench.counts[0] == (0, 0, 1)
    assert bench.told("closed") == 1


def test_a_client_that_leaves_while_connecting_returns_its_lease() -> None:
    bench = Bench()
    session = bench.open()
    taken(session)
    session.ended(Ending.CLIENT_GONE)
    assert bench.counts == [(0, 0, 0)] * 3
    assert [bench.told(event) for event in ("opened", "closed", "failed")] == [1, 1, 0]


def test_sessions_are_counted_apart() -> None:
    bench = Bench(up=1)
    first, second = bench.connected(), bench.open()
    taken(second)
    assert bench.counts == [(1, 1, 1)]
    first.ended(Ending.CLOSED)
    assert bench.counts == [(1, 0, 1)]
    second.connected()
    second.ended(Ending.BACKEND_RESET)
    assert bench.counts == [(0, 0, 2)]


def test_a_backend_that_departs_is_forgotten_with_its_last_session() -> None:
    bench = Bench(up=1)
    session, other = bench.connected(), bench.open()
    taken(other)
    (backend,) = bench.pool
    bench.pool.check(backend, 10, lambda moment: 1e6, now=1e6)
    bench.pool.check(backend, 10, lambda moment: 1e6, now=2e6)
    assert (backend.state, bench.pool.eligible) == (State.DEPARTED, [])
    session.ended(Ending.CLOSED)
    assert len(bench.pool) == 1
    other.ended(Ending.CLIENT_GONE)
    assert (backend.connections, len(bench.pool)) == (0, 0)
    assert [(each.before, each.after) for each in bench.announced] == [(State.DEPARTED, State.FORGOTTEN)]


def waiting(bench: Bench) -> Session:
    (backend,) = bench.pool
    bench.pool.administer(backend, Administration.DRAIN, bench.clock.seconds())
    session = bench.open()
    assert session.choose_backend() is None
    assert session.wait_for_backend(lambda: None)
    return session


def connecting(bench: Bench) -> Session:
    session = bench.open()
    taken(session)
    return session


def ended(bench: Bench) -> Session:
    session = bench.connected()
    session.ended(Ending.STOPPED)
    return session


BEGIN: dict[Phase, Callable[[Bench], Session]] = {
    Phase.ACCEPTED: Bench.open,
    Phase.WAITING: waiting,
    Phase.CONNECTING: connecting,
    Phase.CONNECTED: Bench.connected,
    Phase.ENDED: ended,
}


@pytest.mark.parametrize("phase", list(Phase))
def test_a_session_that_ends_in_any_phase_holds_nothing_and_has_one_record(phase: Phase) -> None:
    bench = Bench(up=1, terms=ServiceTerms(wait_s=5))
    session = BEGIN[phase](bench)
    assert session.phase is phase
    session.ended(Ending.STOPPED)
    assert (session.phase, session.backend, session.link) == (Phase.ENDED, None, NO_LINK)
    assert [record.ending for record in bench.records] == [Ending.STOPPED]
    assert [record.client for record in bench.records] == ["the client"]
    assert [backend.connections for backend in bench.pool] == [0]
    assert bench.service.wait_queue.queue == {}
    bench.stop()
    assert bench.clock.getDelayedCalls() == []


EVENTS: dict[str, Callable[[Session], object]] = {
    "choose": Session.choose_backend,
    "connected": Session.connected,
    "failed": Session.connect_failed,
    "failed, by this host": lambda session: session.connect_failed(backend_fault=False),
    "give up": Session.give_up,
    "closed": lambda session: session.ended(Ending.CLOSED),
    "client gone": lambda session: session.ended(Ending.CLIENT_GONE),
    "stopped": lambda session: session.ended(Ending.STOPPED),
    "early end": lambda session: session.try_redispatch(0, reset=True),
    "settled": Session.settled,
}


def legal(session: Session) -> set[str]:
    """The calls that a carrier may make now. A session may end in any phase, and more than once."""
    ends = {"closed", "client gone", "stopped"}
    if session.ending is not None:
        return ends
    if session.connected_at is not None:
        return ends | {"early end", "settled"}
    return ends | (
        {"choose", "give up"} if session.backend is None else {"connected", "failed", "failed, by this host"}
    )


@given(data=st.data(), up=st.integers(0, 4))
def test_in_every_order_of_events_each_lease_is_returned_once(data: st.DataObject, up: int) -> None:
    bench = Bench(up)
    sessions = [bench.open() for _ in range(data.draw(st.integers(1, 3)))]
    with logged():
        for _ in range(data.draw(st.integers(0, 25))):
            session = data.draw(st.sampled_from(sessions))
            EVENTS[data.draw(st.sampled_from(sorted(legal(session))))](session)
            held = [each.backend for each in sessions if each.backend is not None]
            for backend in bench.pool:
                assert backend.connections == held.count(backend)
        for session in sessions:
            session.ended(Ending.STOPPED)
    assert all((each.counts.pending, each.counts.established) == (0, 0) for each in bench.pool)
    assert bench.policy.told["opened"] == bench.policy.told["closed"]
    assert bench.counters.endings.total() == len(sessions)


def test_a_try_ends_two_seconds_after_it_began_and_the_last_after_less() -> None:
    bench = Bench()
    bench.clock.advance(1000)
    session = bench.open()
    taken(session)
    bench.clock.advance(0.5)
    assert (session.connect_deadline, session.connect_timeout_s()) == (1002, 1.5)
    session.connect_failed()
    taken(session)
    assert (session.connect_deadline, session.connect_timeout_s()) == (1002.5, 2)
    bench.clock.advance(3)
    session.connect_failed()
    taken(session)
    assert session.connect_deadline == pytest.approx(1004.8)


def test_a_half_close_is_remembered_and_silence_counts_from_it_on() -> None:
    session = Bench().connected()
    session.idle_sweeps = 7
    session.half_close()
    assert (session.half_closed, session.idle_sweeps) == (True, 0)


def test_only_a_session_that_has_its_back_end_and_is_not_over_is_connected() -> None:
    bench = Bench()
    session = bench.open()
    states = [session.is_connected]
    taken(session)
    states.append(session.is_connected)
    session.connected()
    states.append(session.is_connected)
    session.ended(Ending.IDLE)
    states.append(session.is_connected)
    assert states == [False, False, True, False]


def test_the_third_connect_in_a_row_that_fails_takes_the_back_end_down_and_is_announced() -> None:
    bench = Bench(up=3)
    for _ in range(3):
        session = bench.open()
        assert taken(session).address == "10.0.0.1"
        session.connect_failed()
        session.ended(Ending.CLIENT_GONE)
    (transition,) = bench.announced
    assert (transition.backend.address, transition.after) == ("10.0.0.1", State.DOWN)
    assert taken(bench.open()).address != "10.0.0.1"


def test_a_connect_that_fails_by_this_hosts_fault_is_no_evidence() -> None:
    bench = Bench(up=3)
    for _ in range(10):
        session = bench.open()
        taken(session)
        session.connect_failed(backend_fault=False)
        session.ended(Ending.CLIENT_GONE)
    assert [backend.state for backend in bench.service.pool] == [State.UP] * 3


class TwoOfEach:
    """A `Gate` that admits two clients of each host."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.refused: dict[str, int] = {}

    def admit(self, host: str) -> bool:
        if self.inside.count(host) == 2:
            return False
        self.inside.append(host)
        return True

    def count(self, host: str) -> None:
        self.inside.append(host)

    def leave(self, host: str) -> None:
        self.inside.remove(host)


def test_the_gate_counts_clients_by_address_from_their_admission_to_their_end() -> None:
    bench = Bench()
    gate = bench.service.gate = TwoOfEach()
    first, second, third, other = (
        Session(bench.service, FakeLink(address))
        for address in ("10.9.0.1:1", "10.9.0.1:2", "10.9.0.1:3", "10.9.0.2:1")
    )
    assert [session.admit() for session in (first, second, third, other)] == [True, True, False, True]
    assert third.ending is Ending.DENIED
    assert third.backend is None
    assert bench.counters.endings == {Ending.DENIED: 1}
    first.ended(Ending.CLOSED)
    first.ended(Ending.CLOSED)
    assert gate.inside == ["10.9.0.1", "10.9.0.2"]
    assert Session(bench.service, FakeLink("10.9.0.1:4")).admit()


def test_a_client_without_an_address_passes_every_gate() -> None:
    bench = Bench()
    bench.service.gate = gate = TwoOfEach()
    assert Session(bench.service, FakeLink("UNIX")).admit()
    assert gate.inside == []


def test_the_policy_gets_the_clients_address_where_it_matters() -> None:
    bench = Bench()
    for matters in (False, True):
        bench.service.chooses_by_client = matters
        assert Session(bench.service, FakeLink("10.9.0.1:7")).choose_backend() is not None
    assert bench.policy.clients == [None, ("10.9.0.1", 7)]


def test_a_client_that_is_older_than_the_gate_is_counted_once_it_is_connected() -> None:
    bench = Bench()
    waiting = Session(bench.service, FakeLink("192.0.2.1:1234"))
    taken(waiting)
    gate = bench.service.gate = TwoOfEach()
    waiting.connected()
    assert gate.inside == ["192.0.2.1"]
    waiting.ended(Ending.CLOSED)
    assert gate.inside == []


def test_a_client_is_counted_once_however_often_that_is_asked_for() -> None:
    bench = Bench()
    older = Session(bench.service, FakeLink("192.0.2.1:1234"))
    older.count_client()
    gate = bench.service.gate = TwoOfEach()
    newer = Session(bench.service, FakeLink("192.0.2.2:1234"))
    assert newer.admit()
    for _ in range(2):
        for session in (older, newer):
            session.count_client()
    assert sorted(gate.inside) == ["192.0.2.1", "192.0.2.2"]
    for session in (older, newer):
        session.ended(Ending.CLOSED)
        session.count_client()
    assert gate.inside == []


def test_a_client_without_an_ip_address_is_admitted_and_not_counted() -> None:
    bench = Bench()
    gate = bench.service.gate = TwoOfEach()
    for _ in range(3):
        session = Session(bench.service, FakeLink("@abstract"))
        assert session.admit()
        taken(session)
        session.connected()
    assert gate.inside == []
