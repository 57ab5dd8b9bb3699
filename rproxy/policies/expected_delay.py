"""The back-end where a client is expected to wait the least."""

from __future__ import annotations

from typing import Final

from rproxy.policies.brake import FACTORS
from rproxy.policies.delay_estimates import DelayEstimates
from rproxy.policies.delay_record import FULL, DelayRecord
from rproxy.policies.ranked import Rank
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Explanation

STEPS: Final = 16
"""Delays are compared in steps of 1 / this: 6 % of what an idle back-end takes for a session."""
FRACTION: Final = 0.2
"""With fewer sessions of others a back-end is idle: between reports their number is an average, and no whole one."""
ROOM_MIN: Final = 0.1
"""Below so much free CPU, as a fraction, the delay by CPU grows linearly, and not to infinity."""


class ExpectedDelayPolicy(DelayEstimates):
    """Compares how long a client is expected to wait::

        delay = (1 + sessions / weight) / rate * brake

    Sessions are our own, those of others by the last report, and what is left of those that ended too soon to be
    believed. The rate is the one at which the back-end finishes sessions, relative to the pool's. What `Brake` finds,
    multiplies the delay. Where sessions are long, so that their ends say little, CPU takes over: the delay is then
    delay^(1 - φ) * (1 / (1.05 - CPU) / speed^½)^φ, with φ = `SessionLengths.long_share` and the CPU that the sessions
    opened since the last report are expected to take.

    Delays that differ by less than can be told from so few sessions are ties, and ties are broken in turn. Where
    weights differ, turns by weight are part of the delay: an idle back-end of weight 5 beside others of 100 is chosen
    once in 20 of their turns.
    """

    def _rank(self, backend: Backend, place: DelayRecord) -> Rank:
        counts = backend.counts
        ours = counts.pending + counts.established
        if self._now >= place.grows_at:
            place.pass_time(ours, ours, self._now)
        seen = ours + place.foreign
        delay = idle = place.idle * place.idle_pace
        if seen >= FRACTION:
            if ours:
                delay = (place.idle + seen * place.inverse_weight) * place.pace
            if (place.calm or not ours) and delay < (
                free := (place.idle + place.foreign * place.inverse_weight) * place.free_pace
            ):
                delay = free
            if delay < idle:
                delay = idle
        if place.long_share:
            share, room = place.long_share, place.cpu_room - seen * place.cpu_each
            crowded = 1 / room if room > ROOM_MIN else 1 / ROOM_MIN + (ROOM_MIN - room) / ROOM_MIN**2
            delay *= (crowded * place.inverse_speed / delay) ** share
        if self._weighted:
            time = self._time
            delay += time
            if delay < place.turn + idle:  # a turn counts for no more than the sessions that it has brought
                delay = place.turn + idle
        return (int(delay * STEPS), 0.0)

    def _peek(self, backend: Backend, place: DelayRecord) -> Rank:
        if self._now < place.grows_at:
            return self._rank(backend, place)
        aged = place.aged
        rank = self._rank(backend, place)
        place.aged = aged
        return rank

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: the delay relative to that of an idle back-end as fast as the pool."""
        self._now = now
        record: DelayRecord = self._places.get(backend) or self._new_place(backend)
        steps, _ = self._rank(backend, record) if now < record.grows_at else self._peek(backend, record)
        return steps / STEPS - self._time if self._weighted else steps / STEPS

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`."""
        value = self.value(backend, now)
        record: DelayRecord = self._places.get(backend) or self._new_place(backend)
        if now < record.grows_at:
            return Explanation(value, self._terms(backend, record, now))
        aged = record.aged
        self._rank(backend, record)
        terms = self._terms(backend, record, now)
        record.aged = aged
        return Explanation(value, terms)

    def _terms(self, backend: Backend, record: DelayRecord, now: float) -> dict[str, float]:
        """What its delay is made of, as `_rank` has left the record."""
        terms = {
            "own sessions": float(backend.connections),
            "others' sessions": record.foreign,
            "sessions too short": record.ghosts,
            "weight": 1 / record.inverse_weight,
            "rate": record.brake / (record.pace if backend.connections else record.free_pace),
        }
        factors = self._brake.factors(backend, record, now)
        terms |= {f"{name} factor": factor for name, factor in zip(FACTORS, factors, strict=True) if factor != 1}
        if record.long_share:
            seen = backend.connections + record.foreign
            terms["CPU expected"] = FULL - record.cpu_room + seen * record.cpu_each
            terms["share of CPU"] = record.long_share
        if self._weighted:
            terms["turns ahead"] = max(0.0, record.turn - self._time)
        return terms
