from __future__ import annotations

from random import Random

import pytest

from rproxy.study.traffic import Bursts, Diurnal, Draw, Exponential, Gap, Mixed, Pareto, Poisson


@pytest.mark.parametrize("draw", [Exponential(0.1), Pareto(0.1, 2.5, 1000.0), Mixed(0.5, 0.05, 0.15)], ids=str)
def test_work_has_its_mean(draw: Draw) -> None:
    rng = Random(1)
    assert sum(draw(rng) for _ in range(100_000)) / 100_000 == pytest.approx(0.1, rel=0.03)


def test_a_heavy_tail_is_cut() -> None:
    rng, draw = Random(1), Pareto(0.1, 1.5, 50.0)
    drawn = [draw(rng) for _ in range(100_000)]
    assert max(drawn) == pytest.approx(5.0)
    assert min(drawn) >= 0.1 / 3


@pytest.mark.parametrize("gap", [Poisson(20.0), Bursts(20.0), Diurnal(20.0, 10.0)], ids=str)
def test_clients_come_at_their_rate(gap: Gap) -> None:
    rng, now, clients = Random(1), 0.0, 0
    while now < 5000.0:
        now += gap(rng, now)
        clients += 1
    assert clients / now == pytest.approx(20.0, rel=0.05)


def test_a_burst_comes_within_milliseconds() -> None:
    rng = Random(1)
    gaps = [Bursts(20.0, 10.0)(rng, 0.0) for _ in range(10_000)]
    assert sum(gap <= 0.001 for gap in gaps) / 10_000 == pytest.approx(0.9, abs=0.02)


def test_a_day_has_busy_and_quiet_hours() -> None:
    rng, gap, now = Random(1), Diurnal(20.0, 200.0, 0.4), 0.0
    halves = [0, 0]
    while now < 2000.0:
        now += gap(rng, now)
        halves[int(now / 100) % 2] += 1
    assert halves[0] > 1.4 * halves[1]
