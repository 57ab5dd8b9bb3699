"""Outstanding probes, and the effect of answers and losses on a back-end (rules 3 and 6 of the protocol)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.candidates import OUTSTANDING_MAX, Candidates
from rproxy.pool.estimators import LOSS_MEAN_GAIN, RTT_MEAN_GAIN, LossWindow
from rproxy.pool.events import NOTHING, AgentRestarted, DrainingChanged, Events, ProbeLost, Reported
from rproxy.pool.health import RISE, URGENT, LastedS, miss, rises
from rproxy.pool.rows import Rows
from rproxy.pool.states import Event, State
from rproxy.timing.rate_limit import trim
from rproxy.wire.pdu import UINT32_MAX, ProbeRequest, ProbeResponse, tag_of

PROMPT_S: Final = 0.25
"""Answers within this time are measured without asking for stalls of this process: none can have mattered."""
RETIRED_MAX: Final = 4096
"""Entries of `Probes.retired`; beyond, the oldest is dropped."""
ENDED_MIN: Final = 1024
ENDED_EACH: Final = 4
"""Ended probes that are remembered: `ENDED_MIN`, and `ENDED_EACH` more for each back-end."""


Elsewhere = tuple[Backend, int]
"""A back-end's row in the pool of another service of this process, and what that pool's `claimed` says of it."""


@attrs.frozen
class Probe:
    """A request that was sent. `counted` is how many of our sessions on the back-end were established then, and
    `elsewhere` how many it had through other services of this process, with those that waited for it there.

    An `on_demand` probe is sent for the agent's figures: its loss is no miss, see `_lost_on_demand`.
    """

    backend: Backend
    request: ProbeRequest
    registration: Registration
    sent_at: float
    counted: int
    on_demand: bool
    elsewhere: int = 0


@attrs.define(eq=False)
class Probes:
    """From when a probe is sent until it ends, it is in `_open`, and its token in its back-end's `outstanding`.

    A probe may be answered for `timeout_s` seconds.
    """

    timeout_s: float
    _rows: Rows
    _candidates: Candidates
    _open: dict[int, Probe] = attrs.field(init=False, factory=dict)
    _ended: OrderedDict[int, Refusal] = attrs.field(init=False, factory=OrderedDict)
    """By token: why a further answer is rejected."""
    retired: OrderedDict[tuple[Address, int], None] = attrs.field(init=False, factory=OrderedDict)
    """Services and instances that have unregistered (rule 4), the latest last."""

    def send(
        self,
        backend: Backend,
        registration: Registration,
        token: int,
        now: float,
        *,
        on_demand: bool = False,
        elsewhere: Sequence[Elsewhere] = (),
    ) -> Probe:
        """Note a probe of `registration`'s agent, see `Pool.probe`.

        It bears that instance's tag, so that no other one answers. To its agent the process is one proxy: it has all
        sessions on the back-end, and numbers all probes of it in one sequence.
        """
        probing = backend.probing
        counts = backend.counts
        sessions, sequence, others = counts.pending + counts.established, probing.next_sequence, 0
        if self._rows.eligibility.waiting:
            sessions = self._rows.eligibility.claimed(backend)
        for row, claimed in elsewhere:
            others += claimed
            sequence = max(sequence, row.probing.next_sequence)
        request = ProbeRequest(sequence, token, sessions + others, tag_of(registration.instance))
        probing.next_sequence = (sequence + 1) & UINT32_MAX
        if registration is backend.registration:
            probing.asked_at = now
        probe = Probe(backend, request, registration, now, counts.established, on_demand, others)
        self._open[token] = probe
        probing.outstanding.add(token)
        return probe

    def may_send(self, backend: Backend, registration: Registration) -> bool:
        """Whether a REGISTER may cause one more: none to this agent is outstanding, and few are in all."""
        return len(backend.probing.outstanding) < OUTSTANDING_MAX and not self.is_probed(backend, registration)

    def is_probed(self, backend: Backend, registration: Registration) -> bool:
        """Whether a probe to this agent is outstanding."""
        return any(self._open[token].registration.same_agent(registration) for token in backend.probing.outstanding)

    def instances(self, backend: Backend) -> set[int]:
        """The instances that have outstanding probes."""
        return {self._open[token].registration.instance for token in backend.probing.outstanding}

    def respond(
        self, source: Address, pdu: ProbeResponse, now: float, lasted_s: LastedS | None
    ) -> tuple[Backend, Events]:
        """Process a PROBE RESPONSE, see `Pool.respond`. Returns its back-end as well."""
        probe, waited_s = self._match(source, pdu, now, lasted_s)
        backend = probe.backend
        sample_ms = waited_s * 1000
        self._end(probe, Refusal.DUPLICATE)
        before = backend.registration
        restarted = self._confirm_agent(probe, now)
        draining_changed = backend.draining is not pdu.draining
        risen = self._record(probe, pdu, sample_ms, now)
        events: Events = (Reported(backend, pdu.token, sample_ms),)
        if risen:
            events += self._rows.transition(backend, Event.RISEN, now, f"answered {RISE} probes in a row")
        elif draining_changed or backend.state is not State.UP:  # else nothing but its figures has changed
            events += self._rows.transition(backend, Event.ANSWERED, now, "answered a probe")
        elif backend.registration is not before:
            events += self._rows.update(backend)
        if restarted:
            events += (AgentRestarted(backend),)
        if draining_changed:
            events += (DrainingChanged(backend),)
        return backend, events

    def _match(self, source: Address, pdu: ProbeResponse, now: float, lasted_s: LastedS | None) -> tuple[Probe, float]:
        """The probe that it answers, and the round trip in seconds. Raises `Rejected`."""
        probe = self._open.get(pdu.token)
        if probe is None or probe.request.sequence != pdu.sequence:
            raise Rejected(self._ended.get(pdu.token, Refusal.UNKNOWN))
        registration, backend = probe.registration, probe.backend
        if registration.agent != source:
            raise Rejected(Refusal.WRONG_SOURCE)
        waited_s = now - probe.sent_at
        if waited_s > PROMPT_S and lasted_s is not None:
            waited_s = lasted_s(probe.sent_at)
        if waited_s > self.timeout_s:
            raise Rejected(Refusal.LATE)
        if ((backend.address, backend.port), registration.instance) in self.retired:
            raise Rejected(Refusal.RETIRED)
        if backend.state is State.REGISTERED or backend.state is State.DEPARTED:
            self._rows.admission.demand_confirmed_capacity(backend)
        return probe, waited_s

    def _confirm_agent(self, probe: Probe, now: float) -> bool:
        """Make the agent that answered the back-end's agent. Returns whether a confirmed agent has restarted."""
        backend, registration, present = probe.backend, probe.registration, probe.backend.registration
        if registration is present and backend.state is State.UP and backend.name not in self._candidates.probed:
            return False  # the steady case: nothing waits for a confirmation
        self._candidates.confirmed(backend, registration)
        if backend.answered_at is None:
            backend.registered_at = now
        if registration.same_agent(present):
            return False
        self._supersede(probe)
        backend.registration, backend.registered_at = registration, now
        if backend.static is not None:  # the configuration no longer names it
            backend.static = None
            return False
        return backend.answered_at is not None and registration.instance != present.instance

    def _record(self, probe: Probe, pdu: ProbeResponse, sample_ms: float, now: float) -> bool:
        """Copy the answer's figures to the back-end. Returns whether it brings a back-end up that was down."""
        backend, report, health = probe.backend, probe.backend.report, probe.backend.health
        backend.answered_at = now
        backend.draining = pdu.draining
        report.cpu, report.memory, report.load = pdu.cpu, pdu.memory, pdu.load
        report.tcp, report.counted, report.others = pdu.tcp, probe.counted, pdu.others
        if probe.elsewhere:  # to this service, the sessions of another one are others'
            report.others = (pdu.others or 0) + probe.elsewhere
        if backend.state is State.UP:
            report.contribute(backend.means, True)
        backend.rtt.add(sample_ms, now)
        means = backend.means
        means.rtt_ms += (sample_ms - means.rtt_ms) * RTT_MEAN_GAIN if means.rtt_ms else sample_ms
        if means.loss:
            means.loss -= means.loss * LOSS_MEAN_GAIN
        health.misses = health.lost_on_demand = 0
        if not probe.on_demand:
            health.answers += 1
        risen = backend.state is State.DOWN and rises(backend, now)
        if risen:
            backend.losses = LossWindow()  # a path that recovers starts with a clean window
        backend.losses.add(now, lost=False)
        return risen

    def lose(self, token: int, now: float) -> Events:
        """The timeout of a probe has passed, see `Pool.lost`."""
        probe = self._open.get(token)
        if probe is None:
            return NOTHING
        self._end(probe, Refusal.LATE)
        backend, health = probe.backend, probe.backend.health
        if backend.state is State.REGISTERED:
            health.misses += 1
            lost = ProbeLost(backend, token, health.misses, counted=True, first=False)
            if backend.awaited:
                return (lost,)
            return (lost, *self._rows.transition(backend, Event.MISSED, now, "did not answer its probe"))
        if backend.state is State.DEPARTED or not probe.registration.same_agent(backend.registration):
            return (ProbeLost(backend, token, health.misses, counted=False, first=False),)
        backend.losses.add(now, lost=True)
        backend.means.loss += (1 - backend.means.loss) * LOSS_MEAN_GAIN
        if probe.on_demand:
            return (self._lost_on_demand(backend, token),)
        event = miss(backend, now)
        reason = f"{health.misses} probes in a row lost" if health.misses > 1 else "its last probe was lost"
        changed = self._rows.transition(backend, event, now, reason)
        first = health.misses == 1 and backend.is_up
        return (ProbeLost(backend, token, health.misses, counted=True, first=first), *changed)

    def _lost_on_demand(self, backend: Backend, token: int) -> ProbeLost:
        """No miss: these follow each other so fast that a path that is disturbed for a second loses several."""
        health = backend.health
        health.lost_on_demand += 1
        urgent = health.lost_on_demand == URGENT and backend.state is State.UP
        return ProbeLost(backend, token, health.misses, counted=False, first=False, on_demand=True, urgent=urgent)

    def retire(self, key: Address, instance: int) -> None:
        """Reject later registrations and answers of this instance (rule 4)."""
        self.retired[key, instance] = None
        trim(self.retired, RETIRED_MAX)

    def forget(self, backend: Backend) -> None:
        """End all of a back-end's probes; their answers will be unknown."""
        for token in backend.probing.outstanding:
            del self._open[token]
        backend.probing.outstanding.clear()

    def _supersede(self, probe: Probe) -> None:
        """Its answer identifies the agent: earlier probes of other agents no longer count."""
        for token in list(probe.backend.probing.outstanding):
            other = self._open[token]
            if other.sent_at <= probe.sent_at and not other.registration.same_agent(probe.registration):
                self._end(other, Refusal.UNKNOWN)

    def _end(self, probe: Probe, afterwards: Refusal) -> None:
        """A probe was answered or lost. It is remembered for a while, so that later answers are counted by reason."""
        token = probe.request.token
        del self._open[token]
        probe.backend.probing.outstanding.discard(token)
        self._ended[token] = afterwards
        if len(self._ended) > ENDED_MIN:
            trim(self._ended, ENDED_MIN + ENDED_EACH * len(self._rows))
