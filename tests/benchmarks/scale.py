"""One proxy process with 10,000 back-ends: `python -m tests.benchmarks.scale`. Needs Linux; takes four minutes.

Keyed agents, each with an address and a key of its own, are simulated in this process: they register all at once, as
after a restart of the proxy, again as an agent does while nobody probes it, and every 20 s besides; and they answer
every probe at once. CPU is that of the proxy alone, from /proc/PID/stat. When a probe has left is the kernel's
time of its arrival; round trips are those that /status.json tells, the last of every back-end, at the end of each of
several measured periods. What that question itself costs is in none of them. In as many further periods clients come,
which cause probes on demand. Exits with status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import gc
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any, Final

import attrs
import psutil

from rproxy.wire.seal import Sealed
from tests.benchmarks.outcomes import Outcome, at_most, exit_status, table
from tests.benchmarks.peers.__main__ import stop
from tests.benchmarks.peers.pacing import percentile
from tests.benchmarks.peers.programs import raise_descriptor_limit
from tests.benchmarks.proxies import quiet, write_keyring
from tests.benchmarks.simulator import S_NS, Seen, Simulator, register_all
from tests.benchmarks.visitors import Visitors
from tests.integration.proxies import Proxy

AGENTS_MAX: Final = 15_000
"""Each takes a descriptor."""
SETTLED_S: Final = 10.0
"""After all have been probed: slow starts end, and probes are no longer in the order of the first ones."""
REST_INTERVALS: Final = 1.3
"""Probe intervals before each period, so that probes delayed by the last status request do not count."""
CLIENTS_S: Final = 50.0
BIN_NS: Final = 100_000_000

CPU_MAX: Final = 15.0
BURST_MAX: Final = 2.0
RTT_P99_MAX_MS: Final = 5.0


def burst(arrivals_ns: Sequence[int], start_ns: int, end_ns: int) -> float:
    """The most probes in one bin divided by the mean over all bins, empty ones included."""
    bins = (end_ns - start_ns) // BIN_NS
    counts = Counter((arrival - start_ns) // BIN_NS for arrival in arrivals_ns)
    counted = [counts[number] for number in range(bins)]
    return max(counted) / mean(counted)


def others_cpu(proxy: Proxy) -> float:
    """Seconds of CPU time used by others than the proxy and this process, steal time included."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
    return float(busy) - proxy.cpu() - time.process_time()


@attrs.frozen
class Period:
    """Counts of one period, and /status.json at its end."""

    elapsed_s: float
    cpu_s: float
    """CPU of the proxy."""
    others_s: float
    """CPU of everything but the proxy and the simulation."""
    registrations: int
    probes: int
    burst: float
    delays_ms: Sequence[float]
    """The simulation's part of each round trip."""
    rtts_ms: Sequence[float]
    """The last sample of every back-end."""
    up: int
    lost: int
    """Back-ends that lost any of their last 100 probes."""
    status_s: float
    """How long the answer took."""


def measure_period(proxy: Proxy, simulator: Simulator, seconds: float) -> Period:
    seen = simulator.seen = Seen()
    registrations, cpu_s, others_s, start_ns = simulator.registrations, proxy.cpu(), others_cpu(proxy), time.time_ns()
    simulator.run(seconds)
    cpu_s, others_s, end_ns = proxy.cpu() - cpu_s, others_cpu(proxy) - others_s, time.time_ns()
    asked = time.monotonic()
    rows = proxy.status()["backends"]
    return Period(
        elapsed_s=(end_ns - start_ns) / S_NS,
        cpu_s=cpu_s,
        others_s=others_s,
        registrations=simulator.registrations - registrations,
        probes=len(seen.arrivals_ns),
        burst=burst(seen.arrivals_ns, start_ns, end_ns),
        delays_ms=[delay / 1e6 for delay in seen.delays_ns],
        rtts_ms=[row["rtt_ms"] for row in rows if row["rtt_ms"] is not None],
        up=sum(row["state"] == "up" for row in rows),
        lost=sum(row["loss"] > 0 for row in rows),
        status_s=time.monotonic() - asked,
    )


@attrs.frozen
class Measured:
    ramp_s: float
    periods: Sequence[Period]
    busy: Sequence[Period]
    """While clients came."""


def a_second(periods: Sequence[Period], value: Callable[[Period], float]) -> float:
    return sum(map(value, periods)) / sum(period.elapsed_s for period in periods)


def in_order(periods: Sequence[Period], values: Callable[[Period], Sequence[float]]) -> list[float]:
    """Those of all periods together, sorted."""
    return sorted(chain.from_iterable(map(values, periods)))


def measure(proxy: Proxy, simulator: Simulator, visitors: Visitors, chosen: argparse.Namespace) -> Measured:
    ramp_s = register_all(simulator, chosen.agents)
    simulator.run(chosen.settled)
    gc.collect()
    gc.freeze()
    periods = measure_periods(proxy, simulator, chosen)
    with visitors.coming(proxy.address, chosen.clients):
        return Measured(ramp_s, periods, measure_periods(proxy, simulator, chosen))


def measure_periods(proxy: Proxy, simulator: Simulator, chosen: argparse.Namespace) -> list[Period]:
    periods = []
    for _ in range(chosen.periods):
        simulator.run(REST_INTERVALS * chosen.probe_interval)
        periods.append(measure_period(proxy, simulator, chosen.seconds))
    return periods


def outcomes(measured: Measured, agents: int) -> list[Outcome]:
    def value(figure: str, number: float, digits: int, bound: float | None = None) -> Outcome:
        shown = [f"{number:,.{digits}f}"]
        return Outcome(figure, shown) if bound is None else at_most(figure, shown, number, bound)

    def of(periods: Sequence[Period]) -> list[Outcome]:
        probes_s = a_second(periods, lambda period: period.probes)
        cpu = a_second(periods, lambda period: period.cpu_s)
        others = a_second(periods, lambda period: period.others_s)
        rtts_ms = in_order(periods, lambda period: period.rtts_ms)
        return [
            value("probes/s", probes_s, 0),
            value("registrations/s", a_second(periods, lambda period: period.registrations), 0),
            value("CPU, % of a core", 100 * cpu, 1, CPU_MAX),
            value("CPU µs/probe", cpu / probes_s * 1e6, 0),
            value("probes in 100 ms, most by mean", max(period.burst for period in periods), 2, BURST_MAX),
            value("RTT p50 ms", percentile(rtts_ms, 0.5), 2),
            value("RTT p99 ms", percentile(rtts_ms, 0.99), 2, RTT_P99_MAX_MS),
            value("RTT max ms", rtts_ms[-1], 2),
            value(
                "… of it the simulation's, p99 ms",
                percentile(in_order(periods, lambda period: period.delays_ms), 0.99),
                2,
            ),
            value("back-ends with a lost probe", max(period.lost for period in periods), 0),
            value("/status.json s", max(period.status_s for period in periods), 2),
            value("other work on the machine, % of a core", max(100 * others, 0), 0),
        ]

    up = min(period.up for period in (*measured.periods, *measured.busy))
    return [
        Outcome("back-ends up", [f"{up:,}"], f"{agents:,}", up == agents),
        value("until all were probed s", measured.ramp_s, 1),
        *of(measured.periods),
        Outcome("while clients come:", [""]),
        *of(measured.busy),
    ]


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--agents", type=int, default=10_000, help="(10000)")
    parser.add_argument("--periods", type=int, default=5, help="that are measured (5)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each of them (12)")
    parser.add_argument("--clients", type=float, default=CLIENTS_S, help="a second, in the second half (50)")
    parser.add_argument("--probe-interval", type=float, default=5.0, help="in seconds (5)")
    parser.add_argument("--settled", type=float, default=SETTLED_S, help="seconds before them (10)")
    parser.add_argument("--seed", type=int, default=1, help="of the agents (1)")
    parsed = parser.parse_args(arguments)
    if not 0 < parsed.agents <= AGENTS_MAX or parsed.periods < 1 or parsed.seconds <= 0 or parsed.clients <= 0:
        parser.error(f"--agents must be from 1 to {AGENTS_MAX}, --periods, --seconds and --clients positive")
    return parsed


def run(chosen: argparse.Namespace) -> Measured:
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory() as name:
        keyring = Path(name) / "keyring"
        envelope = Sealed((write_keyring(keyring),))
        told: dict[str, Any] = {
            "max-backends": chosen.agents,
            "keyring": keyring,
            "probe-interval": chosen.probe_interval,
        }
        words = [word for option, value in told.items() for word in (f"--{option}", str(value))]
        with quiet(Proxy(Path(name), *words, reactor="epoll")) as proxy, closing(Visitors()) as visitors:
            rng = random.Random(chosen.seed)
            simulator = Simulator(proxy.monitor, envelope, chosen.agents, rng, service_port=visitors.port)
            try:
                return measure(proxy, simulator, visitors, chosen)
            finally:
                simulator.close()


def main(arguments: Sequence[str]) -> int:
    chosen = options(arguments)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    rows = outcomes(run(chosen), chosen.agents)
    print(table(["measured"], rows))
    return exit_status(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
