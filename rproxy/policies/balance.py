"""How evenly a policy spreads clients and sessions over back-ends, each relative to its weight."""

from __future__ import annotations

from math import sqrt
from typing import Final

from rproxy.wire.pdu import WEIGHT_NORMAL

RECENT_S: Final = 60.0
"""What counts as recent."""
BUCKETS: Final = 12
BUCKET_S: Final = RECENT_S / BUCKETS


def bucket_of(now: float) -> int:
    """The number of the bucket that `now` falls into."""
    return int(now / BUCKET_S)


class Recent:
    """How often something has happened within `RECENT_S`, to the nearest `BUCKET_S`. Buckets never decrease."""

    __slots__ = ("_bucket", "_counts")

    def __init__(self) -> None:
        self._bucket = 0
        self._counts = [0] * BUCKETS

    def add(self, bucket: int) -> None:
        """Count one in this bucket."""
        if bucket != self._bucket:
            self._expire(bucket)
        self._counts[bucket % BUCKETS] += 1

    def total(self, bucket: int) -> int:
        """How often in the last `BUCKETS` buckets, `bucket` included."""
        self._expire(bucket)
        return sum(self._counts)

    def _expire(self, bucket: int) -> None:
        for each in range(max(self._bucket, bucket - BUCKETS) + 1, bucket + 1):
            self._counts[each % BUCKETS] = 0
        self._bucket = bucket


class Moments:
    """Mean and standard deviation of figures, one for each back-end, of which each may change at any time."""

    __slots__ = ("count", "squares", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.squares = 0.0

    def add(self, figure: float) -> None:
        """Add a figure."""
        self.count += 1
        self.replace(0.0, figure)

    def remove(self, figure: float) -> None:
        """Remove a figure."""
        self.count -= 1
        self.replace(figure, 0.0)
        if not self.count:  # sums of fractions leave remainders
            self.sum = self.squares = 0.0

    def replace(self, before: float, after: float) -> None:
        """Replace a figure."""
        self.sum += after - before
        self.squares += after * after - before * before

    @property
    def mean(self) -> float:
        """0 where there are none."""
        return self.sum / self.count if self.count else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of all of them; 0 where there are none."""
        if not self.count:
            return 0.0
        mean = self.sum / self.count
        variance = self.squares / self.count - mean * mean
        return sqrt(variance) if variance > 0 else 0.0


class Share:
    """One back-end's sessions now, and how often it was chosen; see `Balance`."""

    __slots__ = ("choices", "is_counted", "recent", "scale", "sessions")

    def __init__(self, sessions: int) -> None:
        self.sessions = sessions
        self.choices = 0
        self.recent = Recent()
        self.scale = 1.0
        self.is_counted = False


class Balance:
    """The shares of all back-ends under one policy. Figures are relative to weight: for one of `WEIGHT_NORMAL`.

    Only back-ends that can get clients are compared. What clients find is noted when they come: the standard deviation
    of sessions, and the most sessions that any back-end has then, the client's included.
    """

    def __init__(self) -> None:
        self.sessions = Moments()
        self.choices = Moments()
        self.peak = 0.0
        """The most sessions that a back-end has had."""
        self._deviations = 0.0
        self._arrivals = 0
        self._bucket = 0
        self._recent: list[tuple[int, float, float]] = [(0, 0.0, 0.0)] * BUCKETS
        """By bucket: arrivals, the sum of the deviations that they found, and the peak."""

    def weigh(self, share: Share, weight: int, *, counts: bool) -> None:
        """Set a back-end's weight, and whether it can get clients."""
        scale = WEIGHT_NORMAL / max(weight, 1)
        if counts is share.is_counted and scale == share.scale:
            return
        if share.is_counted:
            self.sessions.remove(share.sessions * share.scale)
            self.choices.remove(share.choices * share.scale)
        share.is_counted, share.scale = counts, scale
        if counts:
            self.sessions.add(share.sessions * scale)
            self.choices.add(share.choices * scale)

    def arrived(self, share: Share | None, bucket: int) -> None:
        """Note a client, and the back-end that it got, if any. Called for every session, so it makes few calls."""
        sessions = self.sessions
        deviation = sessions.deviation
        self._arrivals += 1
        self._deviations += deviation
        if bucket != self._bucket:
            self._expire(bucket)
        arrivals, deviations, peak = self._recent[bucket % BUCKETS]
        if share is not None:
            scale, before, chosen = share.scale, share.sessions, share.choices
            share.sessions, share.choices = before + 1, chosen + 1
            share.recent.add(bucket)
            if share.is_counted:
                sessions.sum += scale
                sessions.squares += (2 * before + 1) * scale * scale
                choices = self.choices
                choices.sum += scale
                choices.squares += (2 * chosen + 1) * scale * scale
                most = (before + 1) * scale
                if most > peak:
                    peak = most
                    self.peak = max(self.peak, most)
        self._recent[bucket % BUCKETS] = arrivals + 1, deviations + deviation, peak

    def _expire(self, bucket: int) -> None:
        for each in range(max(self._bucket, bucket - BUCKETS) + 1, bucket + 1):
            self._recent[each % BUCKETS] = (0, 0.0, 0.0)
        self._bucket = bucket

    def closed(self, share: Share) -> None:
        """Note the end of a session."""
        before = share.sessions * share.scale
        share.sessions -= 1
        if share.is_counted:
            self.sessions.replace(before, before - share.scale)

    @property
    def mean_deviation(self) -> float:
        """The mean, over all clients, of the standard deviation of sessions when they came; 0 before the first."""
        return self._deviations / self._arrivals if self._arrivals else 0.0

    def recent(self, bucket: int) -> tuple[float, float]:
        """The same over the last `RECENT_S`, and the most sessions that a back-end had then."""
        kept = [self._recent[each % BUCKETS] for each in range(max(bucket - BUCKETS + 1, 0), self._bucket + 1)]
        arrivals = sum(each[0] for each in kept)
        deviations = sum(each[1] for each in kept)
        return (deviations / arrivals if arrivals else 0.0), max((each[2] for each in kept), default=0.0)
