"""The pool: back-ends, and the policy that chooses among them. Nothing else writes to either.

Times are seconds from any monotonic origin. What a call has changed is returned as frozen events, for the caller to
publish; a datagram that may not count raises `Rejected` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.admission import Admission
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.candidates import Candidates
from rproxy.pool.consequences import Consequences
from rproxy.pool.eligibility import Eligibility
from rproxy.pool.events import NOTHING, Events, ProbeLost
from rproxy.pool.guard import Compare, Fallback, Guard, NotEligible
from rproxy.pool.health import REFUSALS, SLOW_START_S, LastedS, hold_down, overdue
from rproxy.pool.limits import Limits
from rproxy.pool.overrides import Overrides
from rproxy.pool.policy import Explanation, Policy
from rproxy.pool.probes import Elsewhere, Probe, Probes
from rproxy.pool.registrations import Registrations
from rproxy.pool.rows import Rows
from rproxy.pool.states import Administration, Event, State
from rproxy.pool.static_rows import StaticRows
from rproxy.wire.pdu import ProbeResponse, Register, Unregister


@attrs.define(eq=False)
class Pool:
    """Back-ends and their `policy`, as one object.

    `complain` is called while an exception of the policy is being handled. `default_port` stands in for service port 0.
    A probe may be answered for `timeout_s` seconds. A back-end that came up has its whole weight after `slow_start_s`
    seconds. While less than the fraction `panic_below` of the pool is up, those that are down get clients as well.
    """

    _policy: Policy
    _complain: Callable[[], None]
    default_port: int = 80
    timeout_s: float = 0.5
    limits: Limits = Limits()
    slow_start_s: float = SLOW_START_S
    panic_below: float = 0.5
    choices: int = attrs.field(init=False, default=0)
    """How often a client was given a back-end."""
    wake: Callable[[], None] | None = attrs.field(init=False, default=None)
    """Called when a client is given a back-end, before `choose` returns; None for not at all."""
    notes_values: bool = attrs.field(init=False, default=False)
    """Whether `choose` is to keep what the policy compared of the one that it chose, in `chosen_value`."""
    chosen_value: float | None = attrs.field(init=False, default=None)
    _candidates: Candidates = attrs.field(init=False, factory=Candidates)
    _eligibility: Eligibility = attrs.field(init=False)
    _rows: Rows = attrs.field(init=False)
    _probes: Probes = attrs.field(init=False)
    _registrations: Registrations = attrs.field(init=False)
    static: StaticRows = attrs.field(init=False)
    """Its back-ends without an agent."""
    overrides: Overrides = attrs.field(init=False)
    _fallback: Fallback = attrs.field(init=False, factory=Fallback)
    guard: Guard = attrs.field(init=False)
    explain: Callable[[Backend, float], Explanation] = attrs.field(init=False)
    compare: Compare = attrs.field(init=False)
    """What the policy compares of a back-end, and of all, see `Guard`."""
    _propagate: Consequences = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._eligibility = Eligibility(self.panic_below)
        self._rows = Rows(Admission(self.limits), self._eligibility, self.slow_start_s)
        self._probes = Probes(self.timeout_s, self._rows, self._candidates)
        self._registrations = Registrations(self.default_port, self._rows, self._candidates, self._probes)
        guard = self.guard = Guard(self._policy, self._complain)
        self.explain, self.compare = guard.explain, guard.compare
        self._propagate = Consequences(self._probes, self._candidates, self._eligibility, guard)
        self.static = StaticRows(self._rows, self._registrations, self._propagate, guard.reported, guard.failed)
        self.overrides = Overrides(self._rows, self._propagate, guard.reported)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def eligible(self) -> Sequence[Backend]:
        """The back-ends that may get a client, in no order."""
        return self._eligibility.eligible

    @property
    def full(self) -> int:
        """How many may get clients, but are full."""
        return self._eligibility.full

    @property
    def limited(self) -> int:
        """How many may get clients and have a limit: those that are full, and those that can be."""
        return self._eligibility.limited

    def claimed(self, backend: Backend) -> int:
        """Our sessions on it, and its share of the clients that wait, as other proxies are to see them."""
        return self._eligibility.claimed(backend)

    @property
    def panicking(self) -> bool:
        """Whether back-ends that are down get clients as well."""
        return self._eligibility.panicking

    @property
    def tick_due(self) -> float | None:
        """When `tick` is to be called next; None for never. `Transitioned` and `Administered` may change it."""
        return next((due for _, due in self._rows.ramping.values()), None)

    def get(self, address: str, port: int) -> Backend | None:
        """The back-end of that address and service port, if there is one."""
        return self._rows.get((address, port))

    def register(self, source: Address, pdu: Register, now: float, local: str = "") -> Events:
        """Process a REGISTER: at once from the agent of a back-end that is up, else to wait as a candidate for the
        probe that confirms it.

        `local` is the address of ours that it was sent to, empty where that is not known. Whether the agent drains
        is left to the probe that the REGISTER causes. The first event is its `Registered`. Raises `Rejected`.
        """
        registered = self._registrations.register(source, pdu, now, local)
        if not registered.changed:
            return (registered,)
        return (registered, *self._rows.update(registered.backend), *self.guard.reported(registered.backend, now))

    def restore(self, registration: Registration, port: int) -> Backend | None:
        """The row of a back-end that was up in an earlier run of this proxy: service `port` of that agent's host.

        It gets no client before its agent has answered a probe. None if one has already, or the pool is full.
        """
        return self._registrations.restore(registration, port)

    @property
    def has_candidates(self) -> bool:
        """Whether any registration waits for its first probe."""
        return bool(self._candidates)

    def next_candidate(self, now: float) -> tuple[Backend, Registration] | None:
        """Take the registration whose first probe is next, for the caller to `probe`; None where none may be probed."""
        return self._candidates.next(now)

    def probe(
        self,
        backend: Backend,
        registration: Registration,
        token: int,
        now: float,
        *,
        on_demand: bool = False,
        elsewhere: Sequence[Elsewhere] = (),
    ) -> Probe:
        """Note a probe of `registration`'s agent, for the caller to send. `token` must be unpredictable and unused.

        `elsewhere` tells of this back-end in the pools of this process' other services.
        """
        return self._probes.send(backend, registration, token, now, on_demand=on_demand, elsewhere=elsewhere)

    def may_probe(self, backend: Backend, registration: Registration) -> bool:
        """Whether a REGISTER may cause a probe now: none to its agent is outstanding, and few are in all."""
        return self._probes.may_send(backend, registration)

    def is_probed(self, backend: Backend, registration: Registration) -> bool:
        """Whether a probe to that agent is outstanding."""
        return self._probes.is_probed(backend, registration)

    def respond(self, source: Address, pdu: ProbeResponse, now: float, lasted_s: LastedS | None = None) -> Events:
        """Process a PROBE RESPONSE: it counts once, from the agent that was probed, within the timeout (rule 3).

        `lasted_s` returns how many seconds since a moment this process could have seen an answer; None: all of them.
        The first event is its `Reported`. Raises `Rejected`.
        """
        backend, events = self._probes.respond(source, pdu, now, lasted_s)
        events += self.guard.reported(backend, now)
        return self._propagate(events, now) if len(events) > 1 else events

    def lost(self, token: int, now: float) -> Events:
        """A probe's timeout has passed: it is lost, once. The first event is its `ProbeLost`; none if it is unknown."""
        events = self._probes.lose(token, now)
        lost = next(iter(events), None)
        if not isinstance(lost, ProbeLost):
            return NOTHING
        if lost.counted and lost.backend.is_up:
            self.guard.failed(lost.backend, now)
        elif lost.backend.eligible and not lost.backend.is_up:  # in a panic no answer may come that ends a `failed`
            events += self.guard.reported(lost.backend, now)
        return self._propagate(events, now)

    def check(self, backend: Backend, liveness_s: float, lasted_s: LastedS, now: float) -> Events:
        """One that is silent for `liveness_s` goes down, and is removed if that lasts. `lasted_s`: see `respond`."""
        found = overdue(backend, liveness_s, lasted_s, now)
        return self._transition(backend, found[0], now, found[1]) if found else NOTHING

    def unregister(self, source: Address, pdu: Unregister, now: float) -> Events:
        """Process an UNREGISTER: the back-end goes, and its instance may not register again (rule 4).

        An unconfirmed one stays while another instance may still confirm it. Raises `Rejected`.
        """
        return self._propagate(self._registrations.unregister(source, pdu, now), now)

    def exclude(self, backend: Backend, reason: str, now: float) -> Events:
        """Remove a back-end with its candidates, even if its agent answers."""
        return self._propagate(self._registrations.exclude(backend, reason, now), now)

    def administer(self, backend: Backend, administration: Administration, now: float) -> Events:
        """See `Overrides.administer`."""
        return self.overrides.administer((backend.address, backend.port), administration, now)

    def tick(self, now: float) -> Events:
        """Slow start goes on: every back-end whose next share of its weight is due by now gets it."""
        events = NOTHING
        while (backend := self._rows.next_ramped(now)) is not None:
            events += self._rows.update(backend) + self.guard.reported(backend, now)
        return events

    def limit_each(self, max_connections: int | None, now: float) -> Events:
        """The limit of every back-end that has none of its own. More sessions than that go on until they end."""
        self._eligibility.each = max_connections
        return tuple(event for each in self for event in (*self._rows.update(each), *self.guard.reported(each, now)))

    def replace_policy(self, policy: Policy, now: float) -> Events:
        """Choose by `policy` from now on, which is notified of every back-end, see `Policy`."""
        self._policy = self.guard.policy = policy
        return tuple(event for backend in self for event in self.guard.reported(backend, now))

    def use_default_port(self, port: int) -> None:
        """Have `port` stand in for service port 0 from now on. Back-ends keep theirs."""
        self.default_port = self._registrations.default_port = port

    def clients_wait(self, clients: int) -> None:
        """So many clients wait for a back-end now; other proxies see them as sessions on those that are full."""
        self._eligibility.waiting = clients

    def choose(self, now: float, exclude: Collection[Backend] = (), client: Address | None = None) -> Backend | None:
        """Take a lease on the back-end for the next client, none of `exclude`; None where there is none.

        It counts as connecting until `connected` or `closed`.
        """
        backend = self.would_choose(now, exclude, client)
        if backend is not None:
            if self.notes_values:
                self.chosen_value = self.guard.value(backend, now)
            counts = backend.counts
            counts.pending += 1
            if counts.pending + counts.established >= backend.limit:
                self._eligibility.place(backend)
            self.choices += 1
            if self.wake is not None:
                self.wake()
            try:
                self._policy.opened(backend, now)
            except BaseException:
                self.guard.complain()
        return backend

    def would_choose(
        self, now: float, exclude: Collection[Backend] = (), client: Address | None = None
    ) -> Backend | None:
        """What `choose` would return now, by the policy if that is valid, else by the fallback; takes no lease."""
        eligible = self._eligibility.eligible
        try:
            chosen = self._policy.choose(eligible, client, exclude, now)
            if chosen is None or (eligible[chosen.slot] is chosen and chosen not in exclude):
                return chosen
            raise NotEligible(f"the policy chose {chosen.name}, which may not get this client")
        except BaseException:
            self.guard.complain()
            return self._fallback.choose(eligible, exclude)

    def connected(self, backend: Backend) -> None:
        """A lease's connection is established."""
        self._rows.connects += 1
        counts = backend.counts
        counts.pending -= 1
        counts.established += 1
        counts.total += 1

    def served(self, backend: Backend, now: float) -> Events:
        """A session on it got a byte, or lasted so long that its end no longer counts as a failed connect."""
        health = backend.health
        if not health.refusals:
            return NOTHING
        health.refusals, health.refusing = 0, False
        return self._propagate(self._rows.update(backend), now)

    def refused(self, backend: Backend, now: float) -> Events:
        """A connect failed, and not by this host's fault. Called before `closed`.

        A back-end that went down by this is tried again after its hold-down; then a single failure takes it down.
        """
        self.guard.failed(backend, now)
        health = backend.health
        health.count_refusal()
        if health.refusals < REFUSALS or not (backend.is_up or backend.state is State.DOWN) or health.refusing:
            return NOTHING
        health.refusing = True
        if backend.state is State.DOWN:
            hold_down(backend, self._rows.connects, now)
        return self._transition(backend, Event.REFUSED, now, f"{health.refusals} connects in a row failed")

    def unresponsive(self, backend: Backend, sessions: int, silent_s: float, now: float) -> Events:
        """None of its new sessions got a byte for `silent_s` seconds, while others' did: counts as failed connects."""
        self.guard.failed(backend, now)
        if backend.health.refusing or not backend.is_up:
            return NOTHING
        backend.health.refusing = True
        reason = f"{sessions} new sessions got no byte for {silent_s:.0f} s"
        return self._transition(backend, Event.REFUSED, now, reason)

    def closed(
        self,
        backend: Backend,
        now: float,
        *,
        was_connected: bool,
        served_s: float | None,
        carried: tuple[int, int] = (0, 0),
    ) -> Events:
        """A lease is over; the last one of a departed back-end removes it. `served_s`: see `Policy.closed`.

        `carried` are the bytes of its session: from the client, and to it.
        """
        counts = backend.counts
        counts.bytes_up, counts.bytes_down = counts.bytes_up + carried[0], counts.bytes_down + carried[1]
        if was_connected:
            counts.established -= 1
        else:
            counts.pending, counts.unconnected = counts.pending - 1, counts.unconnected + 1
        events = NOTHING
        if backend.state is State.DEPARTED and not backend.connections:
            events = self._rows.transition(backend, Event.EMPTIED, now, "its last session has ended")
        elif backend.usable and backend.slot < 0:
            events = self._eligibility.place(backend)
        try:
            self._policy.closed(backend, now, served_s)
        except BaseException:
            self.guard.complain()
        return self._propagate(events, now) if events else NOTHING

    def _transition(self, backend: Backend, event: Event, now: float, reason: str) -> Events:
        return self._propagate(self._rows.transition(backend, event, now, reason), now)
