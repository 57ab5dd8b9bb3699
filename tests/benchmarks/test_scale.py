"""A small run of the benchmark of many back-ends, and its arithmetic."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.outcomes import Outcome
from tests.benchmarks.scale import BIN_NS, Measured, burst, options, outcomes, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
AGENTS = 30


def cells(rows: list[Outcome]) -> dict[str, str]:
    return {row.figure: row.measured[0] for row in rows}


def test_all_agents_are_introduced_probed_and_up() -> None:
    chosen = options(["--agents", f"{AGENTS}", "--seconds", "2", "--probe-interval", "0.5", "--settled", "0.1"])
    measured = run(chosen)
    assert measured.up == AGENTS
    assert len(measured.rtts_ms) == AGENTS
    assert len(measured.delays_ms) >= AGENTS
    assert measured.cpu_percent > 0
    assert 0 < measured.probes_s < 4 * AGENTS
    assert measured.burst >= 1
    assert measured.rtts_ms == sorted(measured.rtts_ms)


def test_a_burst_is_the_fullest_bin_by_the_mean_of_all() -> None:
    start = 7 * BIN_NS + 5
    arrivals = [start, start + 1, start + BIN_NS - 1, start + BIN_NS]
    assert burst(arrivals, start, start + 2 * BIN_NS) == 1.5
    assert burst(arrivals, start, start + 4 * BIN_NS) == 3.0


def test_what_comes_outside_the_measurement_does_not_count() -> None:
    arrivals = [-1, 0, BIN_NS, 2 * BIN_NS]
    assert burst(arrivals, 0, 2 * BIN_NS) == 1.0


MEASURED = Measured(
    ramp_s=20.0,
    cpu_percent=15.1,
    cpu_us=75.0,
    probes_s=2000.0,
    registrations_s=500.0,
    burst=2.0,
    rtts_ms=[0.5] * 98 + [4.0, 9.0],
    delays_ms=[0.1, 0.2],
    up=100,
    lost=0,
    status_s=0.1,
    others_percent=3.0,
)


def test_each_aim_is_judged_by_itself() -> None:
    rows = outcomes(MEASURED, 100)
    assert [row.reached for row in rows if row.reached is not None] == [True, False, True, True]
    assert cells(rows)["RTT p99 ms"] == "4.00"
    assert cells(rows)["RTT max ms"] == "9.00"


def test_a_backend_that_is_not_up_is_a_miss() -> None:
    (up, *_) = outcomes(MEASURED, 101)
    assert up == Outcome("back-ends up", ["100"], "101", False)


@pytest.mark.parametrize("arguments", [["--agents", "0"], ["--agents", "1000000"], ["--seconds", "0"]])
def test_nothing_to_do_and_too_much_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments)
