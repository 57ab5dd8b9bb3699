"""What only `/metrics` counts."""

from __future__ import annotations

import gc
import weakref

from twisted.internet.task import Clock

from rproxy.observe.histogram import Histogram
from rproxy.observe.publisher import Publisher
from rproxy.observe.service_figures import BATCH, UNSEEN, BackendFigures, ServiceFigures
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import Checked, ProbeLost, Reported, Transitioned
from rproxy.pool.states import Event, State
from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord
from tests.fakes import FakeLink


def backend() -> Backend:
    return Backend("10.0.0.1", 80, Registration(("10.0.0.1", 5556), 1, 20.0, 100))


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.figures = ServiceFigures(self.clock.seconds)
        self.publish = Publisher()
        self.publish.subscribe(self.figures.observers())
        self.backend = backend()

    def end(
        self, queue_s: float = 0.0, connect_s: float | None = 0.002, age_s: float | None = 0.3, listener: str = "80"
    ) -> None:
        record = SessionRecord(
            "web",
            listener,
            FakeLink(),
            self.backend,
            1,
            5.0,
            queue_s,
            connect_s,
            7.0,
            1,
            2,
            Ending.CLOSED,
            1,
            0.5,
            age_s,
        )
        self.figures.session_ended(record)
        self.figures.count_ended()

    def change(self, before: State, after: State) -> None:
        self.publish((Transitioned(self.backend, before, after, Event.ANSWERED, "so"),))

    @property
    def of_backend(self) -> BackendFigures:
        return self.figures.backends.get(self.backend, UNSEEN)


def counted(histogram: Histogram) -> tuple[list[float], float]:
    """The bounds of the buckets that have values, and their sum."""
    bounds = [bound for (bound, _), count in zip(histogram.cumulative(), histogram.buckets, strict=True) if count]
    return bounds, histogram.sum


def test_a_session_that_was_connected_counts_in_each_histogram() -> None:
    bench = Bench()
    bench.end()
    figures = bench.figures
    assert counted(figures.connect) == ([0.0025], 0.002)
    assert counted(figures.total) == ([10.0], 7.0)
    assert counted(figures.report_age) == ([0.5], 0.3)
    assert counted(figures.queue) == ([0.001], 0.0)


def test_one_that_waited_counts_with_its_wait_and_one_in_vain_with_that_alone() -> None:
    bench = Bench()
    bench.end(queue_s=0.2)
    bench.end(queue_s=4.0, connect_s=None, age_s=None)
    figures = bench.figures
    assert counted(figures.queue) == ([0.25, 5.0], 4.2)
    assert [sum(each.buckets) for each in (figures.connect, figures.total, figures.report_age)] == [1, 1, 1]


def test_a_client_that_was_refused_at_once_counts_in_none() -> None:
    bench = Bench()
    bench.end(connect_s=None, age_s=None)
    figures = bench.figures
    histograms = (figures.queue, figures.connect, figures.total, figures.report_age)
    assert [sum(each.buckets) for each in histograms] == [0, 0, 0, 0]
    assert figures.listeners == {"80": 1}


def test_a_back_end_without_a_report_has_no_age() -> None:
    bench = Bench()
    bench.end(age_s=None)
    assert sum(bench.figures.report_age.buckets) == 0


def test_sessions_are_counted_by_listener() -> None:
    bench = Bench()
    for listener in ("80", "443", "80"):
        bench.end(listener=listener)
    assert bench.figures.listeners == {"80": 2, "443": 1}


def test_round_trips_are_those_of_probes_and_of_checks() -> None:
    bench = Bench()
    bench.publish((Reported(bench.backend, 1, 3.0), Checked(bench.backend, "")))
    bench.backend.rtt.add(40.0, 0.0)
    bench.publish((Checked(bench.backend, ""), Checked(bench.backend, "refused")))
    bounds, total_s = counted(bench.figures.rtt)
    assert (bounds, round(total_s, 6)) == ([0.005, 0.05], 0.043)


def test_lost_probes_and_failed_checks_are_failures() -> None:
    bench = Bench()
    lost = ProbeLost(bench.backend, 1, 1, counted=True, first=True)
    bench.publish((lost, Checked(bench.backend, "refused"), Checked(bench.backend, "")))
    assert bench.of_backend.failures == 2


def test_times_down_are_counted_and_last() -> None:
    bench = Bench()
    bench.change(State.REGISTERED, State.UP)
    bench.clock.advance(10)
    bench.change(State.UP, State.SUSPECT)
    bench.change(State.SUSPECT, State.DOWN)
    assert (bench.of_backend.downs, bench.of_backend.changed_at, bench.of_backend.down_s) == (1, 10.0, 0.0)
    bench.clock.advance(5)
    bench.change(State.DOWN, State.UP)
    assert (bench.of_backend.downs, bench.of_backend.changed_at, bench.of_backend.down_s) == (1, 15.0, 5.0)
    bench.change(State.UP, State.DOWN)
    bench.clock.advance(2)
    bench.change(State.DOWN, State.FORGOTTEN)
    assert (bench.of_backend.downs, bench.of_backend.down_s) == (2, 7.0)


def test_one_that_was_never_up_has_not_gone_down() -> None:
    bench = Bench()
    bench.clock.advance(1)
    bench.change(State.REGISTERED, State.DOWN)
    assert (bench.of_backend.downs, bench.of_backend.changed_at) == (0, 1.0)


def test_a_redispatch_counts_for_the_one_that_failed() -> None:
    bench = Bench()
    other = backend()
    bench.figures.redispatched(bench.backend, other)
    assert bench.of_backend.redispatched == 1
    assert other not in bench.figures.backends


def test_nothing_is_kept_of_a_back_end_that_is_gone() -> None:
    bench = Bench()
    bench.change(State.REGISTERED, State.DOWN)
    gone = weakref.ref(bench.backend)
    bench.backend = backend()
    gc.collect()
    assert gone() is None
    assert len(bench.figures.backends) == 0


def test_sessions_are_counted_many_at_a_time_and_none_of_their_objects_is_kept_meanwhile() -> None:
    bench, link = Bench(), FakeLink()
    gone = weakref.ref(link)
    record = SessionRecord("web", "80", link, None, 1, 5.0, 0.0, 0.002, 7.0, 1, 2, Ending.CLOSED)
    for _ in range(BATCH - 1):
        bench.figures.session_ended(record)
    assert bench.figures.listeners == {}
    bench.figures.session_ended(record)
    assert bench.figures.listeners == {"80": BATCH}
    bench.figures.session_ended(record)
    del record, link
    assert gone() is None
