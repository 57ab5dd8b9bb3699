"""Whether this process was away, on a clock that the test moves without its timers."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.timing.stall_detector import ABSENCES_MAX, BEAT_S, LATE_S, StallDetector
from tests.fakes import logged, run, texts


class Bench:
    """A pulse that has beaten for a while."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stall_detector = StallDetector(self.clock)
        self.stall_detector.start()
        run(self.clock, 10.0)

    @property
    def been_away(self) -> float:
        """Seconds, of all its life."""
        return round(self.clock.seconds() - self.stall_detector.lasted_s(0.0), 9)

    def away(self, seconds: float) -> None:
        """Nothing runs in this time, and what was due in it runs at its end."""
        self.clock.advance(seconds)


def test_a_process_that_was_never_away_is_back_since_ever() -> None:
    with logged() as events:
        bench = Bench()
        run(bench.clock, 3600.0)
    assert bench.been_away == 0
    assert list(events) == []


@pytest.mark.parametrize("late_s", [0.001, 0.1, 0.2, LATE_S])
def test_a_beat_that_is_a_little_late_is_none_that_was_kept_from_coming(late_s: float) -> None:
    bench = Bench()
    with logged() as events:
        bench.away(BEAT_S + late_s)
        run(bench.clock, 10.0)
    assert bench.been_away == 0
    assert list(events) == []


@pytest.mark.parametrize("late_s", [LATE_S + 0.001, 1.0, 2.0, 86_400.0])
def test_after_a_time_away_it_is_known_when_it_was_over_and_logged_how_long_it_took(late_s: float) -> None:
    bench = Bench()
    with logged() as events:
        bench.away(BEAT_S + late_s)
    assert bench.been_away == pytest.approx(late_s)
    assert texts(events) == [f"this process was away for {late_s:.1f} s; probes have so much longer"]


def test_the_beats_after_a_time_away_come_in_time_again() -> None:
    bench = Bench()
    bench.away(7.1)
    been_away = bench.been_away
    with logged() as events:
        run(bench.clock, 60.0)
    assert bench.been_away == been_away == 7.1 - BEAT_S
    assert list(events) == []


def test_each_time_away_counts() -> None:
    bench = Bench()
    for number in range(1, 4):
        bench.away(2.0)
        assert bench.been_away == number * (2.0 - BEAT_S)
        run(bench.clock, 5.0)


@pytest.mark.parametrize("due_s", [0.01, 0.2, BEAT_S, 0.5, 1.0, 1.999])
def test_every_timer_of_the_time_away_runs_when_it_is_known(due_s: float) -> None:
    """Whether it was due before the beat or after it."""
    bench = Bench()
    seen: list[float] = []
    bench.clock.callLater(due_s, lambda: seen.append(bench.stall_detector.lasted_s(10.0)))
    with logged() as events:
        bench.away(2.0)
    assert seen == [BEAT_S]
    assert len(events) == 1


def test_the_time_away_does_not_count_for_what_is_so_long_ago() -> None:
    bench = Bench()
    assert bench.stall_detector.lasted_s(6.0) == 4.0
    bench.away(BEAT_S + 100.0)
    run(bench.clock, 1.0)
    bench.away(BEAT_S + 2.0)
    run(bench.clock, 1.0)
    now = bench.clock.seconds()
    for ago_s, lasted_s in [(0.5, 0.5), (1.1, 1.0), (3.5, 1.5), (4.5, 2.25), (110.0, 8.0)]:
        assert bench.stall_detector.lasted_s(now - ago_s) == pytest.approx(lasted_s, abs=0.01)


def test_times_away_that_are_remembered_are_bounded() -> None:
    bench = Bench()
    for _ in range(2 * ABSENCES_MAX):
        bench.away(1.0)
        run(bench.clock, 1.0)
    assert len(bench.stall_detector._absences) == ABSENCES_MAX


def test_who_asks_before_any_timer_has_run_knows_it_too() -> None:
    bench = Bench()
    bench.clock.rightNow += 2.0
    with logged() as events:
        assert bench.been_away == 2.0 - BEAT_S
        bench.clock.advance(0)
        run(bench.clock, 10.0)
    assert bench.been_away == 2.0 - BEAT_S
    assert texts(events) == ["this process was away for 1.8 s; probes have so much longer"]


def test_the_time_before_the_start_and_between_a_stop_and_a_start_is_no_time_away() -> None:
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
    bench.away(5.0)
    assert bench.been_away == 0


def test_an_error_is_logged_and_does_not_end_the_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    with logged() as events, monkeypatch.context() as broken:
        broken.setattr(bench.stall_detector, "_beaten_at", "nonsense")
        run(bench.clock, BEAT_S)
    assert [event["log_failure"].type for event in events] == [TypeError]
    bench.away(2.0)
    assert bench.been_away == pytest.approx(2.0, abs=BEAT_S)


def test_a_process_that_is_away_all_the_time_says_so_once_a_minute_with_the_sum() -> None:
    bench = Bench()
    with logged() as events:
        for _ in range(150):
            bench.away(0.9)
            run(bench.clock, 0.1)
    first, *sums = texts(events)
    assert first == "this process was away for 0.7 s; probes have so much longer"
    assert len(sums) == 2
    assert all("was away 60 times, for 39.0 s in all" in text for text in sums)
