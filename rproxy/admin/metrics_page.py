"""`/metrics` in Prometheus' text format, version 0.0.4, rendered piece by piece.

prometheus_client writes the headings, the numbers, and the metrics of Python itself. The lines of back-ends are written
here: prometheus_client takes 4 µs for each, and 1,000 back-ends have 31,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import attrs
from prometheus_client import GCCollector, PlatformCollector
from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from rproxy.observe.backend_metrics import BACKEND_FAMILIES, BackendRow
from rproxy.observe.histogram import Histogram
from rproxy.observe.metric_family import Family, Of, Reading
from rproxy.observe.process_figures import open_descriptors, process_figures
from rproxy.observe.process_metrics import PROCESS_FAMILIES, ProcessRow
from rproxy.observe.service_figures import UNSEEN
from rproxy.observe.service_metrics import SERVICE_FAMILIES, ServiceRow
from rproxy.observe.status_json import Ended, ServiceView
from rproxy.pool.states import State
from rproxy.sessions.capacity import Capacity
from rproxy.sources.agents.counters import Counters

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
AT_ONCE: Final = 400
"""Rows of a family written in one piece: half a millisecond, and at most 64 KiB."""
AT_ONCE_SLOW: Final = 50
"""The same if each takes some µs to read."""
SERVICES_AT_ONCE: Final = 20
_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labelled = tuple[str, Of]
"""What is read, after its labels as they are written."""


class MetricsPage:
    """The page. `views` returns the services; `ended` the totals over all that there have been."""

    def __init__(
        self,
        views: Callable[[], Sequence[ServiceView]],
        ended: Callable[[], Ended],
        datagrams: Counters,
        capacity: Capacity,
    ) -> None:
        self._views = views
        self._ended = ended
        self._datagrams = datagrams
        self._capacity = capacity
        self._python = CollectorRegistry()
        PlatformCollector(registry=self._python)
        GCCollector(registry=self._python)

    def rendered(self) -> Iterator[bytes]:
        """The page in pieces that take a millisecond at most each; some are empty.

        Back-ends are those that there are at the first piece, except the forgotten; their figures are those of the time
        at which each is written.
        """
        views = self._views()
        rows: list[Labelled[BackendRow]] = []
        for part in (part for view in views for part in _parts(view)):
            rows += part
            yield b""
        for family in BACKEND_FAMILIES:
            yield from _pieces(family, rows, AT_ONCE_SLOW if family.is_slow else AT_ONCE, _is_known)
        services = [(_labels(service=view.service.name), _service_row(view)) for view in views]
        for of_service in SERVICE_FAMILIES:
            yield from _pieces(of_service, services, SERVICES_AT_ONCE)
        open_fds = yield from open_descriptors()
        process = [("", self._process_row(open_fds))]
        yield b"".join(piece for each in PROCESS_FAMILIES for piece in _pieces(each, process, AT_ONCE))
        yield generate_latest(self._python)

    def _process_row(self, open_fds: int | None) -> ProcessRow:
        sessions = sum(view.service.sessions for view in self._views())
        return ProcessRow(self._ended(), sessions, self._capacity, self._datagrams, process_figures(open_fds))


def _service_row(view: ServiceView) -> ServiceRow:
    return ServiceRow(view.service, view.ended(), view.service.sessions, view.figures)


def _parts(view: ServiceView) -> Iterator[list[Labelled[BackendRow]]]:
    """The service's back-ends, `AT_ONCE` at a time."""
    service, known, now = view.service, list(view.service.pool), view.service.seconds()
    for start in range(0, len(known), AT_ONCE):
        yield [
            (
                _labels(service=service.name, backend=backend.name),
                BackendRow(backend, view.figures.backends.get(backend, UNSEEN), service, now),
            )
            for backend in known[start : start + AT_ONCE]
        ]


def _is_known(row: BackendRow) -> bool:
    return row.backend.state is not State.FORGOTTEN


def _pieces(
    family: Family[Of], rows: Sequence[Labelled[Of]], at_once: int, has: Callable[[Of], bool] = lambda row: True
) -> Iterator[bytes]:
    """The family with its heading, `at_once` of those rows at a time that `has` says yes to."""
    text = heading(family)
    for start in range(0, len(rows), at_once):
        lines = [_lines(family, labels, family.read(row)) for labels, row in rows[start : start + at_once] if has(row)]
        yield (text + "".join(lines)).encode(errors="replace")
        text = ""
    if text:
        yield text.encode()


def heading(family: Family[Any]) -> str:
    """Its HELP and TYPE."""
    return generate_latest(_One(Metric(family.name.removesuffix("_total"), family.text, family.kind))).decode()


@attrs.frozen
class _One(Collector):
    """A registry of one metric."""

    metric: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.metric,)


def _lines(family: Family[Any], labels: str, reading: Reading) -> str:
    if reading is None:
        return ""
    if isinstance(reading, int | float):
        return _line(family.name, labels, reading)
    if isinstance(reading, Histogram):
        return _histogram(family.name, labels, reading)
    return "".join(
        _line(family.name, _joined(labels, _labels(**{family.label: key})), value) for key, value in reading.items()
    )


def _histogram(name: str, labels: str, histogram: Histogram) -> str:
    buckets = [(floatToGoString(bound), count) for bound, count in histogram.cumulative()]
    lines = [_line(f"{name}_bucket", _joined(labels, f'le="{bound}"'), count) for bound, count in buckets]
    return "".join(
        [*lines, _line(f"{name}_sum", labels, histogram.sum), _line(f"{name}_count", labels, buckets[-1][1])]
    )


def _line(name: str, labels: str, value: float) -> str:
    number = f"{value:d}" if isinstance(value, int) else floatToGoString(value)
    return f"{name}{{{labels}}} {number}\n" if labels else f"{name} {number}\n"


def _labels(**values: str) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPED)}"' for name, value in values.items())


def _joined(labels: str, further: str) -> str:
    return f"{labels},{further}" if labels else further
