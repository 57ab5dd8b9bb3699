"""The table of back-ends, and the rules by which datagrams and silence change it.

Every method takes the time as a number of seconds from any monotonic origin. What changed a back-end's state comes
back as a `Transition`; what may not count raises `Rejected` and changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import attrs

from rproxy.pool.admission import Admission, Refusal, Rejected
from rproxy.pool.backend import FORGET_INTERVALS, Address, Backend, Registration, Report
from rproxy.pool.estimators import LossWindow
from rproxy.pool.limits import Limits, trim
from rproxy.pool.seats import Seats
from rproxy.pool.states import Administration, Event, State, after
from rproxy.wire.pdu import UINT32_MAX, ProbeRequest, ProbeResponse, Register, Unregister

FALL: Final = 3
"""Probes lost in a row that take a back-end down."""
RISE: Final = 2
"""Probes answered in a row that bring it up again."""
REFUSALS: Final = 3
"""Connects failed in a row that take a back-end down."""
HOLD_MIN_S: Final = 10.0
HOLD_MAX_S: Final = 300.0
"""How long a back-end stays down at least: twice as long each time, until it has been up for this long."""
SLOW_START_S: Final = 10.0
OUTSTANDING_MAX: Final = 8
"""Probes of one back-end on their way, beyond which registrations earn none."""
RETIRED_MAX: Final = 4096
FORGET_MAX_S: Final = 3600.0
STALE_INTERVALS: Final = 10
"""Registration intervals after which even one that is up is no back-end any more: whoever answers is another."""


@attrs.frozen
class Transition:
    """A back-end went from one state to another."""

    backend: Backend
    before: State
    after: State
    reason: str


@attrs.frozen
class Registered:
    """A REGISTER that counts. `unproven` is the registration that a probe is to confirm, None if there is none."""

    backend: Backend
    unproven: Registration | None


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
    turned: bool
    """Whether it drains, and has not before, or the other way round."""
    transition: Transition | None


@attrs.define(eq=False)
class Table:
    """All back-ends by (address, service port).

    `default_port` stands in for service port 0; `timeout_s` is how long a probe may be answered; a back-end that
    comes up has its whole share after `slow_start_s`; while the share of the pool that is up is below `panic_below`,
    the others are used, too.
    """

    default_port: int = 80
    timeout_s: float = 0.5
    limits: Limits = Limits()
    slow_start_s: float = SLOW_START_S
    panic_below: float = 0.5
    _seats: Seats = attrs.field(init=False)
    _backends: dict[Address, Backend] = attrs.field(init=False, factory=dict)
    _probes: dict[int, Probe] = attrs.field(init=False, factory=dict)
    _ended: OrderedDict[int, Refusal] = attrs.field(init=False, factory=OrderedDict)
    _retired: OrderedDict[tuple[Address, int], None] = attrs.field(init=False, factory=OrderedDict)
    _connects: int = attrs.field(init=False, default=0)
    """That succeeded, to any back-end."""
    _admission: Admission = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._seats = Seats(self.panic_below)
        self._admission = Admission(self.limits)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends.values())

    def __len__(self) -> int:
        return len(self._backends)

    @property
    def eligible(self) -> list[Backend]:
        """The back-ends that may get a client, in no order."""
        return self._seats.eligible

    @property
    def panicking(self) -> bool:
        """Whether what is down gets clients as well."""
        return self._seats.panicking

    def when_eligible(self, call: Callable[[], None]) -> None:
        """Call `call` whenever a back-end has become eligible. The table may be in the middle of a change then."""
        self._seats.seated = call

    def get(self, address: str, port: int) -> Backend | None:
        return self._backends.get((address, port))

    def register(self, source: Address, pdu: Register, now: float) -> Registered:
        """Take in a REGISTER: a new back-end, news of a known one, or a candidate to replace its agent.

        What it says of draining is left to the answer of the probe that it earns.
        """
        key = (source[0], pdu.service_port or self.default_port)
        registration = Registration(source, pdu.instance, pdu.interval_ms / 1000, pdu.weight)
        backend = self._backends.get(key)
        if (key, pdu.instance) in self._retired or (backend is not None and backend.has_replaced(registration, now)):
            raise Rejected(Refusal.RETIRED)
        known = backend is not None and backend.is_up
        if backend is not None and known and registration == backend.registration and pdu.draining is backend.draining:
            backend.heard_at = backend.registered_at = now
            return Registered(backend, None)
        if backend is None:
            self._admission.demand_room(source[0], len(self))
        self._admission.demand_turn(source, now)
        if backend is None:
            backend = self._backends[key] = Backend(*key, registration)
            self._admission.added(backend.address)
        elif backend.state is State.REGISTERED or backend.registration.same_agent(registration):
            backend.registration = registration
        else:
            backend.candidate = registration
            return Registered(backend, registration)
        backend.heard_at = backend.registered_at = now
        return Registered(backend, None if backend.is_up and pdu.draining is backend.draining else registration)

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
        return not any(self._probes[token].registration.same_agent(registration) for token in backend.outstanding)

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
        if not backend.knows(probe.registration):
            raise Rejected(Refusal.UNKNOWN)
        if backend.state is State.REGISTERED:
            self._admission.demand_place(len(self))
        self._end(probe, Refusal.DUPLICATE)
        restarted = self._adopt(backend, probe.registration, now)
        backend.heard_at = backend.answered_at = now
        backend.misses = 0
        backend.answers += 1
        turned = backend.draining is not pdu.draining
        backend.draining, backend.leaving = pdu.draining, False
        backend.report = Report(pdu.cpu, pdu.memory, pdu.load, pdu.tcp, probe.counted)
        sample_ms = (now - probe.sent_at) * 1000
        backend.rtt.add(sample_ms)
        risen = backend.state is State.DOWN and backend.answers >= RISE and now >= backend.held_until
        if risen:
            backend.losses = LossWindow()  # an outage's are not held against what comes after it
        backend.losses.add(lost=False)
        reason = f"answered {RISE} probes in a row" if risen else "answered a probe"
        transition = self._happen(backend, Event.RISEN if risen else Event.ANSWERED, now, reason)
        return Confirmed(backend, sample_ms, restarted, turned, transition)

    def _adopt(self, backend: Backend, registration: Registration, now: float) -> bool:
        """A confirmed candidate is the agent from now on."""
        restarted = backend.state is not State.REGISTERED and registration.instance != backend.registration.instance
        if restarted:
            backend.former.append(backend.registration.instance)
            with suppress(ValueError):
                backend.former.remove(registration.instance)
        if not registration.same_agent(backend.registration):
            backend.registration = registration
            backend.candidate = None
            backend.registered_at = now
        return restarted

    def lost(self, token: int, now: float) -> Transition | None:
        """The timeout of a probe has passed. Counts its loss, once; unknown tokens change nothing."""
        probe = self._probes.get(token)
        if probe is None:
            return None
        self._end(probe, Refusal.LATE)
        backend = probe.backend
        if not probe.registration.same_agent(backend.registration):
            if backend.candidate is not None and probe.registration.same_agent(backend.candidate):
                backend.candidate = None
            return None
        backend.losses.add(lost=True)
        backend.misses += 1
        backend.answers = 0
        if backend.refusing and now >= backend.held_until:
            backend.refusing = False
        if backend.state is State.REGISTERED:
            return self._happen(backend, Event.MISSED, now, "did not answer its probe")
        if backend.leaving:
            return self._happen(backend, Event.UNREGISTERED, now, "unregistered, and answers no more")
        fallen = backend.state is State.SUSPECT and backend.misses >= FALL
        return self._happen(backend, Event.FALLEN if fallen else Event.MISSED, now, f"{backend.misses} in a row lost")

    def annul(self, token: int) -> None:
        """The timeout of a probe has passed, but this host had no time to take in its answer: it says nothing."""
        probe = self._probes.get(token)
        if probe is not None:
            self._end(probe, Refusal.LATE)

    def check(
        self, backend: Backend, liveness_s: float, lasted_s: Callable[[float], float], now: float
    ) -> Transition | None:
        """The liveness check: silence takes a back-end down, and removes it if it lasts.

        `lasted_s` tells how long this process has been there to hear anything since a moment.
        """
        if backend.state is State.FORGOTTEN:
            return None
        if backend.state is State.REGISTERED:
            return self._happen(backend, Event.SILENT, now, "never answered a probe")
        if not backend.is_up:
            patience_s = min(backend.intervals_s(FORGET_INTERVALS), FORGET_MAX_S)
            return self._expire(backend, backend.heard_at, patience_s, lasted_s, now)
        assert backend.answered_at is not None
        if now - backend.answered_at > liveness_s and (silent_s := lasted_s(backend.answered_at)) > liveness_s:
            return self._happen(backend, Event.SILENT, now, f"silent for {silent_s:.1f} s")
        # an agent that was started again for another service answers, but does not register this one any more
        patience_s = backend.intervals_s(STALE_INTERVALS)
        return self._expire(backend, backend.registered_at, patience_s, lasted_s, now)

    def _expire(
        self, backend: Backend, since: float, patience_s: float, lasted_s: Callable[[float], float], now: float
    ) -> Transition | None:
        if now - since < patience_s or (silent_s := lasted_s(since)) < patience_s:
            return None
        what = "not registered again" if backend.is_up else "nothing heard"
        return self._happen(backend, Event.EXPIRED, now, f"{what} for {silent_s:.0f} s")

    def unregister(self, source: Address, pdu: Unregister, now: float) -> tuple[Backend, Transition | None]:
        """Take in an UNREGISTER: the back-end goes, and its instance may not register again (rule 4).

        One that took over from another instance is only put aside, without a transition, until a probe is answered or
        lost: an answer does not say whose it is, so the agent may have confirmed an old REGISTER that was replayed.
        If it is lost, that was the end.
        """
        key = (source[0], pdu.service_port or self.default_port)
        backend = self._backends.get(key)
        if backend is None:
            raise Rejected(Refusal.UNKNOWN)
        if pdu.instance != backend.registration.instance:
            raise Rejected(Refusal.WRONG_INSTANCE)
        if (key, pdu.instance) in self._retired:
            raise Rejected(Refusal.RETIRED)
        self._retired[key, pdu.instance] = None
        trim(self._retired, RETIRED_MAX)
        if not backend.former:
            return backend, self._happen(backend, Event.UNREGISTERED, now, "unregistered")
        backend.former.clear()
        backend.leaving = True
        self._settle(backend)
        return backend, None

    def administer(self, backend: Backend, administration: Administration) -> None:
        """An operator's word; it holds as long as the back-end is in the table."""
        backend.administration = administration
        self._settle(backend)

    def ramp(self, backend: Backend, now: float) -> bool:
        """Bring a back-end's share to what it may be by now, in tenths. Whether it is still to grow.

        Tenths, so that back-ends that start together have equal shares and take turns.
        """
        lasted_s = now - backend.up_since
        tenths = round(10 * lasted_s / self.slow_start_s) if lasted_s < self.slow_start_s else 10
        backend.share = max(tenths, 1) / 10
        return tenths < 10

    def opened(self, backend: Backend) -> None:
        """One of our sessions starts to connect."""
        backend.pending += 1

    def connected(self, backend: Backend) -> None:
        self._connects += 1
        backend.pending -= 1
        backend.established += 1
        backend.total += 1

    def served(self, backend: Backend) -> None:
        """A session on it got a byte, or outlived the time in which its end would have been a failed connect."""
        if backend.refusals:
            backend.refusals = 0
            backend.refusing = False
            self._settle(backend)

    def refused(self, backend: Backend, now: float) -> Transition | None:
        """A connect failed, and not by this host's fault.

        One that went down by that has its next chance when its hold-down is over, and then a single failure will do.
        """
        backend.refusals += 1
        if backend.refusals < REFUSALS or backend.state in (State.REGISTERED, State.FORGOTTEN) or backend.refusing:
            return None
        backend.refusing = True
        if backend.state is State.DOWN:
            self._hold(backend, now)
        return self._happen(backend, Event.REFUSED, now, f"{backend.refusals} connects in a row failed")

    def mute(self, backend: Backend, sessions: int, silent_s: float, now: float) -> Transition | None:
        """None of its new sessions got a byte for so long, and those of others did: as if connects had failed."""
        if backend.refusing or not backend.is_up:
            return None
        backend.refusing = True
        return self._happen(backend, Event.REFUSED, now, f"{sessions} new sessions got no byte for {silent_s:.0f} s")

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
        trim(self._ended, 4 * len(self) + 64)

    def _happen(self, backend: Backend, event: Event, now: float, reason: str) -> Transition | None:
        """Move a back-end as the transition table says, with all that goes with it."""
        before = backend.state
        backend.state = after(before, event)
        if backend.state is before:
            self._settle(backend)
            return None
        if before is State.REGISTERED:
            self._admission.decided()
        if backend.state is State.FORGOTTEN:
            self._remove(backend)
        elif backend.state is State.DOWN:
            self._hold(backend, now)
        elif before is not State.SUSPECT and backend.state is State.UP:
            backend.refusing = False
            backend.up_since = now
            self.ramp(backend, now)
        self._settle(backend)
        return Transition(backend, before, backend.state, reason)

    def _hold(self, backend: Backend, now: float) -> None:
        """It fails: the hold-down is twice the last one, unless that is long past.

        It stays as it is where connects fail and none has succeeded since, to whomever: then that is not its own fault.
        """
        steady = now - max(backend.up_since, backend.held_until) >= HOLD_MAX_S
        if steady or not backend.hold_s:
            backend.hold_s = HOLD_MIN_S
        elif not backend.refusing or self._connects > backend.connects_then:
            backend.hold_s = min(2 * backend.hold_s, HOLD_MAX_S)
        backend.connects_then = self._connects
        backend.held_until = now + backend.hold_s
        backend.answers = 0

    def _remove(self, backend: Backend) -> None:
        del self._backends[backend.address, backend.port]
        self._admission.removed(backend.address)
        for token in backend.outstanding:
            del self._probes[token]
        backend.outstanding.clear()

    def _settle(self, backend: Backend) -> None:
        self._seats.settle(backend, self._backends.values())
