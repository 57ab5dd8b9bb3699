"""Estimates from probes: round-trip time and loss of a path, the agent's figures, and their means over the pool."""

from __future__ import annotations

from typing import Final

import attrs

INITIAL_RTT_MS = 200.0
RTT_GAIN = 1 / 8
RTT_SPACING_S: Final = 4.5
"""A sample that follows the one before sooner than this has less than `RTT_GAIN`, in proportion: the average covers
about the same time at any rate of probes. The default probe interval with its jitter is never shorter.
"""
RTT_SAMPLES = 8
"""The least number of samples for an average."""
LOSS_WINDOW = 100
"""Slots of a `LossWindow`."""
LOSS_SLOT_S: Final = 1.0
_TOLERANCE_S: Final = 1e-6
_SLOT_MAX: Final = 255
"""Probes in a slot, at most: it is a byte."""
UNKNOWN_PERCENT: Final = 50
"""The least value assumed for an unknown percentage, so that it never looks idle."""
CPU, MEMORY, OTHERS, LOAD, CLAIMED = range(5)
"""Indices of `Figures`."""
RTT_MEAN_GAIN: Final = 1 / 64
LOSS_MEAN_GAIN: Final = 1 / 512
"""Of one round trip, and of one probe, in the pool's means."""

Figures = tuple[int | None, ...]
"""One back-end's CPU and memory in percent, its TCP connections that are not our sessions, its application's load in
percent, and the sessions of other proxies, as they told the agent; None where unknown.
"""
NO_FIGURES: Final[Figures] = (None,) * 5


@attrs.define
class SmoothedRtt:
    """Round-trip time, in ms: the last sample, and a moving average that starts at 200 ms.

    The report's traces (figures 5.4 and 5.10) fit a gain of 1/8, which is also RFC 6298's. The report cut every
    step to whole milliseconds; here they stay fractions, since a LAN's round trip is below one. Samples closer
    together than `RTT_SPACING_S` have a smaller gain.
    """

    last_ms: float | None = None
    smoothed_ms: float = INITIAL_RTT_MS
    _samples: int = 0
    _sampled_at: float = float("-inf")
    _of_start: float = 1.0
    """The weight that the initial 200 ms still have in `smoothed_ms`."""

    def add(self, sample_ms: float, now: float) -> None:
        """Add a sample, in ms, at the time `now`, in s."""
        spacing_s = now - self._sampled_at
        gain = RTT_GAIN if spacing_s >= RTT_SPACING_S else RTT_GAIN * spacing_s / RTT_SPACING_S
        self.last_ms = sample_ms
        self.smoothed_ms += (sample_ms - self.smoothed_ms) * gain
        self._sampled_at = now
        self._of_start *= 1 - gain
        self._samples += 1

    @property
    def average_ms(self) -> float | None:
        """The moving average without the remainder of its initial 200 ms; None for fewer than `RTT_SAMPLES`."""
        if self._samples < RTT_SAMPLES:
            return None
        return (self.smoothed_ms - INITIAL_RTT_MS * self._of_start) / (1 - self._of_start)


@attrs.define
class LossWindow:
    """The fraction (0..1) of lost probes among the last 100 that ended, or among those of about the last 100 s if these
    are more; 0 while none has ended.

    The report counted over a lifetime; a window forgets the losses of a path that has recovered. It is a ring of
    `LOSS_WINDOW` slots. A slot counts all probes that end within `LOSS_SLOT_S` of its first one, so that at lower rates
    it is for one probe.
    """

    rate: float = attrs.field(init=False, default=0.0)
    _ended: bytearray = attrs.field(init=False, factory=lambda: bytearray(LOSS_WINDOW), repr=False)
    _lost: bytearray = attrs.field(init=False, factory=lambda: bytearray(LOSS_WINDOW), repr=False)
    _slot: int = attrs.field(init=False, default=0)
    _slot_until: float = attrs.field(init=False, default=float("-inf"))
    _all_ended: int = attrs.field(init=False, default=0)
    _all_lost: int = attrs.field(init=False, default=0)

    def add(self, now: float, *, lost: bool) -> None:
        """Add a probe that was answered or lost at the time `now`, in s."""
        slot = self._slot
        if now >= self._slot_until or self._ended[slot] == _SLOT_MAX:
            slot = self._slot = (slot + 1) % LOSS_WINDOW
            self._slot_until = now + LOSS_SLOT_S - _TOLERANCE_S
            self._all_ended -= self._ended[slot]
            self._all_lost -= self._lost[slot]
            self._ended[slot] = self._lost[slot] = 0
        self._ended[slot] += 1
        self._lost[slot] += lost
        self._all_ended += 1
        self._all_lost += lost
        self.rate = self._all_lost / self._all_ended


@attrs.define(eq=False)
class PoolMeans:
    """The means of the known figures of all back-ends that are up, in constant time and memory."""

    rtt_ms: float = attrs.field(init=False, default=0.0)
    """Of the last round-trip times measured, of whatever back-end; 0 before the first."""
    loss: float = attrs.field(init=False, default=0.0)
    """The fraction of the last probes that were lost, of whatever back-end."""
    _totals: list[int] = attrs.field(init=False, factory=lambda: [0] * len(NO_FIGURES))
    _counts: list[int] = attrs.field(init=False, factory=lambda: [0] * len(NO_FIGURES))

    def replace(self, before: Figures, after: Figures) -> None:
        """One back-end's figures have changed; `NO_FIGURES` before it contributes, and after."""
        totals, counts = self._totals, self._counts
        for index in (CPU, MEMORY, OTHERS, LOAD, CLAIMED):
            old, new = before[index], after[index]
            if old is not None:
                totals[index] -= old
                counts[index] -= 1
            if new is not None:
                totals[index] += new
                counts[index] += 1

    def mean(self, index: int) -> float | None:
        """None where no back-end contributes."""
        return self._totals[index] / self._counts[index] if self._counts[index] else None

    def percent(self, known: int | None, index: int, least: int = UNKNOWN_PERCENT) -> float:
        """A percentage, or if it is unknown the pool's mean, but at least `least`: it counts as saturated where the
        pool is, and not as idle. `UNKNOWN_PERCENT` if nothing is known of the whole pool.
        """
        if known is not None:
            return known
        mean = self.mean(index)
        return UNKNOWN_PERCENT if mean is None else max(mean, least)


@attrs.define
class Report:
    """An agent's last report: percentages 0..100 and the host's established TCP connections, None where unknown.

    `counted` is how many of our sessions were established when the probe left, and so are part of `tcp`. `load` is
    the application's, in percent. `others` is how many sessions other proxies have on it, as they told the agent.
    """

    cpu: int | None = None
    memory: int | None = None
    load: int | None = None
    tcp: int | None = None
    counted: int = 0
    others: int | None = None
    _contributed: Figures = attrs.field(init=False, default=NO_FIGURES, repr=False)

    def contribute(self, means: PoolMeans, is_up: bool) -> None:
        """Update this report's contribution to `means`; only back-ends that are up contribute."""
        figures = NO_FIGURES
        if is_up:
            others = None if self.tcp is None else max(self.tcp - self.counted, 0)
            figures = (self.cpu, self.memory, others, self.load, self.others)
        if figures != self._contributed:
            means.replace(self._contributed, figures)
            self._contributed = figures
