"""Adds and removes back-ends: REGISTER, UNREGISTER, and rows of an earlier run (rules 1, 2 and 4 of the protocol)."""

from __future__ import annotations

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.candidates import Candidates
from rproxy.pool.events import NOTHING, Events, Registered
from rproxy.pool.probes import Probes
from rproxy.pool.rows import Rows
from rproxy.pool.states import Event, State
from rproxy.wire.pdu import Register, Unregister


@attrs.define(eq=False)
class Registrations:
    """Adds and removes rows. `default_port` replaces service port 0."""

    default_port: int
    _rows: Rows
    _candidates: Candidates
    _probes: Probes

    def key(self, source: Address, service_port: int) -> Address:
        """The back-end that a datagram is about: its source's host, and the service port it names."""
        return source[0], service_port or self.default_port

    def register(self, source: Address, pdu: Register, now: float, local: str) -> Registered:
        """Process a REGISTER, see `Pool.register`."""
        key = self.key(source, pdu.service_port)
        registration = Registration(
            source, pdu.instance, pdu.interval_ms / 1000, pdu.weight, local, pdu.max_connections
        )
        backend = self._rows.get(key)
        if backend is not None and _is_static(backend):
            raise Rejected(Refusal.STATIC)
        if (key, pdu.instance) in self._probes.retired:
            raise Rejected(Refusal.RETIRED)
        same_agent = backend is None or registration.same_agent(backend.registration)
        if backend is not None and same_agent and backend.is_up:
            return self._renew(backend, registration, now, pdu.draining)
        admission = self._rows.admission
        if backend is None:
            admission.demand_capacity(source[0])
        may_wait = self._candidates.admits(backend, key[1], registration, now)
        if not may_wait and not same_agent:
            raise Rejected(Refusal.RATE_LIMITED)
        admission.demand_rate(registration, key[1], now)
        changed = backend is None or (same_agent and registration != backend.registration)
        if backend is None:
            backend = self._rows.add(key, registration)
        if same_agent:
            backend.registration, backend.registered_at = registration, now
        if may_wait:
            self._candidates.add(backend, registration)
        return Registered(backend, changed, probe_now=False)

    def _renew(self, backend: Backend, registration: Registration, now: float, draining: bool) -> Registered:
        """Renew the registration of a back-end that is up.

        One that drains is probed at once: its agent may wait to hear how many sessions are left.
        """
        changed, probe_now = registration != backend.registration, draining or backend.draining
        if changed or probe_now:
            self._rows.admission.demand_rate(registration, backend.port, now)
        if changed:
            backend.registration = registration
        backend.registered_at = now
        return Registered(backend, changed, probe_now)

    def restore(self, registration: Registration, port: int) -> Backend | None:
        """The row of an earlier run, see `Pool.restore`."""
        key = (registration.agent[0], port)
        backend = self._rows.get(key)
        if backend is None and len(self._rows) < self._rows.admission.limits.confirmed:
            return self._rows.add(key, registration)
        if backend is None or backend.state is not State.REGISTERED or _is_static(backend):
            return None
        return backend

    def unregister(self, source: Address, pdu: Unregister, now: float) -> Events:
        """Process an UNREGISTER, see `Pool.unregister`."""
        key = self.key(source, pdu.service_port)
        backend = self._rows.get(key)
        if backend is None or backend.state is State.DEPARTED:
            raise Rejected(Refusal.UNKNOWN)
        if _is_static(backend):
            raise Rejected(Refusal.STATIC)
        unconfirmed = backend.state is State.REGISTERED
        instances = self._awaited(backend) if unconfirmed else {backend.registration.instance}
        if (key, pdu.instance) in self._probes.retired:
            raise Rejected(Refusal.RETIRED)
        if pdu.instance not in instances:
            raise Rejected(Refusal.WRONG_INSTANCE)
        self._probes.retire(key, pdu.instance)
        self._candidates.drop(backend, pdu.instance)
        if unconfirmed and len(instances) > 1:
            return NOTHING
        return self._rows.transition(backend, Event.UNREGISTERED, now, "unregistered")

    def _awaited(self, backend: Backend) -> set[int]:
        """The instances of an unconfirmed back-end that may still confirm it."""
        instances = self._probes.instances(backend) | self._candidates.instances(backend)
        return instances or {backend.registration.instance}

    def exclude(self, backend: Backend, reason: str, now: float) -> Events:
        """Remove a back-end with its candidates, see `Pool.exclude`."""
        self._candidates.drop(backend)
        if backend.state is State.DEPARTED:
            self._probes.forget(backend)
            return NOTHING
        return self._rows.transition(backend, Event.UNREGISTERED, now, reason)


def _is_static(backend: Backend) -> bool:
    """Whether the configuration names it, so that no agent can."""
    return not backend.has_agent and backend.state is not State.DEPARTED
