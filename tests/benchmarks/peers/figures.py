"""Figures, their medians and ratios to HAProxy, and the ratios to reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from statistics import median
from typing import Final

import attrs

OURS: Final = "splice"
UNPROBED: Final = "freshness-off"
"""Ours without probes on demand."""
HEADED: Final = "proxy-v2"
"""Ours with a PROXY header of version 2 to the back-end."""
LOGGED: Final = "access-log"
"""Ours with an access log."""
WATCHED: Final = "operators"
"""Ours with that and the operators' listener, which nobody asks anything."""
HAPROXY: Final = "haproxy"
HAPROXIES: Final = (HAPROXY, "haproxy-splice")
"""One program in two configurations; figures are compared to the better one of each."""
TITLES: Final = {
    OURS: ("rproxy", "splice"),
    UNPROBED: ("rproxy", UNPROBED),
    HEADED: ("rproxy", "PROXY v2"),
    LOGGED: ("rproxy", "access log"),
    WATCHED: ("rproxy", "log, admin"),
    "portable": ("rproxy", "portable"),
    HAPROXY: ("HAProxy", ""),
    "haproxy-splice": ("HAProxy", "splice"),
    "haproxy-proxy-v2": ("HAProxy", "PROXY v2"),
    "nginx": ("nginx", "stream"),
    "portforward": ("Twisted", "portforward"),
    "direct": ("no proxy", ""),
}
"""Every peer, and the two lines above its column."""


@attrs.frozen
class Figure:
    key: str
    label: str
    row: str
    """The measurement that yields it."""
    digits: int = 0
    more_is_better: bool = False
    compared: bool = True
    """Whether its ratio to HAProxy's is meaningful."""


FIGURES: Final = (
    Figure("connections_per_s", "new connections/s", "connections", more_is_better=True),
    Figure("connection_cpu_us", "CPU µs/connection", "connections", 1),
    Figure("connection_user_us", "… user", "connections", 1),
    Figure("connection_system_us", "… system", "connections", 1),
    Figure("requests_per_s", "requests/s, kept", "requests", more_is_better=True),
    Figure("request_cpu_us", "CPU µs/request", "requests", 1),
    Figure("latency_p50_us", "p50 µs at 60 %", "latency"),
    Figure("latency_p99_us", "p99 µs at 60 %", "latency"),
    Figure("delay_p99_us", "… client's own delay", "latency", compared=False),
    Figure("download_mb_per_s", "download MB/s", "download", more_is_better=True),
    Figure("download_cpu_s_per_gb", "… CPU s/GB", "download", 3),
    Figure("upload_mb_per_s", "upload MB/s", "upload", more_is_better=True),
    Figure("upload_cpu_s_per_gb", "… CPU s/GB", "upload", 3),
    Figure("tls_new_cpu_us", "CPU µs/TLS connection", "tls-connections"),
    Figure("tls_reuse_cpu_us", "… session resumed", "tls-resumed"),
    Figure("tls_download_mb_per_s", "TLS download MB/s", "tls-download", more_is_better=True),
    Figure("tls_download_cpu_s_per_gb", "… CPU s/GB", "tls-download", 3),
    Figure("tls_upload_mb_per_s", "TLS upload MB/s", "tls-upload", more_is_better=True),
    Figure("tls_upload_cpu_s_per_gb", "… CPU s/GB", "tls-upload", 3),
    Figure("idle_kb", "kB/idle connection", "memory", 2),
)
BUSY: Final = (
    Figure("connections_busy", "new connections", "connections", compared=False),
    Figure("requests_busy", "requests, kept", "requests", compared=False),
    Figure("download_busy", "download", "download", compared=False),
    Figure("upload_busy", "upload", "upload", compared=False),
)
"""Percent of a core that the proxy used meanwhile."""


@attrs.frozen
class Goal:
    """The ratio of `peer`'s figure to `other`'s that is to be reached; to HAProxy's better one if that is None."""

    figure: Figure
    bound: float
    other: str | None = None
    peer: str = OURS

    def reached(self, ratio: float) -> bool:
        return ratio >= self.bound if self.figure.more_is_better else ratio <= self.bound


_BY_KEY: Final = {figure.key: figure for figure in FIGURES}
GOALS: Final = (
    *(
        Goal(_BY_KEY[key], bound)
        for key, bound in [
            ("connections_per_s", 1.0),
            ("connection_cpu_us", 1.0),
            ("requests_per_s", 1.0),
            ("latency_p99_us", 1.1),
            ("download_cpu_s_per_gb", 0.8),
            ("upload_cpu_s_per_gb", 0.8),
            ("idle_kb", 0.2),
        ]
    ),
    Goal(_BY_KEY["connection_cpu_us"], 1.03, UNPROBED),
    Goal(_BY_KEY["connection_cpu_us"], 1.1, OURS, HEADED),
    Goal(_BY_KEY["connection_cpu_us"], 1.03, OURS, LOGGED),
    Goal(_BY_KEY["connection_cpu_us"], 1.05, OURS, WATCHED),
)


@attrs.define
class Results:
    """The figures of all rounds."""

    peers: Sequence[str]
    rows: Sequence[str]
    rounds: list[dict[str, dict[str, float]]] = attrs.field(init=False, factory=list)
    """In each: the figures of each peer. One that failed or does not apply is missing."""
    failures: list[str] = attrs.field(init=False, factory=list)

    def begin_round(self) -> None:
        self.rounds.append({peer: {} for peer in self.peers})

    def add(self, peer: str, values: Mapping[str, float]) -> None:
        self.rounds[-1][peer].update(values)

    def fail(self, peer: str, what: str, error: object) -> None:
        self.failures.append(f"round {len(self.rounds)}, {what}, {peer}: {' '.join(str(error).split())}")

    def values(self, peer: str, figure: Figure) -> list[float | None]:
        """Round by round."""
        return [measured.get(peer, {}).get(figure.key) for measured in self.rounds]

    def median(self, peer: str, figure: Figure) -> float | None:
        return _median(self.values(peer, figure))

    def best(self, figure: Figure) -> str | None:
        """HAProxy's configuration with the better median."""
        medians = [(value, peer) for peer in HAPROXIES if (value := self.median(peer, figure)) is not None]
        return (max if figure.more_is_better else min)(medians)[1] if medians else None

    def ratio(self, peer: str, figure: Figure) -> float | None:
        """The median of the rounds' ratios: a slow moment affects both figures of one round only."""
        best = self.best(figure)
        return None if best is None else _median(self._ratios(peer, best, figure))

    def ours(self, goal: Goal) -> float | None:
        """The ratio that a goal is about."""
        if goal.other is None:
            return self.ratio(goal.peer, goal.figure)
        return _median(self._ratios(goal.peer, goal.other, goal.figure))

    def _ratios(self, peer: str, other: str, figure: Figure) -> Iterator[float | None]:
        for ours, theirs in zip_longest(self.values(peer, figure), self.values(other, figure)):
            yield ours / theirs if ours is not None and theirs else None


def _median(values: Iterator[float | None] | list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
