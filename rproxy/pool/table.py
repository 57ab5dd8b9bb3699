"""The table of back-ends, and the rules by which datagrams and silence change it.

Every method takes the time as a number of seconds from any monotonic origin. What changed a back-end's state comes
back as a `Transition`; what may not count raises `Rejected` and changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.admission import Admission, Refusal, Rejected
from rproxy.pool.backend import Backend, Registration, Report
from rproxy.pool.eligibility import Eligibility
from rproxy.pool.estimators import LossWindow
from rproxy.pool.events import Confirmed, Probe, Registered, Transition
from rproxy.pool.health import FALL, REFUSALS, RISE, begin_anew, hold_down, overdue, share_after
from rproxy.pool.limits import Limits
from rproxy.pool.means import UNKNOWN, PoolMeans
from rproxy.pool.outstanding import Outstanding
from rproxy.pool.states import Administration, Event, State, after
from rproxy.pool.unconfirmed import Unconfirmed
from rproxy.timing.rate_limit import trim
from rproxy.wire.pdu import UINT32_MAX, ProbeRequest, ProbeResponse, Register, Unregister, tag_of

SLOW_START_S: Final = 10.0
PROMPT_S: Final = 0.25
"""An answer within this time has met with no absence of this process."""
RETIRED_MAX: Final = 4096


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
    _eligibility: Eligibility = attrs.field(init=False)
    _backends: dict[Address, Backend] = attrs.field(init=False, factory=dict)
    _outstanding: Outstanding = attrs.field(init=False, factory=Outstanding)
    _retired: OrderedDict[tuple[Address, int], None] = attrs.field(init=False, factory=OrderedDict)
    unconfirmed: Unconfirmed = attrs.field(init=False, factory=Unconfirmed)
    _means: PoolMeans = attrs.field(init=False, factory=PoolMeans)
    _connects: int = attrs.field(init=False, default=0)
    """That succeeded, to any back-end."""
    _admission: Admission = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._eligibility = Eligibility(self.panic_below)
        self._admission = Admission(self.limits)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends.values())

    def __len__(self) -> int:
        return len(self._backends)

    @property
    def eligible(self) -> list[Backend]:
        """The back-ends that may get a client, in no order."""
        return self._eligibility.eligible

    @property
    def panicking(self) -> bool:
        """Whether what is down gets clients as well."""
        return self._eligibility.panicking

    def when_eligible(self, call: Callable[[], None]) -> None:
        """Call `call` whenever a back-end has become eligible. The table may be in the middle of a change then."""
        self._eligibility.seated = call

    def get(self, address: str, port: int) -> Backend | None:
        return self._backends.get((address, port))

    def register(self, source: Address, pdu: Register, now: float, local: str = "") -> Registered:
        """Take in a REGISTER: news of an agent that is up; any other waits for the probe that is to confirm it.

        `local` is the address of ours that it was sent to, empty where that is not known. What it says of draining is
        left to the answer of the probe that it earns.
        """
        key = (source[0], pdu.service_port or self.default_port)
        registration = Registration(source, pdu.instance, pdu.interval_ms / 1000, pdu.weight, local)
        backend = self._backends.get(key)
        if (key, pdu.instance) in self._retired:
            raise Rejected(Refusal.RETIRED)
        own = backend is None or registration.same_agent(backend.registration)
        if backend is not None and own and backend.is_up:
            return self._renew(backend, registration, pdu.draining, now)
        if backend is None:
            self._admission.demand_room(source[0])
        may_wait = self.unconfirmed.admits(backend, key[1], registration, now)
        if not may_wait and not own:
            raise Rejected(Refusal.RATE_LIMITED)
        self._admission.demand_turn(registration, key[1], now)
        news = backend is None or (own and registration != backend.registration)
        if backend is None:
            backend = self._add(key, registration)
        if own:
            backend.registration, backend.registered_at = registration, now
        if may_wait:
            self.unconfirmed.add(backend, registration)
        return Registered(backend, news, asks=False)

    def _renew(self, backend: Backend, registration: Registration, draining: bool, now: float) -> Registered:
        news, asks = registration != backend.registration, draining is not backend.draining
        if news or asks:
            self._admission.demand_turn(registration, backend.port, now)
        backend.registration, backend.registered_at = registration, now
        return Registered(backend, news, asks)

    def _add(self, key: Address, registration: Registration) -> Backend:
        """A row that nothing has confirmed yet."""
        backend = self._backends[key] = Backend(*key, registration, means=self._means)
        self._admission.moved(backend.address, None, backend.state)
        return backend

    def restore(self, registration: Registration, port: int) -> Backend | None:
        """The row of what was up in an earlier life of this proxy: service `port` of that agent's host. It gets no
        client before its agent has answered a probe, so that it may be one that somebody has registered meanwhile.
        None if an agent has answered already, or no place is left.
        """
        key = (registration.agent[0], port)
        backend = self._backends.get(key)
        if backend is None and len(self) < self.limits.confirmed:
            return self._add(key, registration)
        return backend if backend is not None and backend.state is State.REGISTERED else None

    def probe(self, backend: Backend, registration: Registration, token: int, now: float) -> Probe:
        """Note a probe of `registration`'s agent as outstanding. `token` must be unpredictable and unused.

        It bears that instance's tag, so that no other one answers it.
        """
        request = ProbeRequest(backend.next_sequence, token, instance_tag=tag_of(registration.instance))
        backend.next_sequence = (backend.next_sequence + 1) & UINT32_MAX
        probe = Probe(backend, request, registration, now, backend.established)
        self._outstanding.add(probe)
        return probe

    def may_probe(self, backend: Backend, registration: Registration) -> bool:
        """Whether a REGISTER may earn a probe now: not while one is on its way, and few are in all."""
        return self._outstanding.admits(backend, registration)

    def asks(self, backend: Backend, registration: Registration) -> bool:
        """Whether a probe of its agent is on its way."""
        return self._outstanding.asks(backend, registration)

    def respond(
        self, source: Address, pdu: ProbeResponse, now: float, lasted_s: Callable[[float], float] | None = None
    ) -> Confirmed:
        """Take in a PROBE RESPONSE. Counts once, from the probed agent, within the timeout (rule 3).

        `lasted_s` tells how long this process has been there to see an answer since a moment; all the time if None.
        """
        probe = self._outstanding.open.get(pdu.token)
        if probe is None or probe.request.sequence != pdu.sequence:
            raise Rejected(self._outstanding.ended.get(pdu.token, Refusal.UNKNOWN))
        registration, backend = probe.registration, probe.backend
        if registration.agent != source:
            raise Rejected(Refusal.WRONG_SOURCE)
        waited_s = now - probe.sent_at
        if waited_s > PROMPT_S and lasted_s is not None:
            waited_s = lasted_s(probe.sent_at)
        if waited_s > self.timeout_s:
            raise Rejected(Refusal.LATE)
        if ((backend.address, backend.port), registration.instance) in self._retired:
            raise Rejected(Refusal.RETIRED)
        if backend.state is State.REGISTERED or backend.state is State.DEPARTED:
            self._admission.demand_place(backend)
        self._end(probe, Refusal.DUPLICATE)
        restarted = self._adopt(probe, now)
        backend.answered_at = now
        backend.misses = 0
        backend.answers += 1
        turned = backend.draining is not pdu.draining
        backend.draining = pdu.draining
        backend.report = Report(pdu.cpu, pdu.memory, pdu.load, pdu.tcp, probe.counted)
        sample_ms = waited_s * 1000
        backend.rtt.add(sample_ms)
        risen = backend.state is State.DOWN and backend.answers >= RISE and now >= backend.held_until
        if risen:
            backend.losses = LossWindow()  # an outage's are not held against what comes after it
        backend.losses.add(lost=False)
        reason = f"answered {RISE} probes in a row" if risen else "answered a probe"
        transition = self._happen(backend, Event.RISEN if risen else Event.ANSWERED, now, reason)
        return Confirmed(backend, sample_ms, restarted, turned, transition)

    def _adopt(self, probe: Probe, now: float) -> bool:
        """Who has answered is the agent from now on. Whether that is a new start of one that was there before."""
        backend, registration = probe.backend, probe.registration
        self.unconfirmed.answered(backend, registration)
        present = backend.registration
        if backend.answered_at is None:
            backend.registered_at = now
        if registration.same_agent(present):
            return False
        self._outstanding.supersede(probe, self._remembered)
        backend.registration, backend.registered_at = registration, now
        return backend.answered_at is not None and registration.instance != present.instance

    def lost(self, token: int, now: float) -> Transition | None:
        """The timeout of a probe has passed. Counts its loss, once; unknown tokens change nothing."""
        probe = self._outstanding.open.get(token)
        if probe is None:
            return None
        self._end(probe, Refusal.LATE)
        backend = probe.backend
        if backend.state is State.REGISTERED:
            backend.misses += 1
            return None if backend.awaited else self._happen(backend, Event.MISSED, now, "did not answer its probe")
        if backend.state is State.DEPARTED or not probe.registration.same_agent(backend.registration):
            return None
        backend.losses.add(lost=True)
        backend.misses += 1
        backend.answers = 0
        if backend.refusing and now >= backend.held_until:
            backend.refusing = False
        fallen = backend.state is State.SUSPECT and backend.misses >= FALL
        return self._happen(backend, Event.FALLEN if fallen else Event.MISSED, now, f"{backend.misses} in a row lost")

    def check(
        self, backend: Backend, liveness_s: float, lasted_s: Callable[[float], float], now: float
    ) -> Transition | None:
        """The liveness check: silence takes a back-end down, and removes it if it lasts.

        `lasted_s` tells how long this process has been there to hear anything since a moment.
        """
        found = overdue(backend, liveness_s, lasted_s, now)
        return None if found is None else self._happen(backend, found[0], now, found[1])

    def unregister(self, source: Address, pdu: Unregister, now: float) -> tuple[Backend, Transition | None]:
        """Take in an UNREGISTER: the back-end goes, and its instance may not register again (rule 4).

        One that nobody has confirmed yet goes if no other instance is to be probed for it.
        """
        key = (source[0], pdu.service_port or self.default_port)
        backend = self._backends.get(key)
        if backend is None or backend.state is State.DEPARTED:
            raise Rejected(Refusal.UNKNOWN)
        unconfirmed = backend.state is State.REGISTERED
        instances = self._instances(backend) if unconfirmed else {backend.registration.instance}
        if (key, pdu.instance) in self._retired:
            raise Rejected(Refusal.RETIRED)
        if pdu.instance not in instances:
            raise Rejected(Refusal.WRONG_INSTANCE)
        self._retired[key, pdu.instance] = None
        trim(self._retired, RETIRED_MAX)
        self.unconfirmed.drop(backend, pdu.instance)
        if unconfirmed and len(instances) > 1:
            return backend, None
        return backend, self._happen(backend, Event.UNREGISTERED, now, "unregistered")

    def _instances(self, backend: Backend) -> set[int]:
        """Those that are to confirm a back-end."""
        instances = self._outstanding.instances(backend) | self.unconfirmed.instances(backend)
        return instances or {backend.registration.instance}

    def exclude(self, backend: Backend, reason: str, now: float) -> Transition | None:
        """It is to be no back-end any more, whatever its agent says, or has yet to say."""
        self.unconfirmed.drop(backend)
        if backend.state is State.DEPARTED:
            self._outstanding.forget(backend)
            return None
        return self._happen(backend, Event.UNREGISTERED, now, reason)

    def administer(self, backend: Backend, administration: Administration) -> None:
        """An operator's word; it holds as long as the back-end is in the table."""
        backend.administration = administration
        self._settle(backend)

    def ramp(self, backend: Backend, now: float) -> bool:
        """Bring a back-end's share to what it may be by now. Whether it is still to grow."""
        backend.share = share_after(now - backend.up_since, self.slow_start_s)
        return backend.share < 1

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
        if backend.refusals < REFUSALS or not (backend.is_up or backend.state is State.DOWN) or backend.refusing:
            return None
        backend.refusing = True
        if backend.state is State.DOWN:
            hold_down(backend, self._connects, now)
        return self._happen(backend, Event.REFUSED, now, f"{backend.refusals} connects in a row failed")

    def mute(self, backend: Backend, sessions: int, silent_s: float, now: float) -> Transition | None:
        """None of its new sessions got a byte for so long, and those of others did: as if connects had failed."""
        if backend.refusing or not backend.is_up:
            return None
        backend.refusing = True
        return self._happen(backend, Event.REFUSED, now, f"{sessions} new sessions got no byte for {silent_s:.0f} s")

    def closed(self, backend: Backend, *, was_connected: bool) -> Transition | None:
        """A session that was `opened` is over; with the last one, a back-end goes that has departed."""
        if was_connected:
            backend.established -= 1
        else:
            backend.pending -= 1
        if backend.state is State.DEPARTED and not backend.connections:
            return self._happen(backend, Event.EMPTIED, 0.0, "its last session has ended")
        return None

    def _end(self, probe: Probe, afterwards: Refusal) -> None:
        self._outstanding.end(probe, afterwards, self._remembered)

    @property
    def _remembered(self) -> int:
        """Probes that have ended."""
        return 4 * len(self) + 64

    def _happen(self, backend: Backend, event: Event, now: float, reason: str) -> Transition | None:
        """Move a back-end as the transition table says, with all that goes with it."""
        if backend.connections and event in (Event.UNREGISTERED, Event.EXPIRED):
            event = Event.LEFT
        before = backend.state
        backend.state = after(before, event)
        if backend.state is before:
            self._settle(backend)
            return None
        self._admission.moved(backend.address, before, backend.state)
        if backend.state is State.FORGOTTEN:
            self._remove(backend)
        elif backend.state is State.DEPARTED:
            self._outstanding.forget(backend)
            begin_anew(backend)
        elif backend.state is State.DOWN:
            hold_down(backend, self._connects, now)
        elif before is not State.SUSPECT and backend.state is State.UP:
            backend.refusing = False
            backend.up_since = now
            self.ramp(backend, now)
        self._settle(backend)
        return Transition(backend, before, backend.state, reason)

    def _remove(self, backend: Backend) -> None:
        del self._backends[backend.address, backend.port]
        self._outstanding.forget(backend)
        self.unconfirmed.drop(backend)

    def _settle(self, backend: Backend) -> None:
        figures = backend.report.figures if backend.is_up else UNKNOWN
        if figures is not backend.contributed:
            self._means.replace(backend.contributed, figures)
            backend.contributed = figures
        self._eligibility.settle(backend, self._backends.values())
