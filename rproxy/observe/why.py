"""Why a back-end gets clients, or gets none: one sentence for operators."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from itertools import islice
from math import ceil, inf, isfinite
from typing import Final

import attrs

from rproxy.net.addresses import written
from rproxy.observe.choices import CANDIDATES_MAX, ChoiceLog
from rproxy.observe.history import Happening
from rproxy.pool.backend import Backend
from rproxy.pool.health import RISE
from rproxy.pool.pool import Pool
from rproxy.pool.states import Administration, State

WINDOW_S: Final = 60.0
"""The choices of so many seconds are counted."""
TERMS_MAX: Final = 4
"""Parts of a value that are named, the largest ones."""


@attrs.frozen
class Moment:
    """Now, by both clocks, in s: the monotonic one of the pool, and Unix time."""

    now: float
    wall: float

    def clock(self, unix_time: float) -> str:
        """A time in the local time zone, as the log has it; with its date unless that is today's."""
        then, today = datetime.fromtimestamp(unix_time), datetime.fromtimestamp(self.wall)
        return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S")

    def unix_time(self, at: float) -> float:
        """Of a moment of the pool's clock."""
        return self.wall - (self.now - at)


@attrs.frozen
class Why:
    """Explains the back-ends of one service.

    `latest` returns the newest happening of a back-end that is of one of these kinds. `choices` are those recorded.
    """

    pool: Pool
    latest: Callable[[str, Collection[str]], Happening | None]
    choices: ChoiceLog | None

    def __call__(self, backend: Backend, moment: Moment) -> str:
        """The sentence, without the back-end's name and without a full stop."""
        kept_away = self._kept_away(backend, moment)
        if kept_away:
            return f"{kept_away}{_sessions(backend)}"
        if backend.usable and not backend.eligible:
            return f"full: it has {backend.connections} of {backend.limit:g} sessions"
        reservation = _reservation(backend)
        share = self._share(backend, moment)
        if backend.state is State.DOWN:
            return f"{self._down(backend, moment)}, but less than half of the back-ends are up, so it is used; {share}"
        return f"{reservation}; {share}" if reservation else f"up; {share}"

    def _kept_away(self, backend: Backend, moment: Moment) -> str:
        """Why it may get no client even if it is not full; empty if it may."""
        if backend.state is State.DEPARTED:
            reason = self._reason(backend, State.DEPARTED.value)
            return f"gone{_since(backend, moment)}{reason}; it stays until its last session ends"
        administration, down = backend.override.administration, ""
        if not backend.is_up and not backend.usable:
            down = self._unconfirmed(backend) if backend.state is State.REGISTERED else self._down(backend, moment)
        if administration is not Administration.READY:
            what = "draining" if administration is Administration.DRAIN else "in maintenance"
            since = f" since {moment.clock(backend.override.since)}" if backend.override.since else ""
            return f"{what}{since}, because an operator says so" + (f"; it is also {down}" if down else "")
        if down:
            return down
        return self._asked(backend, moment)

    def _asked(self, backend: Backend, moment: Moment) -> str:
        """What its agent or its agent-check keeps clients away by."""
        if not backend.draining:
            return ""
        noted = self.latest(backend.name, ("drain", "says"))
        since = f" since {moment.clock(noted.at)}" if noted else ""
        if backend.static is None:
            return f"draining{since}, because its agent says so: an operator there, or a service that fails its check"
        return f"draining{since}, because its agent-check says {backend.static.said}"

    def _down(self, backend: Backend, moment: Moment) -> str:
        health = backend.health
        text = f"down{_since(backend, moment)}{self._reason(backend, State.DOWN.value)}"
        if backend.static is not None and backend.static.stopped:
            return f"{text}, and has not said up since"
        held_s = health.held_until - moment.now
        if held_s > 0:
            return f"{text}; hold-down for {ceil(held_s)} s more"
        answered = "probes are answered" if backend.static is None else "checks pass"
        return f"{text}; it comes up once {RISE} {answered} in a row ({health.answers} so far)"

    def _unconfirmed(self, backend: Backend) -> str:
        static = backend.static
        if static is not None:
            return f"not checked yet ({static.configured.check})" if static.configured.check else "not checked yet"
        agent = written(backend.registration.agent)
        return f"registered, but its agent at {agent} has not answered a probe: UDP must pass both ways"

    def _reason(self, backend: Backend, kind: str) -> str:
        noted, refusals = self.latest(backend.name, (kind,)), backend.health.refusals
        if noted is None:
            return f": {refusals} connects in a row failed" if refusals else ""
        return f": {noted.text}"

    def _share(self, backend: Backend, moment: Moment) -> str:
        """How often it was chosen lately, and what is compared of it beside the best other one."""
        return f"{self._chosen(backend, moment)}; {self._compared(backend, moment.now)}"

    def _chosen(self, backend: Backend, moment: Moment) -> str:
        if self.choices is None:
            return f"{backend.counts.total} sessions so far"
        since = moment.wall - WINDOW_S
        recorded = [choice for choice in self.choices.kept if choice.at >= since]
        if not recorded:
            return f"no client has come in the last {WINDOW_S:.0f} s"
        clients = {choice.session for choice in recorded}  # one that tries another, or waits, has several choices
        given = {choice.session for choice in recorded if choice.chosen == backend.name}
        if len(recorded) == len(self.choices.kept):
            since = recorded[0].at
        lasted_s = max(1.0, moment.wall - since)
        some = " whose choice was recorded" if self.choices.unrecorded else ""
        return f"chosen for {len(given)} of {len(clients)} clients{some} in the last {lasted_s:.0f} s"

    def _compared(self, backend: Backend, now: float) -> str:
        own = self.pool.explain(backend, now)
        if not isfinite(own.value):
            return "the policy does not tell what it compares"
        largest = sorted(own.terms.items(), key=lambda term: -abs(term[1]))[:TERMS_MAX]
        named = ", ".join(f"{name} {term:.3g}" for name, term in own.terms.items() if (name, term) in largest)
        text = f"its value is {own.value:.4g}" + (f" ({named})" if named else "")
        candidates = dict.fromkeys([*islice(self.pool.eligible, CANDIDATES_MAX), *self._candidates(now)])
        values = [(self.pool.explain(each, now).value, each.name) for each in candidates if each is not backend]
        value, name = min(values, default=(inf, ""))
        if not isfinite(value):
            return f"{text}, and there is no other"
        return f"{text}, and the lowest of the others {value:.4g}, on {name}"

    def _candidates(self, now: float) -> list[Backend]:
        """The back-ends that the policy would compare for a client; none if it fails to tell."""
        comparison = self.pool.compare(self.pool.eligible, None, (), now, CANDIDATES_MAX)
        try:
            return [] if comparison is None else [each for each in comparison.candidates if isinstance(each, Backend)]
        except BaseException:  # it is the policy's
            self.pool.guard.complain()
            return []


def _since(backend: Backend, moment: Moment) -> str:
    at = backend.state_since
    return "" if at is None else f" since {moment.clock(moment.unix_time(at))}"


def _reservation(backend: Backend) -> str:
    """Why it comes after all others; empty if it does not."""
    if backend.passed_over:
        figures = f"CPU {backend.cpu:.0f} %, memory {backend.memory:.0f} %, loss {100 * backend.losses.rate:.0f} %"
        return f"passed over while others are better off, for {backend.passed_over} (now {figures})"
    if backend.state is State.SUSPECT:
        return "after all others until it answers a probe: its last one was lost"
    refusals = backend.health.refusals
    if refusals and backend.is_up:
        return f"after all others until a session is served: {refusals} connect(s) in a row failed"
    return f"in slow start, with {100 * backend.share:.0f} % of its weight" if backend.share < 1 else ""


def _sessions(backend: Backend) -> str:
    sessions = backend.connections
    return f"; {sessions} session(s) go on" if sessions else ""
