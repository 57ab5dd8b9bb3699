"""The watches of a service's sessions, on a carrier that serves two services."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from twisted.internet.task import Clock

from rproxy.config.model import ServiceConfig
from rproxy.observe.publisher import Publisher
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.tap.service import serve_pool
from rproxy.tap.session_watches import SessionWatches
from tests.fakes import LinkedSessions, pool_with, run

IDLE_S = 16.0


def test_a_services_timeouts_end_no_session_of_another_service() -> None:
    clock = Clock()
    served = [serve_pool(pool_with(1), clock) for _ in range(2)]
    own, others = (LinkedSessions(each.service) for each in served)

    class Carrier:
        def slices(self) -> Iterator[list[Session]]:
            for listed in zip_longest(own.slices(), others.slices(), fillvalue=()):
                yield [session for sessions in listed for session in sessions]

    unused: Any = None
    carrier: Any = Carrier()
    watches = SessionWatches(
        clock,
        ServiceConfig(idle_timeout_s=IDLE_S, half_close_timeout_s=IDLE_S),
        served[0],
        carrier,
        Capacity(100, clock.seconds),
        unused,
        unused,
        Publisher(),
    )
    sessions = [own.open(), own.open()]
    sessions[1].half_close()
    for _ in sessions:
        others.open().half_close()
    watches.startService()
    run(clock, 2 * IDLE_S)
    assert own.cut == [(sessions[0], Ending.IDLE), (sessions[1], Ending.HALF_CLOSED)]
    assert others.cut == []
