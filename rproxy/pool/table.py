"""The table of back-ends, and the rules by which datagrams and silence change it.

Every method takes the time as a number of seconds from any monotonic origin. What changed a back-end's state comes
back as a `Transition`; what may not count raises `Rejected` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

import attrs

from rproxy.pool.backend import Address, Backend, Registration, Report, State
from rproxy.pool.estimators import LossWindow
from rproxy.wire.pdu import UINT32_MAX, ProbeRequest, ProbeResponse, Register, Unregister

FALL: Final = 3
"""Probes lost in a row that take a back-end down."""
UNCONFIRMED_MAX: Final = 256
BACKENDS_MAX: Final = 1024
OUTSTANDING_MAX: Final = 8
"""Probes of one back-end on their way, beyond which registrations earn none."""
RETIRED_MAX: Final = 4096
FORGET_INTERVALS: Final = 3
FORGET_MIN_S: Final = 60.0
FORGET_MAX_S: Final = 3600.0


class Refusal(StrEnum):
    """Why a well-formed PDU changes nothing; each is a counter's name."""

    LATE = "late"
    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"
    WRONG_SOURCE = "wrong-source"
    WRONG_INSTANCE = "wrong-instance"
    RETIRED = "retired-instance"
    TABLE_FULL = "table-full"
    NOT_ALLOWED = "not-allowed"
    UNEXPECTED_PROBE_REQUEST = "unexpected-probe-request"


class Rejected(Exception):
    """A well-formed PDU that does not count."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@attrs.frozen
class Transition:
    """A back-end went from one state to another. `before` is None for a new one."""

    backend: Backend
    before: State | None
    after: State
    reason: str


@attrs.frozen
class Probe:
    """A request sent and not yet confirmed."""

    backend: Backend
    request: ProbeRequest
    registration: Registration
    sent_at: float
    counted: int


@attrs.frozen
class Confirmed:
    """What one valid response told."""

    backend: Backend
    sample_ms: float
    restarted: bool
    """Whether the agent is another instance than the one that answered before."""
    transition: Transition | None


@attrs.define(eq=False)
class Table:
    """All back-ends by (address, service port).

    `default_port` stands in for service port 0; `timeout_s` is how long a probe may be answered.
    """

    default_port: int = 80
    timeout_s: float = 0.5
    unconfirmed_max: int = UNCONFIRMED_MAX
    backends_max: int = BACKENDS_MAX
    eligible: list[Backend] = attrs.field(init=False, factory=list)
    """The back-ends that may get a client, in no order."""
    _backends: dict[Address, Backend] = attrs.field(init=False, factory=dict)
    _unconfirmed: int = attrs.field(init=False, default=0)
    _probes: dict[int, Probe] = attrs.field(init=False, factory=dict)
    _ended: dict[int, Refusal] = attrs.field(init=False, factory=dict)
    _retired: dict[tuple[Address, int], None] = attrs.field(init=False, factory=dict)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends.values())

    def __len__(self) -> int:
        return len(self._backends)

    def get(self, address: str, port: int) -> Backend | None:
        return self._backends.get((address, port))

    def register(self, source: Address, pdu: Register, now: float) -> Backend:
        """Take in a REGISTER: a new back-end, news of a known one, or a candidate to replace its agent."""
        key = (source[0], pdu.service_port or self.default_port)
        if (key, pdu.instance) in self._retired:
            raise Rejected(Refusal.RETIRED)
        registration = Registration(source, pdu.instance, pdu.interval_ms / 1000, pdu.weight)
        backend = self._backends.get(key)
        if backend is None:
            backend = self._add(key, registration)
        elif backend.state is State.REGISTERED or _same_agent(backend.registration, registration):
            backend.registration = registration
        else:
            backend.candidate = registration
            return backend
        backend.heard_at = now
        backend.draining = pdu.draining
        self._settle(backend)
        return backend

    def _add(self, key: Address, registration: Registration) -> Backend:
        if self._unconfirmed >= self.unconfirmed_max or len(self) >= self.backends_max + self.unconfirmed_max:
            raise Rejected(Refusal.TABLE_FULL)
        backend = self._backends[key] = Backend(*key, registration)
        self._unconfirmed += 1
        return backend

    def probe(self, backend: Backend, registration: Registration, token: int, now: float) -> Probe:
        """Note a probe of `registration`'s agent as outstanding. `token` must be unpredictable and unused."""
        request = ProbeRequest(backend.next_sequence, token)
        backend.next_sequence = (backend.next_sequence + 1) & UINT32_MAX
        probe = Probe(backend, request, registration, now, backend.established)
        self._probes[token] = probe
        backend.outstanding.add(token)
        return probe

    def may_probe(self, backend: Backend, registration: Registration) -> bool:
        """Whether a REGISTER may earn a probe now: not while one is on its way, and few are in all."""
        if len(backend.outstanding) >= OUTSTANDING_MAX:
            return False
        return not any(_same_agent(self._probes[token].registration, registration) for token in backend.outstanding)

    def respond(self, source: Address, pdu: ProbeResponse, now: float) -> Confirmed:
        """Take in a PROBE RESPONSE. Counts once, from the probed agent, within the timeout (rule 3)."""
        probe = self._probes.get(pdu.token)
        if probe is None or probe.request.sequence != pdu.sequence:
            raise Rejected(self._ended.get(pdu.token, Refusal.UNKNOWN))
        if probe.registration.agent != source:
            raise Rejected(Refusal.WRONG_SOURCE)
        if now - probe.sent_at > self.timeout_s:
            raise Rejected(Refusal.LATE)
        backend = probe.backend
        if not _concerns(backend, probe.registration):
            raise Rejected(Refusal.UNKNOWN)
        if backend.state is State.REGISTERED and len(self) - self._unconfirmed >= self.backends_max:
            raise Rejected(Refusal.TABLE_FULL)
        self._end(probe, Refusal.DUPLICATE)
        restarted = self._adopt(backend, probe.registration)
        backend.heard_at = backend.answered_at = now
        backend.misses = 0
        backend.draining = pdu.draining
        backend.report = Report(pdu.cpu, pdu.memory, pdu.load, pdu.tcp, probe.counted)
        sample_ms = (now - probe.sent_at) * 1000
        backend.rtt.add(sample_ms)
        backend.losses.add(lost=False)
        transition = self._move(backend, State.UP, "answered a probe")
        self._settle(backend)
        return Confirmed(backend, sample_ms, restarted, transition)

    def _adopt(self, backend: Backend, registration: Registration) -> bool:
        """A confirmed candidate is the agent from now on; an outage's losses are not held against its successor."""
        restarted = backend.state is not State.REGISTERED and registration.instance != backend.registration.instance
        if not _same_agent(registration, backend.registration):
            backend.registration = registration
            backend.candidate = None
        if backend.state is State.DOWN:
            backend.losses = LossWindow()
        return restarted

    def lost(self, token: int) -> Transition | None:
        """The timeout of a probe has passed. Counts its loss, once; unknown tokens change nothing."""
        probe = self._probes.get(token)
        if probe is None:
            return None
        self._end(probe, Refusal.LATE)
        backend = probe.backend
        if not _same_agent(probe.registration, backend.registration):
            if backend.candidate is not None and _same_agent(probe.registration, backend.candidate):
                backend.candidate = None
            return None
        backend.losses.add(lost=True)
        backend.misses += 1
        if backend.state is State.UP and backend.misses >= FALL:
            return self._move(backend, State.DOWN, f"{FALL} probes in a row lost")
        return None

    def check(self, backend: Backend, since: float, now: float) -> Transition | None:
        """The liveness check: nothing valid since `since` takes a back-end down, and lasting silence removes it."""
        if backend.state is State.FORGOTTEN:
            return None
        if backend.state is State.UP:
            if backend.answered_at is not None and backend.answered_at >= since:
                return None
            return self._move(backend, State.DOWN, f"silent for {now - (backend.answered_at or since):.1f} s")
        if backend.state is State.REGISTERED:
            return self._forget(backend, "never answered a probe")
        patience = min(max(FORGET_INTERVALS * backend.registration.interval_s, FORGET_MIN_S), FORGET_MAX_S)
        if now - backend.heard_at >= patience:
            return self._forget(backend, f"nothing heard for {now - backend.heard_at:.0f} s")
        return None

    def unregister(self, source: Address, pdu: Unregister) -> Transition:
        """Take in an UNREGISTER: the back-end goes, and its instance may not register again (rule 4)."""
        key = (source[0], pdu.service_port or self.default_port)
        backend = self._backends.get(key)
        if backend is None:
            raise Rejected(Refusal.UNKNOWN)
        if backend.registration.instance != pdu.instance:
            raise Rejected(Refusal.WRONG_INSTANCE)
        self._retired[key, pdu.instance] = None
        _trim(self._retired, RETIRED_MAX)
        return self._forget(backend, "unregistered")

    def opened(self, backend: Backend) -> None:
        """One of our sessions starts to connect."""
        backend.pending += 1

    def connected(self, backend: Backend) -> None:
        backend.pending -= 1
        backend.established += 1
        backend.total += 1

    def closed(self, backend: Backend, *, was_connected: bool) -> None:
        """A session that was `opened` is over."""
        if was_connected:
            backend.established -= 1
        else:
            backend.pending -= 1

    def _end(self, probe: Probe, afterwards: Refusal) -> None:
        token = probe.request.token
        del self._probes[token]
        probe.backend.outstanding.discard(token)
        self._ended[token] = afterwards
        _trim(self._ended, 4 * len(self) + 64)

    def _forget(self, backend: Backend, reason: str) -> Transition:
        del self._backends[backend.address, backend.port]
        for token in backend.outstanding:
            del self._probes[token]
        backend.outstanding.clear()
        transition = self._move(backend, State.FORGOTTEN, reason)
        assert transition is not None
        return transition

    def _move(self, backend: Backend, after: State, reason: str) -> Transition | None:
        before = backend.state
        if before is after:
            return None
        if before is State.REGISTERED:
            self._unconfirmed -= 1
        backend.state = after
        self._settle(backend)
        return Transition(backend, before, after, reason)

    def _settle(self, backend: Backend) -> None:
        """Bring `eligible` in line with the back-end: O(1), the last one fills a gap."""
        if backend.eligible:
            if backend.slot < 0:
                backend.slot = len(self.eligible)
                self.eligible.append(backend)
        elif backend.slot >= 0:
            last = self.eligible.pop()
            if last is not backend:
                self.eligible[backend.slot] = last
                last.slot = backend.slot
            backend.slot = -1


def _concerns(backend: Backend, registration: Registration) -> bool:
    """Whether a probe of `registration` is one of the present agent, or of the candidate to replace it."""
    if _same_agent(registration, backend.registration):
        return True
    return backend.candidate is not None and _same_agent(registration, backend.candidate)


def _same_agent(one: Registration, other: Registration) -> bool:
    return one.agent == other.agent and one.instance == other.instance


def _trim(table: dict[Any, Any], size: int) -> None:
    """Drop the oldest entries beyond `size`."""
    while len(table) > size:
        del table[next(iter(table))]
