"""Sessions with hosts that have vanished, on a clock that the test moves."""

from __future__ import annotations

from twisted.internet.task import Clock

from rproxy.sessions.dead_peers import EVERY_S, VANISHED_S, DeadPeers
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from tests.fakes import LinkedSessions, logged, pool_with, run, texts


def test_sessions_are_cut_whose_peer_has_not_been_heard_for_as_long_as_keepalive_takes() -> None:
    clock = Clock()
    linked = LinkedSessions(Service(pool_with(1), clock))
    vanished = DeadPeers(clock, linked.slices)
    vanished.start()
    sessions = [linked.open() for _ in range(5)]
    for session, unheard_s in zip(sessions, (0, VANISHED_S - 1, VANISHED_S, 1000, 0), strict=True):
        linked.links[session].unheard_s = unheard_s
    with logged() as events:
        run(clock, EVERY_S - 1)
        assert linked.cut == []
        run(clock, 1)
    assert linked.cut == [(sessions[2], Ending.VANISHED), (sessions[3], Ending.VANISHED)]
    assert texts(events) == ["2 session(s) closed: one side has taken nothing, and not been heard, for 120 s"]
    with logged() as events:
        run(clock, 5 * EVERY_S)
    assert texts(events) == []
    linked.links[sessions[0]].unheard_s = 1000
    run(clock, EVERY_S)
    assert len(linked.cut) == 3
    vanished.stop()
    assert clock.getDelayedCalls() == []
