"""The timeouts of a service's sessions: which sessions they see, and which events of the pool."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.config.model import ServiceConfig
from rproxy.observe.publisher import Publisher
from rproxy.pool.states import State
from rproxy.sessions.down_timeout import LIMIT_S
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.tap.service import ServedPool, serve_pool
from rproxy.tap.session_timeouts import SessionTimeouts
from tests.fakes import LinkedSessions, pool_with, run

IDLE_S = 16.0


def watch(clock: Clock, served: ServedPool, carrier: Any, publisher: Publisher, config: ServiceConfig) -> None:
    """Start the timeouts of a service's sessions."""
    SessionTimeouts(clock, config, served, carrier, publisher).startService()


def test_a_services_timeouts_end_no_session_of_another_service() -> None:
    clock = Clock()
    served = [serve_pool(pool_with(1), clock) for _ in range(2)]
    own, others = (LinkedSessions(each.service) for each in served)

    class Carrier:
        def slices(self) -> Iterator[list[Session]]:
            for listed in zip_longest(own.slices(), others.slices(), fillvalue=()):
                yield [session for sessions in listed for session in sessions]

    config = ServiceConfig(idle_timeout_s=IDLE_S, half_close_timeout_s=IDLE_S)
    watch(clock, served[0], Carrier(), Publisher(), config)
    sessions = [own.open(), own.open()]
    sessions[1].half_close()
    for _ in sessions:
        others.open().half_close()
    run(clock, 2 * IDLE_S)
    assert own.cut == [(sessions[0], Ending.IDLE), (sessions[1], Ending.HALF_CLOSED)]
    assert others.cut == []


@pytest.mark.parametrize("end_on_down", [True, False])
def test_when_the_only_back_end_falls_silent_sessions_end_unless_its_host_answers(*, end_on_down: bool) -> None:
    """The only back-end that goes down causes a panic: its host may still be there."""
    clock, publisher = Clock(), Publisher()
    served = serve_pool(pool_with(1), clock)
    pool, linked = served.service.pool, LinkedSessions(served.service)
    config = ServiceConfig(idle_timeout_s=0, half_close_timeout_s=0, end_on_down=end_on_down)
    watch(clock, served, linked, publisher, config)
    alive, gone = linked.open(), linked.open()
    for session in (alive, gone):
        assert session.choose_backend() is not None
        session.connected()
    linked.links[gone].unheard_s = LIMIT_S + 1
    (backend,) = pool
    publisher(pool.check(backend, 10, lambda moment: 11.0, now=11.0))
    assert (backend.state, pool.panicking) == (State.DOWN, True)
    run(clock, 2 * LIMIT_S)
    assert linked.cut == ([(gone, Ending.BACKEND_DOWN)] if end_on_down else [])
