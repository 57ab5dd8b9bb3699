"""Histograms and counters that only operators see: services have them where there is an operators' listener."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final
from weakref import WeakKeyDictionary

import attrs

from rproxy.observe.histogram import Histogram
from rproxy.pool.backend import Backend
from rproxy.pool.events import Checked, Observers, PoolEvent, ProbeLost, Reported, Transitioned
from rproxy.pool.states import State
from rproxy.sessions.record import SessionRecord

CONNECT_S: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
QUEUE_S: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOTAL_S: Final = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
AGE_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RTT_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
"""Upper bounds of the buckets, in s."""
BATCH: Final = 128
"""Sessions that are counted at a time."""
_COUNTED: Final = itemgetter(
    *map(SessionRecord._fields.index, ("listener", "queue_s", "connect_s", "duration_s", "report_age_s"))
)
"""What is counted of a record, which itself would keep the objects of its session."""


@attrs.define
class BackendFigures:
    """What has happened to a back-end."""

    redispatched: int = 0
    """Sessions that another one got, after the connect to this one failed."""
    failures: int = 0
    """Probes lost, or checks failed."""
    downs: int = 0
    """How often it went down."""
    changed_at: float | None = None
    """When it last came up or went down; None if it never did."""
    down_s: float = 0.0
    """How long it was down, in s, the present time down not included."""


UNSEEN: Final = BackendFigures()
"""Of a back-end to which nothing has happened."""


class ServiceFigures:
    """A `SessionObserver`, a `RedispatchObserver`, and an observer of the pool. `seconds` is the pool's clock.

    Figures of sessions lack up to `BATCH` of them until `count_ended` is called.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._ended: list[tuple[str, float, float | None, float, float | None]] = []
        """Of sessions that are not counted yet."""
        self.connect = Histogram(CONNECT_S)
        """Of sessions that were connected, as are `total`."""
        self.queue = Histogram(QUEUE_S)
        """Of those that were connected, or waited in vain."""
        self.total = Histogram(TOTAL_S)
        self.report_age = Histogram(AGE_S)
        """Of the reports of the back-ends that were chosen."""
        self.rtt = Histogram(RTT_S)
        """Of probes and checks."""
        self.listeners: defaultdict[str, int] = defaultdict(int)
        """Sessions that have ended, by listener."""
        self.backends: WeakKeyDictionary[Backend, BackendFigures] = WeakKeyDictionary()

    def session_ended(self, record: SessionRecord) -> None:
        """As `SessionObserver`. Counting is done for many at a time: then its code is in the processor's caches."""
        ended = self._ended
        ended.append(_COUNTED(record))
        if len(ended) >= BATCH:
            self.count_ended()

    def count_ended(self) -> None:
        """Have the figures include every session that has ended, for a reader."""
        ended, self._ended = self._ended, []
        listeners, connect, queue, total, age = self.listeners, self.connect, self.queue, self.total, self.report_age
        for listener, queue_s, connect_s, duration_s, age_s in ended:
            listeners[listener] += 1
            if connect_s is not None:
                connect.buckets[bisect_left(CONNECT_S, connect_s)] += 1
                connect.sum += connect_s
                total.buckets[bisect_left(TOTAL_S, duration_s)] += 1
                total.sum += duration_s
            elif not queue_s:
                continue
            if queue_s:
                queue.add(queue_s)
            else:
                queue.buckets[0] += 1
            if age_s is not None:
                age.buckets[bisect_left(AGE_S, age_s)] += 1
                age.sum += age_s

    def redispatched(self, failed: Backend, backend: Backend) -> None:
        self._of(failed).redispatched += 1

    def observers(self) -> Observers:
        """The events of the service's pool that count."""
        observers: dict[type[PoolEvent], Callable[[Any], None]] = {
            Reported: self._reported,
            Checked: self._checked,
            ProbeLost: self._lost,
            Transitioned: self._changed,
        }
        return observers

    def _of(self, backend: Backend) -> BackendFigures:
        return self.backends.setdefault(backend, BackendFigures())

    def _reported(self, event: Reported) -> None:
        self.rtt.add(event.sample_ms / 1000)

    def _checked(self, event: Checked) -> None:
        rtt_ms = event.backend.rtt.last_ms
        if event.failure:
            self._of(event.backend).failures += 1
        elif rtt_ms is not None:
            self.rtt.add(rtt_ms / 1000)

    def _lost(self, event: ProbeLost) -> None:
        self._of(event.backend).failures += 1

    def _changed(self, event: Transitioned) -> None:
        before, after = event.before, event.after
        if State.DOWN not in (before, after) and before is not State.REGISTERED:
            return
        figures, now = self._of(event.backend), self._seconds()
        if before is State.DOWN and figures.changed_at is not None:
            figures.down_s += now - figures.changed_at
        if after is State.DOWN:
            figures.downs += before is not State.REGISTERED
        figures.changed_at = now
