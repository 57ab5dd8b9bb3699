"""How many back-ends and registrations are taken."""

from __future__ import annotations

import pytest

from rproxy.pool.limits import Limits


def test_the_limits_are_those_of_a_pool_of_1024_unless_told_otherwise() -> None:
    assert Limits() == Limits(
        confirmed=1024,
        unconfirmed=256,
        host=64,
        registrations_per_s=1,
        first_probes_per_s=50,
    )


@pytest.mark.parametrize(
    ("backends", "unconfirmed", "host", "first_probes_per_s"),
    [
        (1, 256, 64, 50),
        (1000, 256, 64, 50),
        (1024, 256, 64, 50),
        (2048, 512, 128, 100),
        (10_240, 2560, 640, 500),
        (100_000, 25_000, 6250, 4882.8125),
    ],
)
def test_a_larger_pool_fills_in_the_same_time_and_a_smaller_one_is_no_slower(
    backends: int, unconfirmed: int, host: int, first_probes_per_s: float
) -> None:
    assert Limits.for_pool(backends) == Limits(
        confirmed=backends,
        unconfirmed=unconfirmed,
        host=host,
        registrations_per_s=1,
        first_probes_per_s=first_probes_per_s,
    )
