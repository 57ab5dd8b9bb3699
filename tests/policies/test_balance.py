from __future__ import annotations

from random import Random
from statistics import mean, pstdev

import pytest

from rproxy.policies.balance import BUCKET_S, BUCKETS, Balance, Moments, Recent, Share, bucket_of


def test_what_is_recent_is_at_most_a_minute_old() -> None:
    recent, rng = Recent(), Random(1)
    times = sorted(rng.uniform(500.0, 800.0) for _ in range(400))
    for done, now in enumerate(times, 1):
        recent.add(bucket_of(now))
        first = (bucket_of(now) - BUCKETS + 1) * BUCKET_S
        assert recent.total(bucket_of(now)) == sum(first <= each for each in times[:done])
    assert recent.total(bucket_of(799.9 + 61)) == 0


def test_it_may_be_long_since_the_last_one() -> None:
    recent = Recent()
    recent.add(bucket_of(1e9))
    assert recent.total(bucket_of(1e9)) == 1
    recent.add(bucket_of(2e9))
    assert recent.total(bucket_of(2e9)) == 1


def test_moments_are_those_of_the_present_figures() -> None:
    moments, rng = Moments(), Random(2)
    figures: list[float] = []
    for _ in range(500):
        if figures and rng.random() < 0.4:
            moments.remove(figures.pop(rng.randrange(len(figures))))
        elif figures and rng.random() < 0.5:
            before, after = figures.pop(), rng.uniform(0, 100)
            moments.replace(before, after)
            figures.append(after)
        else:
            figures.append(rng.uniform(0, 100))
            moments.add(figures[-1])
        assert moments.count == len(figures)
        assert moments.mean == pytest.approx(mean(figures) if figures else 0.0, abs=1e-6)
        assert moments.deviation == pytest.approx(pstdev(figures) if figures else 0.0, abs=1e-4)


def shares(balance: Balance, *weights: int) -> list[Share]:
    found = [Share(0) for _ in weights]
    for share, weight in zip(found, weights, strict=True):
        balance.weigh(share, weight, counts=True)
    return found


def take(balance: Balance, share: Share, now: float) -> None:
    balance.arrived(share, bucket_of(now))


def test_figures_are_relative_to_weight() -> None:
    balance = Balance()
    light, heavy = shares(balance, 50, 200)
    for share in (light, *[heavy] * 4):
        take(balance, share, 100.0)
    assert (balance.sessions.mean, balance.sessions.deviation, balance.peak) == (2.0, 0.0, 2.0)
    balance.closed(heavy)
    balance.closed(heavy)
    assert (balance.sessions.mean, balance.sessions.deviation, balance.choices.deviation) == (1.5, 0.5, 0.0)


def test_only_back_ends_that_can_get_clients_are_compared() -> None:
    balance = Balance()
    one, two, gone = shares(balance, 100, 100, 100)
    take(balance, gone, 100.0)
    take(balance, gone, 100.0)
    balance.weigh(gone, 100, counts=False)
    assert (balance.sessions.count, balance.sessions.mean, balance.sessions.deviation) == (2, 0.0, 0.0)
    balance.closed(gone)
    balance.weigh(gone, 100, counts=True)
    take(balance, one, 100.0)
    take(balance, two, 100.0)
    assert (balance.sessions.mean, balance.sessions.deviation) == (1.0, 0.0)
    assert balance.choices.mean == pytest.approx(4 / 3)


def test_what_clients_find_is_averaged_over_all_and_over_those_of_the_last_minute() -> None:
    balance = Balance()
    one, _ = shares(balance, 100, 100)
    for _ in range(4):
        take(balance, one, 100.0)  # they find 0, 0.5, 1 and 1.5
    assert balance.mean_deviation == 0.75
    assert balance.recent(bucket_of(100.0)) == (0.75, 4.0)
    take(balance, one, 130.0)
    assert balance.recent(bucket_of(130.0)) == (1.0, 5.0)
    for _ in range(5):
        balance.closed(one)
    take(balance, one, 175.0)
    assert balance.recent(bucket_of(175.0)) == (1.0, 5.0)
    assert balance.recent(bucket_of(200.0)) == (0.0, 1.0)
    assert balance.recent(bucket_of(300.0)) == (0.0, 0.0)
    assert (balance.peak, balance.mean_deviation) == (5.0, 5 / 6)
