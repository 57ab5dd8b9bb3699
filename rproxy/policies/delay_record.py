"""What the policy `expected-delay` keeps of a back-end."""

from __future__ import annotations

from bisect import bisect
from math import exp, inf, sqrt
from typing import Final

from rproxy.policies.ranked import Place
from rproxy.pool.backend import Backend

GROWTH: Final = 1 / 8
"""Time in which sessions stay open counts at the next event, or once it has grown by this part of itself."""
TIE: Final = 1.25
"""Idle back-ends whose rates are within this factor of the pool's are equal; others are if they are in the same step of
its square.
"""
DOUBT: Final = 2.5
"""They are also equal within so many standard errors: of n departures the logarithm of a rate has one of 1 / √n, where
lengths are exponential. With less, one of three equal hosts got most clients in some of 160 trials of 600 clients each;
with more, slow hosts get more clients.
"""
USUAL_S: Final = 180.0
"""How long departures count for that (exponential forgetting): what sets idle hosts apart is lasting. 60 s needed a
seventh more to answer 99 % of clients where the load is light.
"""
CALM: Final = 0.13
"""Up to this, `DelayRecord.shared` is that of a calm host (10 % of CPU), and from twice as much on it is not. The rate
of the last seconds is noise there, and would send all of few clients to one of equal hosts. With twice this value, p99
was 4 % higher on hosts that others slow down for seconds only.
"""
_PACES: Final = [TIE**power for power in range(-7, 42, 2)]
"""Where the steps of an idle back-end's pace begin."""
_IDLE_PACES: Final = [pace for pace in _PACES if pace < 1] + [1.0] + [pace for pace in _PACES if pace > 1]
"""The pace that is taken for each of them: its limit nearer to 1."""

# Sessions of others: other proxies, and clients that reach the back-end without one.
IDLE_S: Final = 60.0
"""Connections that have stayed so long are a service's own pools, and no load."""
USUAL_FOREIGN_S: Final = 10.0
"""Over how long the usual number is averaged."""

# CPU carried forward by sessions.
CPU_S: Final = 5.0
"""Smoothing of CPU and of the sessions that caused it. With 10 s and more, p99 was a tenth higher in `long-one`."""
CROWDED: Final = 0.75
"""CPU, as a fraction, from which sessions slow each other down altogether, see `DelayEstimates`."""
FULL: Final = 1.05
"""CPU at which a delay would be infinite, as a fraction: measurements err by some points."""
EACH_MIN: Final = 0.001
EACH_UNKNOWN: Final = 0.05
"""CPU of a session, as a fraction of a host: the least, and while the pool has had less than `SESSIONS_MIN`."""
SESSIONS_MIN: Final = 0.5
SPEED_S: Final = 300.0
"""Smoothing for the speed of a host, which hardly changes."""
SPEED_PRIOR: Final = 5.0
"""Sessions for which the pool's speed stands in."""
SPEED_MAX: Final = 3.0
"""Speeds are held between this and its inverse; their square root divides the delay. Exponents of 1 and 2 overshot."""

# CPU of other programs.
SAMPLE_S: Final = 0.5
"""An agent measures CPU over about so long."""
OTHER_CPU_S: Final = 1.0
"""Smoothing of what other programs take. With 2 s, p99 was 10 % higher where the load is light."""
VACANT_MIN: Final = 0.05
"""Added to the part of the time without sessions: where that is short, CPU tells little of other programs."""
LEFT_MIN: Final = 0.1
"""Other programs are believed to leave at least this part of the CPU."""
LEFT_STEPS: Final = 8
"""For idle back-ends, what they leave is rounded to a power of e^(1 / this), 13 %: what differs by noise is equal."""


class DelayRecord(Place):
    """The figures of one back-end. Those that its rank is made of are settled at its reports, and named first.

    Times are in s of the pool's clock.
    """

    __slots__ = (
        "base",
        "beyond",
        "brake",
        "busy",
        "busy_s",
        "calm",
        "cpu_each",
        "cpu_room",
        "ended",
        "ended_at",
        "fades_s",
        "fail",
        "fail_at",
        "finished",
        "foreign",
        "free_pace",
        "full",
        "ghosts",
        "grows_at",
        "hasty_in_a_row",
        "idle",
        "idle_pace",
        "inverse_speed",
        "inverse_weight",
        "least_s",
        "left",
        "log_length",
        "log_lengths",
        "log_rate",
        "long_share",
        "pace",
        "pool_rate",
        "prior",
        "prior_s",
        "rate_weight",
        "reason",
        "recent_cpu",
        "recent_finished",
        "recent_sessions",
        "recent_spent_s",
        "registered_weight",
        "service_load",
        "settled_at",
        "shared",
        "slow_cpu",
        "slow_sessions",
        "spent_at",
        "spent_s",
        "tells_cpu",
        "tie",
        "told_at",
        "told_foreign",
        "usual_finished",
        "usual_foreign",
        "usual_pace",
        "usual_spent_s",
        "vacant",
        "weight",
    )

    def __init__(self, backend: Backend, now: float) -> None:
        super().__init__(backend)
        # The rank.
        self.inverse_weight = 1.0
        """The normal weight over its own."""
        self.idle = 1.0
        """What its delay starts from: the client's own session, and `ghosts`."""
        self.foreign = 0.0
        """Sessions that others are expected to have on it."""
        self.pace = self.idle_pace = self.free_pace = 1.0
        """Its time for a session relative to the pool's, times `brake`; what is taken for it while idle; and what is
        taken while it has only others' sessions: the second one as far as it is `calm`, or else the first one.
        """
        self.grows_at = inf
        """When these have changed if all its sessions stay open."""
        self.long_share = 0.0
        """How much CPU tells of a session's delay, and not the count: 0 where sessions are short, 1 where long."""
        self.cpu_room = 1.0
        """CPU that would be free without any session, a fraction."""
        self.cpu_each = 0.0
        """CPU that one session takes, a fraction."""
        self.inverse_speed = 1.0
        """Of the host, by CPU: 1 over the square root of its speed relative to the pool's."""
        # The rate.
        self.finished = 1.0
        """Sessions that it finished lately, and the prior's."""
        self.spent_s = 1.0
        """The time that it spent on them, and the prior's."""
        self.spent_at = now
        """Up to when `spent_s` is counted."""
        self.prior = self.prior_s = 1.0
        """The prior's parts of `finished` and `spent_s`."""
        self.least_s = 0.0
        """The least time that a session is believed to take."""
        self.shared = 1.0
        """How far sessions slow each other down, from 0 to 1."""
        self.calm = 0.0
        """How far it is judged as if it were idle while only others have sessions on it: 1 with little CPU."""
        self.left = 1.0
        """The part of its CPU that other programs leave, see `DelayEstimates`."""
        self.tie = 1.0
        """What rounds 1 / `left` for the pace of the idle back-end: what differs by noise is equal."""
        self.pool_rate = 1.0
        """As it was at its last report, in sessions/s."""
        self.settled_at = now
        """When its last report was taken in."""
        self.recent_finished = self.recent_spent_s = 0.0
        """`finished` and `spent_s` then, without the prior."""
        self.usual_finished = self.usual_spent_s = 0.0
        """The same over `USUAL_S`."""
        self.usual_pace = 1.0
        """Its time for a session relative to the pool's over `USUAL_S`, in steps; 1 where it may be equal."""
        self.log_rate = self.rate_weight = 0.0
        """Logarithm of its rate then, times its weight in the pool's; and that weight."""
        # CPU of other programs.
        self.tells_cpu = False
        """Whether its last report had any."""
        self.busy_s = 0.0
        """Time since its last report in which sessions of ours were open."""
        self.busy = 0.0
        """The part of the time in which sessions were open, as the CPU that it reports shows it."""
        self.beyond, self.vacant = 0.0, 1.0
        """CPU beyond `busy`, and time without sessions, as fractions, smoothed over `OTHER_CPU_S`."""
        # Ends of sessions.
        self.ended = 0
        self.log_lengths = 0.0
        """Sessions that ended since the last report, and the sum of the logarithms of their lengths in s."""
        self.log_length: float | None = None
        """Average logarithm of the lengths of its sessions, in s; None before one has ended."""
        self.ended_at = now
        """When the last one ended."""
        self.hasty_in_a_row = 0
        """How many in a row ended too soon to be believed."""
        self.ghosts = 0.0
        """How many of them still count as if they were open."""
        # Trouble.
        self.brake = 1.0
        """What multiplies its delay, see `Brake.factors`."""
        self.fail = 0.0
        self.fail_at = now
        """Failures lately, each counting for more than those before; and when the last one was."""
        self.full = False
        """Whether its memory counts."""
        self.service_load: float | None = None
        """As last reported, in percent."""
        self.reason: str | None = None
        """Why it is passed over."""
        # Reports.
        self.told_at = -inf
        """When the last one came."""
        self.told_foreign = self.usual_foreign = 0.0
        """Sessions of others by the last report, and on average."""
        self.base: float | None = None
        """Connections that never end: a service's own pools; None before the first report."""
        self.fades_s = 1.0
        """How long a report tells of others' sessions."""
        self.recent_cpu = self.recent_sessions = self.slow_cpu = self.slow_sessions = 0.0
        """CPU (a fraction) and sessions, smoothed over `CPU_S` and over `SPEED_S`."""
        self.weight = 0.0
        """With slow start's share; 0 before the first report."""
        self.registered_weight = 0

    @property
    def aged(self) -> tuple[float, ...]:
        """What `pass_time` changes; setting it takes that back."""
        paces = self.pace, self.idle_pace, self.free_pace
        return self.spent_s, self.busy_s, self.spent_at, self.foreign, self.grows_at, *paces

    @aged.setter
    def aged(self, kept: tuple[float, ...]) -> None:
        self.spent_s, self.busy_s, self.spent_at, self.foreign, self.grows_at, *paces = kept
        self.pace, self.idle_pace, self.free_pace = paces

    def count_time(self, before: int, now: float) -> None:
        """Count the time since the last call, in which `before` sessions of ours were open.

        What other programs took of it is not time that the host spent on sessions.
        """
        if before:
            passed_s = now - self.spent_at
            self.busy_s += passed_s
            shared = self.shared
            self.spent_s += passed_s * before * (shared / (before + self.foreign) + 1 - shared) * self.left
        self.spent_at = now

    def limit_growth(self, sessions: int, now: float) -> None:
        """Have the time counted once it has grown by `GROWTH` with so many sessions of ours, if not earlier."""
        growth = sessions * (self.shared / (sessions + self.foreign) + 1 - self.shared) * self.left
        grows_at = now + GROWTH * self.spent_s / growth
        if grows_at < self.grows_at:
            self.grows_at = grows_at

    def set_pace(self) -> None:
        """Set what is derived from the time counted."""
        finished = self.finished
        if self.spent_s < self.least_s * finished:
            self.spent_s = self.least_s * finished
        pace = self.spent_s / finished * self.pool_rate
        self.pace = pace * self.brake
        self.idle_pace = self.usual_pace * self.brake * self.tie
        self.free_pace = self.pace
        if self.calm and pace:
            self.free_pace *= (self.usual_pace / pace) ** self.calm

    def pass_time(self, before: int, after: int, now: float, falls: bool = False) -> None:
        """Count the time since the last call, in which `before` sessions of ours were open, and `after` are now; and
        let what was reported age.

        The delay may become shorter only if it `falls`, since the back-end is then entered anew.
        """
        self.count_time(before, now)
        self.grows_at = inf
        told, usual = self.told_foreign, self.usual_foreign
        if told != usual and (falls or told < usual):  # a report is the less true the older it is
            self.foreign = usual + (told - usual) * exp((self.told_at - now) / self.fades_s)
            self.grows_at = now + GROWTH * self.fades_s
        if after:
            self.limit_growth(after, now)
        self.set_pace()

    def assume_cpu(self, shared: float, long_share: float, room: float, each: float) -> None:
        """Take the CPU of a host that has no agent for usual: `room` without sessions, of which each takes `each` on
        other hosts.
        """
        self.shared, self.long_share = shared, long_share
        self.cpu_room, self.cpu_each = room, each * self.inverse_weight

    def settle_pace(self, finished: float, spent_s: float, kept: float, prior: float, rate: float) -> None:
        """Set `calm`, and the pace of the idle back-end. `finished` and `spent_s` are those of the last `recent_` ones
        and since, `kept` is the part of the older ones that still counts, `rate` the pool's.
        """
        self.usual_finished = self.usual_finished * kept + max(0.0, finished - self.recent_finished)
        self.usual_spent_s = self.usual_spent_s * kept + max(0.0, spent_s - self.recent_spent_s)
        known = self.usual_finished + prior
        pace = (self.usual_spent_s * rate + prior) / known
        doubt = exp(DOUBT / sqrt(known))
        self.calm = min(1.0, max(0.0, 2 - self.shared / CALM))
        self.usual_pace = 1.0 if 1 / doubt < pace < doubt else _IDLE_PACES[bisect(_PACES, pace)]
