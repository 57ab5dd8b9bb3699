"""What the policy `expected-delay` learns from sessions and reports.

All that a steady report causes is in this module, so that it takes few calls: a busy proxy gets hundreds a second.
"""

from __future__ import annotations

from abc import ABC
from math import exp, inf, log, sqrt
from typing import Final

from rproxy.policies.brake import MEMORY_HYSTERESIS, Brake, BrakeOptions, note_failure
from rproxy.policies.delay_record import (
    CPU_S,
    CROWDED,
    EACH_MIN,
    EACH_UNKNOWN,
    FULL,
    IDLE_S,
    LEFT_MIN,
    LEFT_STEPS,
    OTHER_CPU_S,
    SAMPLE_S,
    SESSIONS_MIN,
    SPEED_MAX,
    SPEED_PRIOR,
    SPEED_S,
    USUAL_FOREIGN_S,
    USUAL_S,
    VACANT_MIN,
    DelayRecord,
)
from rproxy.policies.delay_weights import DelayWeights
from rproxy.policies.session_lengths import HASTY_IN_A_ROW, LOG_SHORTEST, SHORTEST_S, SessionLengths
from rproxy.pool.backend import Backend

# The rate of sessions.
RATE_S: Final = 10.0
"""How long departures, and the time between them, count (exponential forgetting). Hogs come and go in such times; 6 to
20 s made no difference."""
RATE_DEPARTURES: Final = 50.0
"""Where more come in that time, so many count: they tell enough, and a busy host's rate is known sooner. 25 and 100
made no difference; without it, p99 was 2 to 4 % higher where sessions take some 30 ms and hogs 2 s."""
PRIOR: Final = 4.0
"""Sessions for which the pool's rate stands in: so many departures outweigh it. 2 to 8 made no difference."""
UNMEASURED: Final = 0.5
"""A back-end's part of the pool's rate is n + this, of n + `PRIOR`, after n departures: few say little."""
FASTEST: Final = 4.0
"""A rate is believed up to so many times the pool's: one that answers errors is fast, too."""
RATE_MIN: Final = 1 / 3600
RATE_MAX: Final = 1e4
"""Bounds of the pool's rate, in 1/s. Sessions of an hour say nothing in `RATE_S`; a connect takes over 0.1 ms."""
RATE_AT_FIRST: Final = 1.0
PRIOR_AT_FIRST: Final = 1e6
"""The pool's rate before it is known, in 1/s, and how firmly all back-ends are believed to have it."""
GHOSTS_MAX: Final = 100.0
"""Of one back-end: sessions that ended too soon to be believed and still count."""

NOTHING: Final = 1e-6
"""A number below this is what rounding has left."""


class DelayEstimates(DelayWeights, ABC):
    """Keeps a `DelayRecord` for each back-end.

    The rate of a back-end is (departures + prior) / (time + prior / pool's rate). Time is that in which sessions of
    ours are open, times our share of all sessions there, since others' departures are not seen. So a back-end whose
    sessions stay open gets slower at once, and one without sessions forgets towards the pool's rate, the geometric
    mean over back-ends by how well each is known: two that answer errors hardly move it. That is for sessions that slow
    each other down. As far as a host has CPU left they do not, and time counts for each session: else the one with the
    most sessions, whose departures come fastest, would be taken for the fastest.

    Sessions of others are the host's connections that are not ours: fresher than what the other proxies said of
    theirs. What nobody claims is the base, a service's own pools; it falls at once and rises slowly.

    With h the CPU of other programs, and sessions open in the part b of the time, a host of one core reports
    h + (1 - h) * b, so h is the CPU beyond b over 1 - b, each averaged. The part 1 - h of the time counts for its rate,
    and divides its delay. A host that is never without a session has an h of 0, as CPU tells nothing: its departures
    tell. Sessions that wait for something else, and more cores, make h too low.

    CPU is carried forward after TiProxy's CPU factor (pkg/balance/factor/factor_cpu.go in pingcap/tiproxy). There, the
    count at the report is subtracted, so that one sample of CPU decides; here, counts are smoothed as CPU is: what it
    has not seen yet of the sessions is then exactly what is added.

    A delay may become shorter only at a back-end's own reports and when a session of it ends: what is learned from the
    pool is taken in at its next report.
    """

    def __init__(self, options: BrakeOptions) -> None:
        super().__init__()
        self._brake = Brake(options)
        self._cpu_from = options.cpu_from / 100 if options.cpu_from < 100 else inf
        self._memory_watched = options.memory_from - MEMORY_HYSTERESIS
        self._rate = RATE_AT_FIRST
        """The pool's, in sessions/s."""
        self._log_rates = self._rate_weights = 0.0
        """The sum of the logarithms of back-ends' rates, each times its weight, and the sum of these weights."""
        self._lengths = SessionLengths()
        self._others = 0.0
        """Sessions of others on all back-ends."""
        self._tellers, self._taken = 0, 0.0
        """Back-ends whose agents tell CPU, and what other programs take of them all, in hosts."""
        self._cpu = self._sessions = self._slow_cpu = self._slow_sessions = 0.0
        """CPU (in hosts) and sessions of all back-ends, smoothed over `CPU_S` and over `SPEED_S`."""

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        self._now = now
        if not backend.usable:
            return
        record: DelayRecord = self._places.get(backend) or self._place(backend)
        counts = backend.counts
        ours = counts.pending + counts.established
        record.count_time(ours - 1, now)
        record.limit_growth(ours, now)
        record.chosen = next(self._order)
        if record.turn > self._time:
            self._time = record.turn
        record.turn = self._time + record.step

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""
        self._now = now
        record: DelayRecord | None = self._places.get(backend)
        if record is None:
            if backend.slot >= 0:
                self._enter(self._place(backend))
            return
        if served_s is not None:
            self._served(record, served_s, now)
        elif record.failed:
            record.brake *= note_failure(record, now)
        counts = backend.counts
        ours = counts.pending + counts.established
        if now < record.grows_at:
            record.count_time(ours + 1, now)
            record.set_pace()
        else:
            record.pass_time(ours + 1, ours, now, True)
        self._enter(record)

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        self._now = now
        if not backend.usable:
            self._drop(backend)
            return None
        record: DelayRecord = self._places.get(backend) or self._place(backend)
        record.failed = False
        counts = backend.counts
        ours = counts.pending + counts.established
        if ours:
            record.count_time(ours, now)
        if ours or record.ended:
            self._lengths.settle(record, ours, now)
        weight = backend.base_weight * backend.share
        if weight != record.weight or self._weights.moved:
            self._weigh(record, backend, weight)
        self._hear(backend, record)
        self._settle_rate(record, now)
        record.pass_time(ours, ours, now, True)
        entry = record.entry
        if entry is None or entry[0] or self._rank(backend, record) < entry[1:3]:  # few reports shorten the delay
            self._enter(record)
        return record.reason

    def _served(self, record: DelayRecord, served_s: float, now: float) -> None:
        """A session has ended that was served for so long."""
        record.ended += 1
        record.log_lengths += log(served_s) if served_s > SHORTEST_S else LOG_SHORTEST
        record.ended_at = now
        if served_s >= self._lengths.hasty_s:
            record.hasty_in_a_row = 0
            record.finished += 1
            return
        record.hasty_in_a_row += 1
        if record.hasty_in_a_row < HASTY_IN_A_ROW:
            record.finished += 1
        elif record.ghosts < GHOSTS_MAX:
            record.ghosts += 1
            record.idle += record.inverse_weight

    def _hear(self, backend: Backend, record: DelayRecord) -> None:
        """Take in the last answer to a probe; doing so again changes nothing."""
        report = backend.report
        told_at = self._now if backend.answered_at is None else backend.answered_at
        passed_s = told_at - record.told_at if told_at > record.told_at else 0.0
        record.told_at = told_at
        self._hear_others(record, report.tcp, report.counted, report.others, passed_s)
        cpu = backend.cpu if report.cpu is None else report.cpu
        if report.cpu is None and backend.static is not None:
            each = max(EACH_MIN, self._cpu / self._sessions) if self._sessions > SESSIONS_MIN else EACH_UNKNOWN
            record.assume_cpu(min(1.0, cpu / 100 / CROWDED), self._lengths.long_share, FULL, each)
        else:
            self._hear_cpu(record, cpu / 100, report.counted + record.told_foreign, passed_s)
        if report.cpu is None or passed_s:
            self._hear_other_programs(record, None if report.cpu is None else cpu / 100, passed_s)
            left = record.left
            record.tie = 1.0 if left == 1 else left * exp(round(-LEFT_STEPS * log(left)) / LEFT_STEPS + NOTHING)
        memory = backend.memory if report.memory is None else report.memory
        if (
            memory >= self._memory_watched
            or report.load is not None
            or self._brake.knows_loads
            or backend.losses.rate
            or record.fail
            or record.hasty_in_a_row
        ):
            self._brake.settle(backend, record, self._now)
        else:
            record.full, record.reason, left = False, None, record.left
            record.brake = 1.0 if left == 1 else 1 / left  # one object for all: records are many

    def _hear_others(
        self, record: DelayRecord, tcp: int | None, counted: int, claimed: int | None, passed_s: float
    ) -> None:
        """Take in the host's connections `tcp`, `counted` of them ours, and what other proxies claim; None if unknown.

        Where neither is known, the mean over the pool stands in.
        """
        before = record.told_foreign
        if tcp is not None:
            foreign = float(tcp - counted) if tcp > counted else 0.0
            unclaimed = (foreign - claimed if claimed < foreign else 0.0) if claimed else foreign
            base = unclaimed if record.base is None else record.base
            risen = base + (unclaimed - base) * (passed_s / IDLE_S if passed_s < IDLE_S else 1)
            record.base = base = unclaimed if unclaimed < risen else risen
            foreign -= base
        elif claimed is not None:
            foreign = float(claimed)
        else:
            foreign = max(0.0, self._others / len(self._places))
        record.told_foreign = record.foreign = foreign or 0.0
        record.usual_foreign += (foreign - record.usual_foreign) * min(1.0, passed_s / USUAL_FOREIGN_S)
        record.fades_s = self._lengths.scale_s
        self._others += foreign - before

    def _hear_cpu(self, record: DelayRecord, cpu: float, sessions: float, passed_s: float) -> None:
        """Take in the CPU (a fraction) of a host that had so many sessions."""
        if passed_s:
            kept, slowly = exp(-passed_s / CPU_S), exp(-passed_s / SPEED_S)
            u, m, slow_u, slow_m = record.recent_cpu, record.recent_sessions, record.slow_cpu, record.slow_sessions
            record.recent_cpu, record.recent_sessions = cpu + (u - cpu) * kept, sessions + (m - sessions) * kept
            record.slow_cpu = cpu + (slow_u - cpu) * slowly
            record.slow_sessions = sessions + (slow_m - sessions) * slowly
            self._cpu += record.recent_cpu - u
            self._sessions += record.recent_sessions - m
            self._slow_cpu += record.slow_cpu - slow_u
            self._slow_sessions += record.slow_sessions - slow_m
        shared = record.recent_cpu / CROWDED
        record.shared = shared if shared < 1 else 1.0
        record.long_share = self._lengths.long_share
        if record.long_share:
            each = max(EACH_MIN, self._cpu / self._sessions) if self._sessions > SESSIONS_MIN else EACH_UNKNOWN
            record.cpu_each = each
            record.cpu_room = FULL - record.recent_cpu + record.recent_sessions * each
            if self._slow_cpu > NOTHING and self._slow_sessions > NOTHING:
                usual = self._slow_cpu / self._slow_sessions
                speed = (record.slow_sessions + SPEED_PRIOR) * usual / (record.slow_cpu + SPEED_PRIOR * usual)
                record.inverse_speed = 1 / sqrt(min(SPEED_MAX, max(1 / SPEED_MAX, speed)))

    def _hear_other_programs(self, record: DelayRecord, cpu: float | None, passed_s: float) -> None:
        """Take in the CPU (a fraction) that a host reports `passed_s` after its last report, None if it knows none."""
        before = record.left if record.tells_cpu else 1.0
        if record.tells_cpu is not (cpu is not None):
            record.tells_cpu = cpu is not None
            self._tellers += 1 if record.tells_cpu else -1
        if cpu is None:
            self._taken += before - 1
            record.left = 1 - self._taken / self._tellers if self._tellers else 1.0
            return
        busy = 1.0
        if record.told_foreign < 1 and record.busy_s < passed_s:
            busy -= (1 - record.busy_s / passed_s) * (1 - record.told_foreign)
        record.busy_s = 0.0
        record.busy = busy = busy + (record.busy - busy) * exp(-passed_s / SAMPLE_S)
        kept = exp(-passed_s / OTHER_CPU_S)
        record.beyond = beyond = cpu - busy + (record.beyond - cpu + busy) * kept
        record.vacant = vacant = 1 - busy + (record.vacant - 1 + busy) * kept
        taken = beyond / (vacant + VACANT_MIN)
        record.left = left = max(LEFT_MIN, (1 - taken) / (1 - self._cpu_from)) if taken > self._cpu_from else 1.0
        self._taken += before - left

    def _settle_rate(self, record: DelayRecord, now: float) -> None:
        """Forget what is old, and take in the pool's rate."""
        passed_s = now - record.settled_at
        since = record.finished - record.prior, max(0.0, record.spent_s - record.prior_s)
        kept = exp(-max(passed_s / RATE_S, (since[0] - record.recent_finished) / RATE_DEPARTURES))
        finished, spent_s = since[0] * kept, since[1] * kept
        known = self._rate_weights > 0
        rate = self._rate if known or not (finished and spent_s) else finished / spent_s
        if known or (finished and spent_s):
            known = True
            log_rate = log((finished + PRIOR) / (spent_s + PRIOR / rate))
            weight = (finished + UNMEASURED) / (finished + PRIOR)
            self._rate_weights += weight - record.rate_weight
            self._log_rates += log_rate * weight - record.log_rate
            record.rate_weight, record.log_rate = weight, log_rate * weight
            self._rate = rate = min(RATE_MAX, max(RATE_MIN, exp(self._log_rates / self._rate_weights)))
            record.settle_pace(*since, exp(-passed_s / USUAL_S), PRIOR, rate)
        record.recent_finished, record.recent_spent_s = finished, spent_s
        record.prior = PRIOR if known else PRIOR_AT_FIRST
        record.finished = finished + record.prior
        record.least_s = 1 / (FASTEST * rate)
        record.spent_s = max(spent_s + record.prior / rate, record.finished * record.least_s)
        record.prior_s = record.spent_s - spent_s
        record.pool_rate = rate
        if record.ghosts:
            record.ghosts *= exp((record.settled_at - now) / self._lengths.scale_s)
            record.idle = 1 + record.ghosts * record.inverse_weight
        record.settled_at = now

    def _new_place(self, backend: Backend) -> DelayRecord:
        record = DelayRecord(backend, self._now)
        record.turn = self._time
        record.pool_rate = self._rate
        record.finished = record.prior = PRIOR if self._rate_weights > 0 else PRIOR_AT_FIRST
        record.spent_s = record.prior_s = record.prior / self._rate
        return record

    def _dropped(self, place: DelayRecord) -> None:
        self._others -= place.told_foreign
        if place.tells_cpu:
            self._tellers -= 1
            self._taken -= 1 - place.left
        self._cpu -= place.recent_cpu
        self._sessions -= place.recent_sessions
        self._slow_cpu -= place.slow_cpu
        self._slow_sessions -= place.slow_sessions
        self._log_rates -= place.log_rate
        self._rate_weights -= place.rate_weight
        if self._rate_weights < NOTHING:  # what rounding has left
            self._log_rates = self._rate_weights = 0.0
        self._weights.replace(place.registered_weight, 0)
        self._lengths.leave(place)
        self._brake.leave(place)

    def _compact(self) -> None:
        """See `Ranked`. Sums are added up anew: those that are only corrected gather rounding errors."""
        super()._compact()
        records = list(self._places.values())
        self._others = sum(record.told_foreign for record in records)
        self._taken = sum(1 - record.left for record in records if record.tells_cpu)
        self._cpu = sum(record.recent_cpu for record in records)
        self._sessions = sum(record.recent_sessions for record in records)
        self._slow_cpu = sum(record.slow_cpu for record in records)
        self._slow_sessions = sum(record.slow_sessions for record in records)
        self._log_rates = sum(record.log_rate for record in records)
        self._rate_weights = sum(record.rate_weight for record in records)
        self._lengths.recompute(records)
