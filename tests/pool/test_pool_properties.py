"""Invariants of the pool under any sequence of datagrams, timeouts and sessions."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rproxy.net.addresses import Address
from rproxy.pool.admission import Rejected
from rproxy.pool.backend import Backend
from rproxy.pool.estimators import CPU, OTHERS
from rproxy.pool.probes import Probe
from rproxy.pool.states import Administration, State
from tests.fakes import UNLIMITED
from tests.pool.driving import Driver

UNCONFIRMED_MAX = 3
BACKENDS_MAX = 3

sources = st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::3"]), st.sampled_from([5555, 5556]))
ports = st.sampled_from([0, 80, 81])
instances = st.integers(1, 3)
delays = st.sampled_from([0.0, 0.001, 0.4, 0.6, 5.0, 30.0])


@attrs.define(eq=False)
class Session:
    backend: Backend
    connected: bool = False


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(
            limits=attrs.evolve(UNLIMITED, unconfirmed=UNCONFIRMED_MAX, confirmed=BACKENDS_MAX), slow_start_s=0
        )
        self.pool = self.driver.pool
        self.probes: list[Probe] = []
        self.sessions: list[Session] = []
        self.established_ever: Counter[Backend] = Counter()

    @rule(source=sources, port=ports, instance=instances, draining=st.booleans())
    def register(self, source: Address, port: int, instance: int, draining: bool) -> None:
        with suppress(Rejected):
            self.driver.register(source, service_port=port, instance=instance, draining=draining)

    @rule(source=sources, port=ports, instance=instances)
    def unregister(self, source: Address, port: int, instance: int) -> None:
        with suppress(Rejected):
            self.driver.unregister(source, port=port, instance=instance)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data(), candidate=st.booleans())
    def probe(self, data: st.DataObject, candidate: bool) -> None:
        backend = data.draw(st.sampled_from(list(self.pool)))
        self.probes.append(self.driver.probe(backend, self.driver.candidate(backend) if candidate else None))

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data())
    def probe_and_answer(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(list(self.pool)))
        self._answer(self.driver.probe(backend), after_s=0.001)

    @precondition(lambda self: bool(self.probes))
    @rule(data=st.data(), after_s=delays, draining=st.booleans(), source=st.none() | sources)
    def answer(self, data: st.DataObject, after_s: float, draining: bool, source: Address | None) -> None:
        """An answer to any probe ever sent: in time or not, again, or from elsewhere."""
        probe = data.draw(st.sampled_from(self.probes))
        tcp = data.draw(st.sampled_from([None, 0, 7]))
        self._answer(probe, after_s=after_s, draining=draining, source=source, tcp=tcp)

    def _answer(self, probe: Probe, **how: Any) -> None:
        with suppress(Rejected):
            self.driver.answer(probe, **how)

    @precondition(lambda self: bool(self.probes))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.driver.lose(data.draw(st.sampled_from(self.probes)))

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data())
    def lose_three_in_a_row(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(list(self.pool)))
        for _ in range(3):
            if backend.state is not State.FORGOTTEN:
                self.driver.lose(self.driver.probe(backend))

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(list(self.pool)))
        with suppress(Rejected):
            self.driver.recover(backend)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data(), connects=st.integers(1, 4))
    def fail_connects(self, data: st.DataObject, connects: int) -> None:
        self.driver.fail_connects(data.draw(st.sampled_from(list(self.pool))), connects)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data(), administration=st.sampled_from(list(Administration)))
    def administer(self, data: st.DataObject, administration: Administration) -> None:
        self.pool.administer(data.draw(st.sampled_from(list(self.pool))), administration, self.driver.now)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data(), after_s=st.sampled_from([0.0, 9.0, 11.0, 61.0]))
    def check(self, data: st.DataObject, after_s: float) -> None:
        self.driver.now += after_s
        self.driver.check(data.draw(st.sampled_from(list(self.pool))))

    @precondition(lambda self: bool(self.pool.eligible))
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(self.pool.eligible))
        self.driver.lease(backend)
        self.sessions.append(Session(backend))

    @precondition(lambda self: any(not session.connected for session in self.sessions))
    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from([session for session in self.sessions if not session.connected]))
        session.connected = True
        self.established_ever[session.backend] += 1
        self.pool.connected(session.backend)

    @precondition(lambda self: bool(self.sessions))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        session = self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1)))
        self.pool.closed(
            session.backend,
            self.driver.now,
            was_connected=session.connected,
            served_s=0.1 if session.connected else None,
        )

    @invariant()
    def eligible_is_what_may_get_a_client(self) -> None:
        eligible = self.pool.eligible
        ready = [each for each in self.pool if each.administration is Administration.READY and not each.draining]
        up = [backend for backend in ready if backend.state in (State.UP, State.SUSPECT)]
        down = [backend for backend in ready if backend.state is State.DOWN]
        assert self.pool.panicking is (2 * len(up) < len(up) + len(down))
        others = [backend for backend in down if not backend.health.refusing] if self.pool.panicking else []
        assert set(eligible) == {*up, *others} == {backend for backend in self.pool if backend.eligible}
        assert [backend.slot for backend in eligible] == list(range(len(eligible)))
        assert all(backend.slot == -1 for backend in self.pool if not backend.eligible)

    @invariant()
    def limits_hold(self) -> None:
        registered = sum(backend.state is State.REGISTERED for backend in self.pool)
        departed = sum(backend.state is State.DEPARTED for backend in self.pool)
        assert self.pool._rows.admission.unconfirmed == registered <= UNCONFIRMED_MAX
        present = [backend.address for backend in self.pool if backend.state is not State.DEPARTED]
        assert dict(self.pool._rows.admission._on_host) == Counter(present)
        assert self.pool._rows.admission.confirmed == len(self.pool) - registered - departed <= BACKENDS_MAX

    @invariant()
    def probes_outstanding_are_those_of_known_backends(self) -> None:
        noted = {token: probe.backend for token, probe in self.pool._probes._open.items()}
        assert noted == {token: backend for backend in self.pool for token in backend.probing.outstanding}
        assert not noted.keys() & self.pool._probes._ended.keys()

    @invariant()
    def every_session_is_counted_once(self) -> None:
        pending = Counter(session.backend for session in self.sessions if not session.connected)
        established = Counter(session.backend for session in self.sessions if session.connected)
        for backend in {*self.pool, *pending, *established}:
            assert backend.counts.pending == pending[backend]
            assert backend.counts.established == established[backend]
            assert backend.counts.total == self.established_ever[backend]
            assert backend.tcp >= 0

    @invariant()
    def what_has_sessions_is_in_the_table_and_what_has_departed_has_sessions(self) -> None:
        assert {session.backend for session in self.sessions} <= set(self.pool)
        departed = [backend for backend in self.pool if backend.state is State.DEPARTED]
        assert all(backend.connections and not backend.eligible for backend in departed)

    @invariant()
    def the_usual_is_that_of_those_that_are_up(self) -> None:
        told = [backend.report for backend in self.pool if backend.is_up]
        means = self.pool._rows._means
        assert (means._counts[CPU], means._counts[OTHERS]) == (
            len(told),
            len([each for each in told if each.tcp is not None]),
        )
        assert means._totals[OTHERS] == sum(max(each.tcp - each.counted, 0) for each in told if each.tcp is not None)

    @invariant()
    def who_waits_is_counted(self) -> None:
        waiting = {backend: len(self.pool._candidates._of(backend)) for backend in self.pool}
        assert waiting == {backend: backend.probing.waiting for backend in self.pool}
        assert sum(waiting.values()) == sum(
            len(agents) for host in self.pool._candidates._hosts.values() for agents in host.values()
        )

    @invariant()
    def the_forgotten_are_gone(self) -> None:
        assert all(backend.state is not State.FORGOTTEN for backend in self.pool)
        assert all(self.pool.get(backend.address, backend.port) is backend for backend in self.pool)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
