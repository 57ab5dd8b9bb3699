"""Stalls of this process, on a clock that the test moves without its timers."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.timing.stall_detector import INTERVAL_S, STALL_MIN_S, STALLS_MAX, StallDetector
from tests.fakes import logged, run, texts


class Bench:
    """A stall detector that has run for a while."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stall_detector = StallDetector(self.clock)
        self.stall_detector.start()
        run(self.clock, 10.0)

    @property
    def stalled_s(self) -> float:
        """All stalls, in seconds."""
        return round(self.clock.seconds() - self.stall_detector.lasted_s(0.0), 9)

    def stall(self, seconds: float) -> None:
        """Nothing runs in this time, and what was due in it runs at its end."""
        self.clock.advance(seconds)


def test_a_process_that_never_stalled_has_had_all_the_time() -> None:
    with logged() as events:
        bench = Bench()
        run(bench.clock, 3600.0)
    assert bench.stalled_s == 0
    assert list(events) == []


@pytest.mark.parametrize("late_s", [0.001, 0.1, 0.2, STALL_MIN_S])
def test_a_check_that_is_a_little_late_shows_no_stall(late_s: float) -> None:
    bench = Bench()
    with logged() as events:
        bench.stall(INTERVAL_S + late_s)
        run(bench.clock, 10.0)
    assert bench.stalled_s == 0
    assert list(events) == []


@pytest.mark.parametrize("late_s", [STALL_MIN_S + 0.001, 1.0, 2.0, 86_400.0])
def test_a_stall_is_known_once_it_is_over_and_logged_with_its_length(late_s: float) -> None:
    bench = Bench()
    with logged() as events:
        bench.stall(INTERVAL_S + late_s)
    assert bench.stalled_s == pytest.approx(late_s)
    assert texts(events) == [f"this process was away for {late_s:.1f} s; probes have so much longer"]


def test_the_checks_after_a_stall_are_on_time_again() -> None:
    bench = Bench()
    bench.stall(7.1)
    stalled_s = bench.stalled_s
    with logged() as events:
        run(bench.clock, 60.0)
    assert bench.stalled_s == stalled_s == 7.1 - INTERVAL_S
    assert list(events) == []


def test_each_stall_counts() -> None:
    bench = Bench()
    for number in range(1, 4):
        bench.stall(2.0)
        assert bench.stalled_s == number * (2.0 - INTERVAL_S)
        run(bench.clock, 5.0)


@pytest.mark.parametrize("due_s", [0.01, 0.2, INTERVAL_S, 0.5, 1.0, 1.999])
def test_every_timer_that_was_due_in_a_stall_runs_when_the_stall_is_known(due_s: float) -> None:
    """Whether it was due before the check or after it."""
    bench = Bench()
    seen: list[float] = []
    bench.clock.callLater(due_s, lambda: seen.append(bench.stall_detector.lasted_s(10.0)))
    with logged() as events:
        bench.stall(2.0)
    assert seen == [INTERVAL_S]
    assert len(events) == 1


def test_stalls_are_left_out_of_the_time_since_a_moment() -> None:
    bench = Bench()
    assert bench.stall_detector.lasted_s(6.0) == 4.0
    bench.stall(INTERVAL_S + 100.0)
    run(bench.clock, 1.0)
    bench.stall(INTERVAL_S + 2.0)
    run(bench.clock, 1.0)
    now = bench.clock.seconds()
    for ago_s, lasted_s in [(0.5, 0.5), (1.1, 1.0), (3.5, 1.5), (4.5, 2.25), (110.0, 8.0)]:
        assert bench.stall_detector.lasted_s(now - ago_s) == pytest.approx(lasted_s, abs=0.01)


def test_stalls_that_are_remembered_are_bounded() -> None:
    bench = Bench()
    for _ in range(2 * STALLS_MAX):
        bench.stall(1.0)
        run(bench.clock, 1.0)
    assert len(bench.stall_detector._stalls) == STALLS_MAX


def test_a_stall_is_known_before_any_timer_has_run() -> None:
    bench = Bench()
    bench.clock.rightNow += 2.0
    with logged() as events:
        assert bench.stalled_s == 2.0 - INTERVAL_S
        bench.clock.advance(0)
        run(bench.clock, 10.0)
    assert bench.stalled_s == 2.0 - INTERVAL_S
    assert texts(events) == ["this process was away for 1.8 s; probes have so much longer"]


def test_the_time_before_the_start_and_between_a_stop_and_a_start_is_no_stall() -> None:
    clock = Clock()
    stall_detector = StallDetector(clock)
    run(clock, 100.0)
    stall_detector.start()
    run(clock, 10.0)
    stall_detector.stop()
    run(clock, 100.0)
    stall_detector.start()
    run(clock, 10.0)
    assert stall_detector.lasted_s(0) == clock.seconds()


def test_a_stop_leaves_no_timer_and_may_come_twice_or_before_the_start() -> None:
    bench = Bench()
    for _ in range(2):
        bench.stall_detector.stop()
        assert bench.clock.getDelayedCalls() == []
    StallDetector(bench.clock).stop()
    bench.stall(5.0)
    assert bench.stalled_s == 0


def test_an_error_is_logged_and_does_not_end_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    with logged() as events, monkeypatch.context() as broken:
        broken.setattr(bench.stall_detector, "_checked_at", "nonsense")
        run(bench.clock, INTERVAL_S)
    assert [event["log_failure"].type for event in events] == [TypeError]
    bench.stall(2.0)
    assert bench.stalled_s == pytest.approx(2.0, abs=INTERVAL_S)


def test_a_process_that_stalls_all_the_time_says_so_once_a_minute_with_the_sum() -> None:
    bench = Bench()
    with logged() as events:
        for _ in range(150):
            bench.stall(0.9)
            run(bench.clock, 0.1)
    first, *sums = texts(events)
    assert first == "this process was away for 0.7 s; probes have so much longer"
    assert len(sums) == 2
    assert all("was away 60 times, for 39.0 s in all" in text for text in sums)
