"""What sessions add up to."""

from __future__ import annotations

from rproxy.sessions.endings import Ending
from tests.sessions.opening import Bench


def test_what_sessions_carried_is_added_up_when_they_end_and_once() -> None:
    bench = Bench()
    for up, down in ((10, 200), (1, 2)):
        session = bench.connected()
        session.up, session.down = up, down
        before = (bench.counters.up, bench.counters.down)
        session.ended(Ending.CLOSED)
        session.ended(Ending.STOPPED)
        assert (bench.counters.up, bench.counters.down) == (before[0] + up, before[1] + down)
    assert (bench.counters.up, bench.counters.down) == (11, 202)
