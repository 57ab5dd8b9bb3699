"""The mean over a pool."""

from __future__ import annotations

from rproxy.policies.pool_mean import PoolMean


def test_it_is_that_of_what_is_contributed() -> None:
    mean = PoolMean()
    said = []
    for before, after in ((None, 4.0), (None, 0.0), (0.0, 8.0), (4.0, None), (8.0, None)):
        mean.replace(before, after)
        said.append(mean.mean)
    assert said == [4.0, 2.0, 6.0, 8.0, None]


def test_added_up_anew_it_is_exact() -> None:
    mean = PoolMean()
    mean.replace(None, 1e20)
    mean.replace(None, 1.0)
    mean.replace(1e20, None)
    assert mean.mean == 0
    mean.recompute([1.0, None])
    assert mean.mean == 1
