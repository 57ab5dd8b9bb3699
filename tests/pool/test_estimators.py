"""Round-trip time and loss, against the values that the report printed."""

from __future__ import annotations

from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.pool.estimators import LOSS_WINDOW, LossWindow, SmoothedRtt

INTERVAL_S = 5.0


def window_of(*runs: tuple[int, bool], every_s: float = INTERVAL_S) -> LossWindow:
    window, now = LossWindow(), 1000.0
    for times, lost in runs:
        for _ in repeat(None, times):
            window.add(now, lost=lost)
            now += every_s
    return window


def rtt_of(*samples: float, every_s: float = INTERVAL_S) -> SmoothedRtt:
    rtt = SmoothedRtt()
    for number, sample in enumerate(samples):
        rtt.add(sample, 1000.0 + number * every_s)
    return rtt


@pytest.mark.parametrize(
    ("before", "sample", "printed"), [(200, 99, 187), (187, 17, 165), (169, 8, 148), (148, 11, 130), (130, 2, 114)]
)
def test_a_step_is_within_1_1_ms_of_the_printed_one(before: float, sample: float, printed: float) -> None:
    """Figures 5.4 and 5.10, which cut every step to whole milliseconds."""
    rtt = SmoothedRtt(smoothed_ms=before)
    rtt.add(sample, 1000.0)
    assert rtt.smoothed_ms == pytest.approx(printed, abs=1.1)


def test_the_rtt_starts_at_200_ms_without_a_sample() -> None:
    rtt = SmoothedRtt()
    assert (rtt.smoothed_ms, rtt.last_ms) == (200.0, None)


def test_the_last_sample_is_kept_as_it_is() -> None:
    rtt = rtt_of(0.25, 0.125)
    assert rtt.last_ms == 0.125


def test_a_steady_rtt_below_one_millisecond_is_reached() -> None:
    rtt = rtt_of(*[0.2] * 200)
    assert rtt.smoothed_ms == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_few_samples_are_no_average(samples: int) -> None:
    rtt = rtt_of(*[0.2] * samples)
    assert rtt.average_ms is None


@pytest.mark.parametrize("samples", [8, 9, 30, 20_000])
def test_the_average_is_of_the_samples_alone(samples: int) -> None:
    rtt = rtt_of(*[0.2] * samples)
    assert rtt.average_ms == pytest.approx(0.2, abs=1e-9)


@given(st.lists(st.floats(0, 500), min_size=8, max_size=200))
def test_the_average_lies_among_the_samples_and_becomes_the_smoothed_one(samples: list[float]) -> None:
    rtt = rtt_of(*samples)
    assert rtt.average_ms is not None
    assert min(samples) - 1e-6 <= rtt.average_ms <= max(samples) + 1e-6
    assert abs(rtt.average_ms - rtt.smoothed_ms) <= 500 * (7 / 8) ** len(samples) / (1 - (7 / 8) ** 8) + 1e-6


@pytest.mark.parametrize("every_s", [4.5, 5.0, 5.5, 60.0])
def test_every_periodic_sample_has_the_whole_gain(every_s: float) -> None:
    assert rtt_of(*[100.0] * 8, every_s=every_s).smoothed_ms == pytest.approx(100 + 100 * (7 / 8) ** 8)


@pytest.mark.parametrize("every_s", [0.01, 0.1, 0.5, 1.0, 4.5])
def test_the_rtt_covers_about_the_same_time_at_any_rate(every_s: float) -> None:
    """A step from 10 to 20 ms: after 36 s most of it is seen, after 4.5 s an eighth."""
    rtt, now = rtt_of(*[10.0] * 10_000, every_s=every_s), 1000.0 + 10_000 * every_s
    start, seen = now, dict[float, float | None]()
    while now < start + 35.9:
        rtt.add(20.0, now)
        seen[round(now - start, 2)] = rtt.average_ms
        now += every_s
    early = max(at for at in seen if at <= 4.5 - every_s + 0.001)
    assert seen[early] == pytest.approx(11.2, abs=0.15)
    assert seen[max(seen)] == pytest.approx(16.5, abs=0.4)


def test_a_second_sample_at_the_same_moment_has_no_weight() -> None:
    rtt = rtt_of(*[10.0] * 8, every_s=0.0)
    rtt.add(500.0, 1000.0)
    assert rtt.last_ms == 500.0
    assert rtt.average_ms == pytest.approx(10.0)


def test_no_probe_ended_is_no_loss() -> None:
    assert LossWindow().rate == 0.0


@pytest.mark.parametrize(
    ("window", "rate"),
    [
        (window_of((1, True)), 1.0),
        (window_of((3, False), (1, True)), 0.25),
        (window_of((99, False), (1, True)), 0.01),
        (window_of((100, True)), 1.0),
    ],
)
def test_loss_is_the_share_of_lost_probes(window: LossWindow, rate: float) -> None:
    assert window.rate == rate


@pytest.mark.parametrize(("answered", "rate"), [(0, 0.5), (50, 0.5), (51, 0.49), (99, 0.01), (100, 0.0)])
def test_losses_are_forgotten_after_100_probes(answered: int, rate: float) -> None:
    window = window_of((50, False), (50, True), (answered, False))
    assert window.rate == rate


@given(st.lists(st.booleans(), max_size=3 * LOSS_WINDOW))
def test_loss_counts_the_last_100_whatever_came_before(series: list[bool]) -> None:
    window = window_of(*((1, lost) for lost in series))
    recent = series[-LOSS_WINDOW:]
    assert window.rate == (sum(recent) / len(recent) if recent else 0.0)


@pytest.mark.parametrize(("seconds", "rate"), [(0, 1.0), (50, 0.5), (90, 0.1), (100, 0.0)])
def test_many_probes_a_second_count_for_100_s(seconds: int, rate: float) -> None:
    window = window_of((1000, True), (10 * seconds, False), every_s=0.1)
    assert window.rate == pytest.approx(rate, abs=0.02)


def test_a_second_of_losses_is_a_hundredth_at_any_rate() -> None:
    for a_second in (1, 2, 10, 100):
        window = window_of((200 * a_second, False), (a_second, True), every_s=1 / a_second)
        assert window.rate == pytest.approx(0.01, abs=0.0015)


def test_after_a_busy_time_it_is_forgotten_after_100_periodic_probes() -> None:
    window = window_of((1000, True), every_s=0.1)
    for number in range(100):
        assert window.rate > 0
        window.add(2000.0 + number * INTERVAL_S, lost=False)
    assert window.rate == 0


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=2000))
def test_the_window_holds_at_least_100_probes_and_100_s_and_no_more_than_twice_that(
    series: list[tuple[float, bool]],
) -> None:
    window, ended, now = LossWindow(), [], 1000.0
    for wait_s, lost in series:
        now += wait_s
        window.add(now, lost=lost)
        ended.append((now, lost))
    least = sum(at > now - LOSS_WINDOW + 1 for at, _ in ended)
    assert min(len(ended), max(least, LOSS_WINDOW)) <= window._all_ended <= len(ended)
    held = ended[len(ended) - window._all_ended :]
    assert window.rate == (sum(lost for _, lost in held) / len(held) if held else 0.0)


def test_a_slot_takes_no_more_than_it_can_count() -> None:
    window = window_of((30_000, True), every_s=0.0001)
    assert (window.rate, window._all_ended > 20_000, len(window._ended)) == (1.0, True, LOSS_WINDOW)
