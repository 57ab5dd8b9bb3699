"""Round-trip time and loss, against the values that the report printed."""

from __future__ import annotations

from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.pool.estimators import LOSS_WINDOW, LossWindow, SmoothedRtt


def window_of(*runs: tuple[int, bool]) -> LossWindow:
    window = LossWindow()
    for times, lost in runs:
        for _ in repeat(None, times):
            window.add(lost=lost)
    return window


@pytest.mark.parametrize(
    ("before", "sample", "printed"), [(200, 99, 187), (187, 17, 165), (169, 8, 148), (148, 11, 130), (130, 2, 114)]
)
def test_a_step_is_within_1_1_ms_of_the_printed_one(before: float, sample: float, printed: float) -> None:
    """Figures 5.4 and 5.10, which cut every step to whole milliseconds."""
    rtt = SmoothedRtt(smoothed_ms=before)
    rtt.add(sample)
    assert rtt.smoothed_ms == pytest.approx(printed, abs=1.1)


def test_the_rtt_starts_at_200_ms_without_a_sample() -> None:
    rtt = SmoothedRtt()
    assert (rtt.smoothed_ms, rtt.last_ms) == (200.0, None)


def test_the_last_sample_is_kept_as_it_is() -> None:
    rtt = SmoothedRtt()
    rtt.add(0.25)
    rtt.add(0.125)
    assert rtt.last_ms == 0.125


def test_a_steady_rtt_below_one_millisecond_is_reached() -> None:
    rtt = SmoothedRtt()
    for _ in range(200):
        rtt.add(0.2)
    assert rtt.smoothed_ms == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_few_samples_are_no_average(samples: int) -> None:
    rtt = SmoothedRtt()
    for _ in range(samples):
        rtt.add(0.2)
    assert rtt.average_ms is None


@pytest.mark.parametrize("samples", [8, 9, 30, 20_000])
def test_the_average_is_of_the_samples_alone(samples: int) -> None:
    rtt = SmoothedRtt()
    for _ in range(samples):
        rtt.add(0.2)
    assert rtt.average_ms == pytest.approx(0.2, abs=1e-9)


@given(st.lists(st.floats(0, 500), min_size=8, max_size=200))
def test_the_average_lies_among_the_samples_and_becomes_the_smoothed_one(samples: list[float]) -> None:
    rtt = SmoothedRtt()
    for sample in samples:
        rtt.add(sample)
    assert rtt.average_ms is not None
    assert min(samples) - 1e-6 <= rtt.average_ms <= max(samples) + 1e-6
    assert abs(rtt.average_ms - rtt.smoothed_ms) <= 500 * (7 / 8) ** len(samples) / (1 - (7 / 8) ** 8) + 1e-6


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
