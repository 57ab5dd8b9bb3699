"""Series of the last ten minutes, for the page's sparklines: by service and by back-end, one point in 10 s."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.observe.json_list import in_parts
from rproxy.observe.status_json import ServiceView
from rproxy.pool.backend import Backend
from rproxy.timing.work_queue import WorkQueue

EVERY_S: Final = 10.0
POINTS: Final = 60
SLICE: Final = 100
"""Back-ends looked at, or rendered, in one go."""
_SLOTS: Final = POINTS + 1
"""The point that is being taken has a slot of its own until it is complete."""
_UNKNOWN: Final = -1


def _unknown() -> array[int]:
    return array("i", [_UNKNOWN]) * _SLOTS


@attrs.define(eq=False)
class Series:
    """The figures of one back-end, in rings whose position all series share. About 1 kB."""

    ever: int
    """Its sessions ever, at the last point."""
    sessions: array[int] = attrs.field(init=False, factory=_unknown)
    new: array[int] = attrs.field(init=False, factory=_unknown)
    """Sessions since the point before."""
    cpu: array[int] = attrs.field(init=False, factory=_unknown)
    """Percent."""

    def take(self, backend: Backend, slot: int) -> int:
        """Note its present figures. Returns how many sessions are new."""
        ever = backend.counts.total
        new, self.ever = ever - self.ever, ever
        cpu = backend.report.cpu
        self.sessions[slot], self.new[slot] = backend.connections, new
        self.cpu[slot] = _UNKNOWN if cpu is None else round(cpu)
        return new


@attrs.define(eq=False)
class ServiceSeries:
    """The figures of one service."""

    sessions: array[int] = attrs.field(init=False, factory=_unknown)
    new: array[int] = attrs.field(init=False, factory=_unknown)


class Recent:
    """Takes a point of everything each `EVERY_S`, a few back-ends in each turn of the reactor.

    `views` returns the present services, `wall` Unix time in s. What has gone is forgotten with the next point.
    """

    def __init__(
        self,
        views: Callable[[], Sequence[ServiceView]],
        work: WorkQueue,
        clock: IReactorTime,
        wall: Callable[[], float],
    ) -> None:
        self._views = views
        self._work = work
        self._clock = clock
        self._wall = wall
        self._timer: IDelayedCall | None = None
        self._sweep: Iterator[None] | None = None
        self._slot = 0
        """Of the last complete point."""
        self._last: float | None = None
        self._backends: dict[Backend, Series] = {}
        self._services: dict[str, ServiceSeries] = {}

    def start(self) -> None:
        """Take the first point now."""
        self._tick()

    def stop(self) -> None:
        """Take no more. May come without a start."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = self._clock.callLater(EVERY_S, self._tick)
        if self._sweep is None:
            self._sweep = self._take()
            self._work.add(self._go_on)

    def _go_on(self) -> None:
        assert self._sweep is not None
        try:
            next(self._sweep)
        except StopIteration:
            self._sweep = None
        except BaseException:
            self._sweep = None
            raise
        else:
            self._work.add(self._go_on)

    def _take(self) -> Iterator[None]:
        slot = (self._slot + 1) % _SLOTS
        backends: dict[Backend, Series] = {}
        services: dict[str, ServiceSeries] = {}
        for view in self._views():
            service, new = view.service, 0
            for part in in_parts(list(view.service.pool), SLICE):
                for backend in part:
                    series = self._backends.get(backend) or Series(backend.counts.total)
                    backends[backend] = series
                    new += series.take(backend, slot)
                yield
            of_service = services[service.name] = self._services.get(service.name) or ServiceSeries()
            of_service.sessions[slot], of_service.new[slot] = service.sessions, new
        self._backends, self._services = backends, services
        self._slot, self._last = slot, self._wall()

    def rendered(self, process: Mapping[str, Any]) -> Iterator[bytes]:
        """The document of `/api/recent`, in pieces: each series with the newest value last, null for unknown ones.

        Those before the first known one are left out. `process` is passed on.
        """
        known: dict[str, Any] = {"process": dict(process), "every": EVERY_S, "last": self._last}
        known["services"] = {name: self._ordered(each) for name, each in self._services.items()}
        yield (json.dumps(known)[:-1] + ', "backends": {\n').encode()
        separator = ""
        for view in self._views():
            for part in in_parts(list(view.service.pool), SLICE):
                text = ""
                for backend in part:
                    if (series := self._backends.get(backend)) is not None:
                        name = json.dumps(f"{view.service.name}/{backend.name}")
                        text += f"{separator}{name}: {json.dumps(self._ordered(series))}"
                        separator = ",\n"
                yield text.encode()
        yield b"\n}}\n"

    def _ordered(self, series: Series | ServiceSeries) -> dict[str, list[int | None]]:
        return {
            name: self._values(ring)
            for name in ("sessions", "new", "cpu")
            if (ring := getattr(series, name, None)) is not None
        }

    def _values(self, ring: array[int]) -> list[int | None]:
        """The values of the last `POINTS`: the slot after the last one belongs to the point that is being taken."""
        after = self._slot + 1
        values = [*ring[after + 1 :], *ring[:after]] if after < _SLOTS else list(ring[1:])
        first = next((number for number, value in enumerate(values) if value != _UNKNOWN), len(values))
        return [None if value == _UNKNOWN else value for value in values[first:]]
