"""How long sessions last on a pool, and which back-ends end theirs suspiciously soon."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, inf, log
from typing import Final

from rproxy.policies.delay_record import DelayRecord
from rproxy.policies.pool_mean import PoolMean

SHORTEST_S: Final = 1e-4
"""Sessions count as at least so long: below are differences of the clock."""
LOG_SHORTEST: Final = log(SHORTEST_S)
LENGTHS_EACH: Final = 8
"""A back-end's average length is one of about so many sessions."""
MEAN_OF_MEDIAN: Final = 1.8
"""The mean length over the geometric mean: 1.78 where lengths are exponential (e to the power of Euler's
constant)."""
HASTY: Final = 0.1
"""A session is hasty if it is shorter than this fraction of the pool's geometric mean: 6 % of exponential ones are."""
HASTY_IN_A_ROW: Final = 6
"""So many hasty sessions in a row, and a back-end's are not believed: by chance once in 30 million sessions."""
FORGIVEN_S: Final = 30.0
"""Such a back-end without a session for so long is tried again."""
SCALE_MAX_S: Final = 1e5
LENGTH_S: Final = 300.0
"""How long the mean length is averaged, in s: sessions must have had time to end."""
LONG_S: Final = 2.0
"""Where sessions last so long on average, counts and CPU tell of the delay alike: 1 to 5 s made no difference."""
NEGLIGIBLE: Final = 0.05
"""A share of CPU below this is 0."""


class SessionLengths:
    """Lengths by back-end as logarithms, so that a few back-ends whose sessions end at once do not set the measure."""

    def __init__(self) -> None:
        self._logs = PoolMean()
        self.scale_s = 1.0
        """The mean length of sessions, as far as back-ends agree on it."""
        self.hasty_s = 0.0
        """Sessions shorter than this are hasty."""
        self._held_s = 0.0
        self._ended = 0.0
        self._forgot_at = -inf
        self.long_share = 0.0
        """L / (L + `LONG_S`), L the mean length: how much CPU tells of the delay."""

    def settle(self, record: DelayRecord, sessions: int, now: float) -> None:
        """Take in what ended on a back-end since its last report; `sessions` of ours are open."""
        ended = record.ended
        self._held_s += sessions * (now - record.settled_at)
        if ended:
            self._ended += ended
            average = record.log_lengths / ended
            before = record.log_length
            after = average if before is None else before + (average - before) * min(1.0, ended / LENGTHS_EACH)
            self._logs.replace(before, after)
            record.log_length, record.log_lengths, record.ended = after, 0.0, 0
            self._settle_scale()
        if now - self._forgot_at >= 1.0:
            self._forget(now)

    def _settle_scale(self) -> None:
        mean = self._logs.mean
        if mean is not None:
            self.scale_s = min(SCALE_MAX_S, MEAN_OF_MEDIAN * exp(mean))
            self.hasty_s = HASTY * exp(mean) if self._logs.count > 1 else 0.0

    def _forget(self, now: float) -> None:
        """Little's law, with sessions that are still open: mean length = time in sessions / departures."""
        kept = exp((self._forgot_at - now) / LENGTH_S)
        self._forgot_at = now
        self._held_s *= kept
        self._ended *= kept
        length_s = self._held_s / max(self._ended, 0.3)
        share = length_s / (length_s + LONG_S)
        self.long_share = share if share >= NEGLIGIBLE else 0.0

    def leave(self, record: DelayRecord) -> None:
        """A back-end has gone."""
        self._logs.replace(record.log_length, None)
        self._settle_scale()

    def recompute(self, records: Iterable[DelayRecord]) -> None:
        """See `PoolMean.recompute`."""
        self._logs.recompute(record.log_length for record in records)
