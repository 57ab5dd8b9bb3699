"""Invariants of the pool under any sequence of datagrams, timeouts and sessions."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from math import inf
from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rproxy.net.addresses import Address
from rproxy.pool.admission import Rejected
from rproxy.pool.backend import Backend, Standing, StaticTerms
from rproxy.pool.estimators import CPU, OTHERS
from rproxy.pool.probes import Probe
from rproxy.pool.states import NO_OVERRIDE, Administration, Override, State
from rproxy.wire.agent_check import READY, read
from tests.fakes import UNLIMITED
from tests.pool.driving import Driver

UNCONFIRMED_MAX = 3
BACKENDS_MAX = 3

sources = st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::3"]), st.sampled_from([5555, 5556]))
ports = st.sampled_from([0, 80, 81])
instances = st.integers(1, 3)
session_limits = st.sampled_from([None, None, 1, 2])
keys = st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.9"]), st.sampled_from([80, 81]))
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
        self.each: int | None = None
        self.overrides: dict[Address, Override] = {}
        """What operators have said, whatever has become of the rows."""

    @property
    def probed(self) -> list[Backend]:
        return [backend for backend in self.pool if backend.has_agent]

    @property
    def taken_over(self) -> list[Backend]:
        """Those that were configured, and that an agent has registered since."""
        departed = [backend for backend in self.pool if not backend.has_agent and backend.state is State.DEPARTED]
        return [backend for backend in departed if self.driver.candidate(backend) is not backend.registration]

    @precondition(lambda self: bool(self.taken_over))
    @rule(data=st.data())
    def confirm_what_was_configured(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(self.taken_over))
        self._answer(self.driver.probe(backend, self.driver.candidate(backend)), after_s=0.001, cpu=0)

    @rule(source=sources, port=ports, instance=instances, draining=st.booleans(), limit=session_limits)
    def register(self, source: Address, port: int, instance: int, draining: bool, limit: int | None) -> None:
        with suppress(Rejected):
            self.driver.register(source, service_port=port, instance=instance, draining=draining, max_connections=limit)

    @rule(limit=session_limits)
    def limit_each(self, limit: int | None) -> None:
        self.pool.limit_each(limit, self.driver.now)
        self.each = limit

    @rule(source=sources, port=ports, instance=instances)
    def unregister(self, source: Address, port: int, instance: int) -> None:
        with suppress(Rejected):
            self.driver.unregister(source, port=port, instance=instance)

    @precondition(lambda self: bool(self.probed))
    @rule(data=st.data(), candidate=st.booleans())
    def probe(self, data: st.DataObject, candidate: bool) -> None:
        backend = data.draw(st.sampled_from(self.probed))
        self.probes.append(self.driver.probe(backend, self.driver.candidate(backend) if candidate else None))

    @precondition(lambda self: bool(self.probed))
    @rule(data=st.data())
    def probe_and_answer(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(self.probed))
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

    @precondition(lambda self: bool(self.probed))
    @rule(data=st.data())
    def lose_three_in_a_row(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(self.probed))
        for _ in range(3):
            if backend.state is not State.FORGOTTEN:
                self.driver.lose(self.driver.probe(backend))

    @precondition(lambda self: bool(self.probed))
    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        backend = data.draw(st.sampled_from(self.probed))
        with suppress(Rejected):
            self.driver.recover(backend)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data(), connects=st.integers(1, 4))
    def fail_connects(self, data: st.DataObject, connects: int) -> None:
        self.driver.fail_connects(data.draw(st.sampled_from(list(self.pool))), connects)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data(), administration=st.sampled_from(list(Administration)))
    def administer(self, data: st.DataObject, administration: Administration) -> None:
        backend = data.draw(st.sampled_from(list(self.pool)))
        self._said((backend.address, backend.port), administration=administration)
        self.pool.administer(backend, administration, self.driver.now)

    @rule(key=keys, administration=st.sampled_from(list(Administration)))
    def administer_what_may_not_be_there(self, key: Address, administration: Administration) -> None:
        self._said(key, administration=administration)
        self.pool.overrides.administer(key, administration, self.driver.now)

    @rule(key=keys, weight=st.sampled_from([None, 1, 7, 65535]))
    def weigh(self, key: Address, weight: int | None) -> None:
        self._said(key, weight=weight)
        self.pool.overrides.weigh(key, weight, self.driver.now)

    @rule(key=keys, administration=st.sampled_from(list(Administration)), weight=st.sampled_from([None, 7]))
    def say_as_before_a_restart(self, key: Address, administration: Administration, weight: int | None) -> None:
        self.overrides[key] = Override(administration, weight)
        self.pool.overrides.put(key, self.overrides[key], self.driver.now)

    def _said(self, key: Address, **what: Any) -> None:
        self.overrides[key] = attrs.evolve(self.overrides.get(key, NO_OVERRIDE), **what)

    @rule(key=st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.9"]), st.just(80)), check=st.sampled_from(["a", "b"]))
    def configure(self, key: Address, check: str) -> None:
        self.pool.static.put(key, StaticTerms(50, check), self.driver.now)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(
        data=st.data(),
        failure=st.sampled_from(["", "", "Connection refused"]),
        times=st.sampled_from([1, 3]),
        rtt_ms=st.sampled_from([None, 0.5]),
    )
    def check_connects(self, data: st.DataObject, failure: str, times: int, rtt_ms: float | None) -> None:
        """Of one that may be an agent's by now."""
        backend = data.draw(st.sampled_from(list(self.pool)))
        for _ in range(times):
            self.driver.now += 2.0
            self.pool.static.checked(backend, self.driver.now, failure, rtt_ms=rtt_ms)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(
        data=st.data(),
        line=st.sampled_from(
            ["up", "down", "drain", "ready", "maint", "0%", "50%", "up ready 100%", "maxconn:1", "maxconn:0"]
        ),
    )
    def hear_agent_check(self, data: st.DataObject, line: str) -> None:
        self.pool.static.said(data.draw(st.sampled_from(list(self.pool))), read(line), self.driver.now)

    @precondition(lambda self: bool(len(self.pool)))
    @rule(data=st.data())
    def configure_no_more(self, data: st.DataObject) -> None:
        self.pool.static.remove(data.draw(st.sampled_from(list(self.pool))), "test", self.driver.now)

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
        ready = [each for each in ready if each.static is None or not each.static.stopped]
        up = [backend for backend in ready if backend.state in (State.UP, State.SUSPECT)]
        down = [backend for backend in ready if backend.state is State.DOWN]
        assert self.pool.panicking is (2 * len(up) < len(up) + len(down))
        others = [backend for backend in down if not backend.health.refusing] if self.pool.panicking else []
        usable = {*up, *others}
        full = {backend for backend in usable if backend.connections >= self.limit(backend)}
        assert usable == {backend for backend in self.pool if backend.usable}
        assert set(eligible) == usable - full == {backend for backend in self.pool if backend.eligible}
        assert self.pool.full == len(full)
        assert self.pool.limited == sum(self.limit(backend) < inf for backend in usable)
        assert [backend.slot for backend in eligible] == list(range(len(eligible)))
        assert all(backend.slot == -1 for backend in self.pool if not backend.eligible)

    def limit(self, backend: Backend) -> float:
        static = backend.static
        own = backend.registration.max_connections if static is None else static.max_connections
        return (self.each if own is None else own) or inf

    @invariant()
    def what_operators_say_holds(self) -> None:
        said = {key: word for key, word in self.overrides.items() if word != NO_OVERRIDE}
        assert {key: self.pool.overrides.of(key) for key in self.pool.overrides} == said
        for backend in self.pool:
            word = said.get((backend.address, backend.port), NO_OVERRIDE)
            assert backend.override == word
            assert backend.base_weight == (backend.registration.weight if word.weight is None else word.weight)
            if word.administration is not Administration.READY:
                assert (backend.usable, backend.standing) == (False, Standing.UNCOUNTED)
            static = backend.static
            if static is not None and backend.state is not State.DEPARTED and static.weight == 0:
                assert backend.draining is (static.mode != READY or word.weight is None)

    @invariant()
    def limits_hold(self) -> None:
        limited = [each for each in self.pool if each.has_agent or each.state is State.DEPARTED]
        registered = sum(backend.state is State.REGISTERED for backend in limited)
        departed = sum(backend.state is State.DEPARTED for backend in limited)
        assert self.pool._rows.admission.unconfirmed == registered <= UNCONFIRMED_MAX
        present = [backend.address for backend in limited if backend.state is not State.DEPARTED]
        assert dict(self.pool._rows.admission._on_host) == Counter(present)
        assert self.pool._rows.admission.confirmed == len(limited) - registered - departed <= BACKENDS_MAX

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
    def what_is_configured_has_no_agent(self) -> None:
        for backend in self.pool:
            if not backend.has_agent:
                assert backend.registration.agent[1] == 0
                assert backend.report.cpu is None
                if backend.state is not State.DEPARTED:
                    assert not backend.awaited

    @invariant()
    def the_usual_is_that_of_those_that_are_up(self) -> None:
        told = [backend.report for backend in self.pool if backend.is_up and backend.has_agent]
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
