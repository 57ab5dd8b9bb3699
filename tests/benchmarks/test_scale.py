"""A small run of the benchmark of many back-ends, and its arithmetic."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import pytest

from tests.benchmarks.outcomes import Outcome
from tests.benchmarks.scale import BIN_NS, Measured, Period, burst, options, outcomes, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
AGENTS = 30


def cells(rows: list[Outcome]) -> dict[str, str]:
    """Of the first rows of these names, so of the time without clients."""
    return {row.figure: row.measured[0] for row in reversed(rows)}


def test_all_agents_are_registered_probed_and_up() -> None:
    few = ["--agents", f"{AGENTS}", "--periods", "2", "--seconds", "1.5"]
    measured = run(options([*few, "--probe-interval", "0.5", "--settled", "0.1"]))
    assert (len(measured.periods), len(measured.busy)) == (2, 2)
    for period in (*measured.periods, *measured.busy):
        assert period.up == len(period.rtts_ms) == AGENTS
        assert AGENTS <= len(period.delays_ms) == period.probes
        assert period.cpu_s > 0
        assert period.burst >= 1
    assert (
        max(period.probes for period in measured.periods) < 6 * AGENTS <= min(period.probes for period in measured.busy)
    )


def test_a_burst_is_the_fullest_bin_by_the_mean_of_all() -> None:
    start = 7 * BIN_NS + 5
    arrivals = [start, start + 1, start + BIN_NS - 1, start + BIN_NS]
    assert burst(arrivals, start, start + 2 * BIN_NS) == 1.5
    assert burst(arrivals, start, start + 4 * BIN_NS) == 3.0


def test_what_comes_outside_the_measurement_does_not_count() -> None:
    arrivals = [-1, 0, BIN_NS, 2 * BIN_NS]
    assert burst(arrivals, 0, 2 * BIN_NS) == 1.0


PERIOD = Period(
    elapsed_s=10.0,
    cpu_s=1.4,
    others_s=0.3,
    registrations=5000,
    probes=20_000,
    burst=1.5,
    delays_ms=[0.2, 0.1],
    rtts_ms=[0.5] * 49 + [4.0],
    up=100,
    lost=0,
    status_s=0.1,
)


def measured(**second: Any) -> list[Outcome]:
    """Of two periods, which are alike but for these."""
    return outcomes(Measured(20.0, [PERIOD, attrs.evolve(PERIOD, **second)], [PERIOD]), 100)


def missed(**second: Any) -> list[str]:
    return [row.figure for row in measured(**second) if row.reached is False]


def test_rates_are_those_of_all_periods_together() -> None:
    shown = cells(measured(elapsed_s=30.0, cpu_s=4.2, probes=60_000, rtts_ms=[0.5] * 49 + [9.0]))
    names = ["CPU, % of a core", "CPU µs/probe", "probes/s", "RTT p50 ms", "RTT p99 ms", "RTT max ms"]
    assert [shown[name] for name in names] == ["14.0", "70", "2,000", "0.50", "4.00", "9.00"]


def test_each_aim_is_judged_by_itself() -> None:
    assert missed() == []
    assert missed(cpu_s=1.7) == ["CPU, % of a core"]
    assert missed(burst=2.1) == ["probes in 100 ms, most by mean"]
    assert missed(rtts_ms=[0.5, 9.0]) == ["RTT p99 ms"]
    assert missed(up=99) == ["back-ends up"]


def test_the_aims_hold_while_clients_come_as_well() -> None:
    rows = outcomes(Measured(20.0, [PERIOD], [attrs.evolve(PERIOD, cpu_s=1.7)]), 100)
    assert [row.figure for row in rows if row.reached is False] == ["CPU, % of a core"]
    names = [row.figure for row in rows]
    assert names.index("CPU, % of a core") < names.index("while clients come:")
    assert names.count("CPU, % of a core") == 2


@pytest.mark.parametrize(
    "arguments",
    [["--agents", "0"], ["--agents", "1000000"], ["--periods", "0"], ["--seconds", "0"], ["--clients", "0"]],
)
def test_nothing_to_do_and_too_much_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments)
