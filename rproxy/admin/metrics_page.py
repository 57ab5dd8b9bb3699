"""`/metrics` in Prometheus' text format, version 0.0.4, rendered piece by piece.

prometheus_client writes the headings, the numbers, and the metrics of Python itself. The lines of back-ends are written
here: prometheus_client takes 4 µs for each, and 1,000 back-ends have 31,000.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import attrs
from prometheus_client import GCCollector, PlatformCollector
from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from rproxy.observe.backend_metrics import BACKEND_FAMILIES, BackendRow
from rproxy.observe.histogram import Histogram
from rproxy.observe.metric_family import Family, Of
from rproxy.observe.process_figures import open_descriptors, process_figures
from rproxy.observe.process_metrics import PROCESS_FAMILIES, ProcessRow
from rproxy.observe.service_figures import UNSEEN
from rproxy.observe.service_metrics import SERVICE_FAMILIES, ServiceRow
from rproxy.observe.shadow_json import ComparedPolicies
from rproxy.observe.shadow_metrics import SHADOW_FAMILIES, ShadowRow
from rproxy.observe.status_json import ServiceView, Status
from rproxy.pool.states import State

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
AT_ONCE: Final = 1000
"""Most rows of a family written in one piece: it takes less than a millisecond."""
AT_ONCE_SLOW: Final = 100
"""The same of a family that is slow."""
SERVICES_AT_ONCE: Final = 20
PIECE_BYTES: Final = 8192
"""Small pieces are joined until they have as many."""
_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labelled = tuple[str, Of]
"""What is read, after its labels as they are written."""

Doubts = Mapping[tuple[str, str], int]
"""How many there are, by service and kind; the service is empty for those of the process."""


class MetricsPage:
    """The page. `compared` returns the services that have a shadow policy, `lost` how many records the access log has
    lost.
    """

    def __init__(
        self, status: Status, compared: Callable[[], Sequence[ComparedPolicies]], lost: Callable[[], int]
    ) -> None:
        self._status = status
        self._compared = compared
        self._lost = lost
        self._python = CollectorRegistry()
        PlatformCollector(registry=self._python)
        GCCollector(registry=self._python)

    def rendered(self) -> Iterator[bytes]:
        """The page in pieces that take a millisecond at most each; some are empty.

        Back-ends are those that there are at the first piece, except the forgotten; their figures are those of when
        each is written.
        """
        views = self._status.views()
        rows: list[Labelled[BackendRow]] = []
        for part in (part for view in views for part in _parts(view)):
            rows += part
            yield b""
        for family in BACKEND_FAMILIES:
            yield from _pieces(family, rows, AT_ONCE_SLOW if family.is_slow else AT_ONCE, _is_known)
        doubts = Counter((doubt["service"], doubt["kind"]) for doubt in self._status.doubts())
        services = [(_label("service", view.service.name), _service_row(view, doubts)) for view in views]
        yield from _joined(_pieces(each, services, SERVICES_AT_ONCE) for each in SERVICE_FAMILIES)
        shadows = [(_label("service", each.service), _shadow_row(each, views)) for each in self._compared()]
        yield from _joined(_pieces(each, shadows, SERVICES_AT_ONCE) for each in SHADOW_FAMILIES)
        open_fds = yield from open_descriptors()
        process = [("", self._process_row(doubts, open_fds))]
        yield from _joined(_pieces(each, process, AT_ONCE) for each in PROCESS_FAMILIES)
        yield generate_latest(self._python)

    def _process_row(self, doubts: Doubts, open_fds: int | None) -> ProcessRow:
        status = self._status
        sessions = sum(view.service.sessions for view in status.views())
        return ProcessRow(status, status.ended(), sessions, process_figures(open_fds), doubts, self._lost())


def _service_row(view: ServiceView, doubts: Doubts) -> ServiceRow:
    view.figures.count_ended()
    return ServiceRow(view.service, view.ended(), view.service.sessions, view.figures, doubts)


def _shadow_row(compared: ComparedPolicies, views: Sequence[ServiceView]) -> ShadowRow:
    return ShadowRow(compared.shadow, views[0].service.seconds())


def _parts(view: ServiceView) -> Iterator[list[Labelled[BackendRow]]]:
    """The service's back-ends, `AT_ONCE` at a time."""
    service, known, now = view.service, list(view.service.pool), view.service.seconds()
    of_service, figures = _label("service", service.name), view.figures.backends
    for start in range(0, len(known), AT_ONCE):
        yield [
            (f'{of_service},backend="{each.name}"', BackendRow(each, figures.get(each, UNSEEN), service, now))
            for each in known[start : start + AT_ONCE]
        ]


def _is_known(row: BackendRow) -> bool:
    return row.backend.state is not State.FORGOTTEN


def _pieces(
    family: Family[Of], rows: Sequence[Labelled[Of]], at_once: int, has: Callable[[Of], bool] = lambda row: True
) -> Iterator[bytes]:
    """The family with its heading, `at_once` rows at a time; those for which `has` is false are left out."""
    text, name, read = heading(family), family.name, family.read
    for start in range(0, len(rows), at_once):
        lines = [text]
        for labels, row in rows[start : start + at_once]:
            if not has(row):
                continue
            reading = read(row)
            if reading.__class__ is int or reading.__class__ is float:  # most lines are these: without a further call
                lines.append(f"{name}{{{labels}}} {reading}\n")
            elif reading is not None:
                lines.append(_lines(family, labels, reading))
        yield "".join(lines).encode(errors="replace")
        text = ""
    if text:
        yield text.encode()


def _joined(families: Iterable[Iterator[bytes]]) -> Iterator[bytes]:
    """The pieces of some families, small ones together."""
    joined = b""
    for piece in chain.from_iterable(families):
        joined += piece
        if len(joined) >= PIECE_BYTES:
            yield joined
            joined = b""
    yield joined


def heading(family: Family[Any]) -> str:
    """Its HELP and TYPE."""
    return generate_latest(_One(Metric(family.name.removesuffix("_total"), family.text, family.kind))).decode()


@attrs.frozen
class _One(Collector):
    """A registry of one metric."""

    metric: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.metric,)


def _lines(family: Family[Any], labels: str, reading: float | Mapping[str, float] | Histogram) -> str:
    name, label = family.name, family.label
    if isinstance(reading, int | float):
        return _line(name, labels, reading)
    if isinstance(reading, Histogram):
        return _histogram(name, labels, reading)
    before = f"{labels}," if labels else ""
    return "".join([f"{name}{{{before}{_label(label, key)}}} {value}\n" for key, value in reading.items()])


def _histogram(name: str, labels: str, histogram: Histogram) -> str:
    buckets = [(floatToGoString(bound), count) for bound, count in histogram.cumulative()]
    lines = [_line(f"{name}_bucket", f'{labels},le="{bound}"', count) for bound, count in buckets]
    return "".join(
        [*lines, _line(f"{name}_sum", labels, histogram.sum), _line(f"{name}_count", labels, buckets[-1][1])]
    )


@lru_cache(maxsize=1024)
def _label(name: str, value: str) -> str:
    return f'{name}="{value.translate(_ESCAPED)}"'


def _line(name: str, labels: str, value: float) -> str:
    number = f"{value:d}" if isinstance(value, int) else floatToGoString(value)
    return f"{name}{{{labels}}} {number}\n" if labels else f"{name} {number}\n"
