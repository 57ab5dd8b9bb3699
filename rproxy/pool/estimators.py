"""What a series of probes says about a path: its round-trip time and its loss."""

from __future__ import annotations

import attrs

INITIAL_RTT_MS = 200.0
RTT_GAIN = 1 / 8
RTT_SAMPLES = 8
"""How many an average is made of at least."""
LOSS_WINDOW = 100


@attrs.define
class SmoothedRtt:
    """Round-trip time, in ms: the last sample, and a moving average that starts at 200 ms.

    The report's traces (figures 5.4 and 5.10) fit a gain of 1/8, which is also RFC 6298's. The report cut every
    step to whole milliseconds; here they stay fractions, since a LAN's round trip is below one.
    """

    last_ms: float | None = None
    smoothed_ms: float = INITIAL_RTT_MS
    _samples: int = 0

    def add(self, sample_ms: float) -> None:
        self.last_ms = sample_ms
        self.smoothed_ms += (sample_ms - self.smoothed_ms) * RTT_GAIN
        self._samples += 1

    @property
    def average_ms(self) -> float | None:
        """The moving average without what is left in it of its start, which no path ever had; None for few samples."""
        if self._samples < RTT_SAMPLES:
            return None
        of_start = (1 - RTT_GAIN) ** self._samples
        return (self.smoothed_ms - INITIAL_RTT_MS * of_start) / (1 - of_start)


_FULL = (1 << LOSS_WINDOW) - 1


@attrs.define
class LossWindow:
    """The share (0..1) of lost probes among the last 100 that ended, 0 while none has.

    A window, where the report counted a lifetime, so that a path that recovers is seen to.
    """

    _lost: int = 0
    _count: int = 0

    def add(self, *, lost: bool) -> None:
        self._lost = (self._lost << 1 | lost) & _FULL
        if self._count < LOSS_WINDOW:
            self._count += 1

    @property
    def rate(self) -> float:
        return self._lost.bit_count() / self._count if self._count else 0.0
