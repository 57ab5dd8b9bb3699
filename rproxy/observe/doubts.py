"""What looks wrong although everything works, found by looking at all back-ends now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rproxy.observe.history import History
from rproxy.observe.json_list import in_parts, json_list
from rproxy.observe.service_log import logger_of
from rproxy.observe.status_json import ServiceView
from rproxy.observe.suspicions import LOOK_EVERY_S, Key, ProcessWatch, ServiceWatch, Suspicion
from rproxy.sources.agents.counters import Counters
from rproxy.timing.loops import keep_looping
from rproxy.timing.rate_limit import RateLimit
from rproxy.timing.throttle import Throttle
from rproxy.timing.work_queue import WorkQueue
from rproxy.wire.pdu import Flaw

CONFIRMING: Final = 2
"""Looks in a row that find the same before it is a doubt."""
LASTING: Final = 3
"""Looks in a row that no longer find it before the doubt is gone."""
KEPT_MAX: Final = 1000
"""Most suspicions that are kept; further ones are not."""
LOG_EVERY_S: Final = 60.0
"""At most one line in this time about one kind of doubt of a service."""
RENDERED: Final = 100
"""Doubts rendered in one go."""
NOTED_MAX: Final = 5
"""Most entries of one kind and service that one look adds to the history."""
DOUBT: Final = "doubt"
CLEARED: Final = "cleared"
"""Kinds of entries of the history."""


@attrs.define
class Doubt:
    """Something that looks wrong."""

    since: float
    """Unix time, in s, at which it was noticed."""
    suspicion: Suspicion
    """As last found."""

    def document(self) -> dict[str, Any]:
        """As `/api/doubts` and `/status.json` have it."""
        found = self.suspicion
        return {
            "since": round(self.since, 3),
            "service": found.service,
            "backend": found.backend,
            "kind": found.kind,
            "text": found.text,
        }


@attrs.define
class _Suspected:
    """What the last looks have found."""

    found: int = 0
    """Looks in a row that found it, before it was a doubt."""
    missed: int = 0
    """Looks in a row that did not, since."""
    doubt: Doubt | None = None


class Doubts:
    """Looks at all back-ends every `LOOK_EVERY_S`, at some in each turn of the reactor.

    `views` returns the present services, `wall` Unix time in s; `interval_s` is the time between two probes.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        wall: Callable[[], float],
        work: WorkQueue,
        views: Callable[[], Sequence[ServiceView]],
        datagrams: Counters,
        history: History,
        interval_s: float,
    ) -> None:
        self._wall = wall
        self._work = work
        self._views = views
        self._datagrams = datagrams
        self._history = history
        self._interval_s = interval_s
        self._seconds = clock.seconds
        self._process = ProcessWatch()
        self._services: dict[str, ServiceWatch] = {}
        self._suspected: dict[Key, _Suspected] = {}
        self._throttle = Throttle(clock, RateLimit.once_in(LOG_EVERY_S))
        self._looking: Iterator[None] | None = None
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def start(self) -> None:
        """Look in `LOOK_EVERY_S`, and from then on."""
        keep_looping(self._loop, LOOK_EVERY_S, now=False, failed=self._failed)

    def stop(self) -> None:
        """Cancel the timers. May be called twice, and before `start`."""
        self._looking = None
        self._throttle.stop()
        if self._loop.running:
            self._loop.stop()

    @property
    def present(self) -> list[Doubt]:
        """All of them, the oldest first."""
        doubts = [each.doubt for each in self._suspected.values() if each.doubt is not None]
        return sorted(doubts, key=lambda doubt: doubt.since)

    def documents(self) -> list[dict[str, Any]]:
        """The documents of all present doubts."""
        return [doubt.document() for doubt in self.present]

    def rendered(self) -> Iterator[bytes]:
        """The document as JSON, in pieces that take a fraction of a millisecond each."""
        return json_list("doubts", in_parts(self.present, RENDERED), lambda some: [each.document() for each in some])

    def _failed(self, failure: Any) -> None:
        self.log.failure("looking for what is wrong", failure)

    def _look(self) -> None:
        if self._looking is None:  # else the process is busy, and the last look still goes on
            self._looking = self._steps()
            self._work.add(self._go_on)

    def _go_on(self) -> None:
        if self._looking is None:
            return
        try:
            next(self._looking)
        except StopIteration:
            self._looking = None
        except Exception:
            self._looking = None
            self.log.failure("looking for what is wrong")
        else:
            self._work.add(self._go_on)

    def _steps(self) -> Iterator[None]:
        now = self._seconds()
        found = self._process.look(now, self._wall(), self._datagrams.dropped[Flaw.VERSION.value])
        services = {view.service.name: view.service for view in self._views()}
        watches = {name: self._services.get(name) or ServiceWatch(name, self._interval_s) for name in services}
        self._services = watches
        for name, service in services.items():
            for some in watches[name].look(service.pool, now, by_client=service.chooses_by_client):
                found += some
                yield
        self._judge({each.key: each for each in found})

    def _judge(self, found: dict[Key, Suspicion]) -> None:
        """Update the doubts by what a complete look has found."""
        began: list[Suspicion] = []
        ended: list[Suspicion] = []
        for key, suspicion in found.items():
            if key not in self._suspected and len(self._suspected) >= KEPT_MAX:
                continue
            suspected = self._suspected.setdefault(key, _Suspected())
            suspected.found += 1
            suspected.missed = 0
            if suspected.doubt is not None:
                suspected.doubt.suspicion = suspicion
            elif suspected.found >= CONFIRMING:
                suspected.doubt = Doubt(self._wall(), suspicion)
                began.append(suspicion)
        for key in [key for key in self._suspected if key not in found]:
            suspected = self._suspected[key]
            suspected.missed += 1
            if suspected.doubt is None or suspected.missed >= LASTING:
                del self._suspected[key]
                if suspected.doubt is not None:
                    ended.append(suspected.doubt.suspicion)
        for alike in _by_kind(ended):
            for each in alike[:NOTED_MAX]:
                self._history.note(each.service, each.backend, CLEARED, f"no longer looks wrong: {each.kind}")
        for alike in _by_kind(began):
            for each in alike[:NOTED_MAX]:
                self._history.note(each.service, each.backend, DOUBT, each.text)
            self._log(alike[0], len(alike) - 1)

    def _log(self, suspicion: Suspicion, more: int) -> None:
        log = logger_of(suspicion.service, self.log) if suspicion.service else self.log
        self._throttle.say(
            (suspicion.service, suspicion.kind),
            lambda times: log.warn(
                "this looks wrong: {backend}{text}{likewise}",
                backend=f"{suspicion.backend}: " if suspicion.backend else "",
                text=suspicion.text,
                likewise=f" (and {more} more back-ends likewise)" if more else "",
            ),
        )


def _by_kind(suspicions: list[Suspicion]) -> Iterable[list[Suspicion]]:
    """Grouped by service and kind."""
    alike: dict[tuple[str, str], list[Suspicion]] = {}
    for each in suspicions:
        alike.setdefault((each.service, each.kind), []).append(each)
    return alike.values()
