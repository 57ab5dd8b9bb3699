"""What a flood of the monitor's port does to clients: `python -m tests.benchmarks.flood`.

Needs Linux and the Debian packages nginx-light and wrk; takes four minutes. Three nginx are the back-ends, each with a
real agent, probed every second. wrk, with 64 connections, and a client at a fixed rate load the proxy: in peace; while
50,000 datagrams/s, which `flooder` describes, hit the monitor's port; and, for control, while they hit a socket that
nobody reads, which tells what their sender alone takes from all others on the same cores. Rates and times are medians
of the rounds, the rest are their totals. Exits with status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import attrs

from rproxy.net.addresses import Address
from tests.benchmarks.outcomes import Outcome, at_most, exit_status, table
from tests.benchmarks.peers import programs, rows
from tests.benchmarks.peers.__main__ import names, stop, tell
from tests.benchmarks.peers.programs import ProgramFailed, Running
from tests.benchmarks.peers.rows import CONNECTIONS, Load, Wrk
from tests.benchmarks.proxies import quiet, write_keyring
from tests.integration.addresses import LOOPBACK
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.twistd import Twistd, environment

NEEDED: Final = ("nginx", "wrk")
BACKENDS: Final = 3
PHASES: Final = ("peace", "flood", "control")
MODES: Final = ("plain", "keyed")
P99_GROWTH_MAX: Final = 3.0
SENT_MIN: Final = 0.95
"""Fraction of the rate: a run with a slower sender is invalid."""
StopSending = Callable[[], float]
"""Returns how many datagrams a second were sent."""
CLOSING: Final = ("-H", "Connection: close")
_UNIT_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@attrs.frozen
class Clients:
    """Results of one phase: "kept" with persistent connections, "closed" with one connection a request."""

    kept_per_s: float
    kept_p99_ms: float
    closed_per_s: float
    closed_p99_ms: float
    paced_p99_ms: float
    """At a fixed rate."""


@attrs.frozen
class Phase:
    clients: Clients
    busy: float
    """Percent of a core that the proxy used."""
    sent_s: float
    """Datagrams a second."""
    kernel_drops: int
    """Datagrams that did not fit into the socket's buffer."""
    refused: Counter[str]
    """Datagrams dropped by the proxy, by reason."""
    downs: int
    """Back-ends that went down."""
    lines: int
    """Lines of the proxy's log."""


@attrs.frozen
class Measured:
    """The phases of every round, in the order of `PHASES`."""

    rounds: Sequence[Sequence[Phase]]

    def medians(self, value: Callable[[Phase], float]) -> list[float]:
        return [median(map(value, phases)) for phases in zip(*self.rounds, strict=True)]

    def totals(self, value: Callable[[Phase], int]) -> list[int]:
        return [sum(map(value, phases)) for phases in zip(*self.rounds, strict=True)]

    def growth(self, value: Callable[[Phase], float]) -> float:
        """Median over the rounds of flood / peace: a slow moment affects both values of a round."""
        return median(value(flood) / value(peace) for peace, flood, _ in self.rounds)

    @property
    def refused(self) -> Counter[str]:
        """Datagrams dropped in the floods, by reason."""
        return sum((flood.refused for _, flood, _ in self.rounds), Counter())


def wrk_p99_ms(said: str) -> float:
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    if not found:
        raise ProgramFailed(f"wrk: no p99: {said.strip()}")
    return float(found[1]) * _UNIT_MS[found[2]]


def run_wrk(address: Address, seconds: float, *options: str) -> tuple[float, float]:
    """Requests/s, and the p99 in ms. wrk takes whole seconds only."""
    host, port = address
    duration = math.ceil(seconds)
    command = [programs.path("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{duration}s", "--timeout", "10s", "--latency"]
    ended = subprocess.run(
        [*command, *options, f"http://{host}:{port}/{programs.SMALL}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=duration + 30.0,
    )
    return Wrk.parse(ended.stdout + ended.stderr).per_s, wrk_p99_ms(ended.stdout)


def kernel_drops(port: int) -> int:
    """Datagrams dropped by the kernel at a UDP port of 127.0.0.1."""
    for line in Path("/proc/net/udp").read_text().splitlines():
        fields = line.split()
        if fields[1] == f"0100007F:{port:04X}":
            return int(fields[-1])
    raise ProgramFailed(f"no UDP port {port} in /proc/net/udp")


@contextmanager
def sending(
    target: Address, rate: float, services: Sequence[int], keyring: Path | None
) -> Iterator[Callable[[], float]]:
    """Run a flooder. The yielded function stops it and returns the datagrams sent per second."""
    told = [target[0], target[1], rate, ",".join(map(str, services)), keyring or ""]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.flooder", *map(str, told)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def stop_sending() -> float:
        said, _ = process.communicate(timeout=READY_S)
        told = json.loads(said)
        return float(told["sent"] / told["seconds"])

    try:
        yield stop_sending
    finally:
        process.kill()
        process.wait()


@attrs.frozen
class Bench:
    """A proxy whose back-ends are all up."""

    proxy: Proxy
    services: Sequence[int]
    keyring: Path | None
    load: Load
    flood_rate: float

    def phase(self, name: str) -> Phase:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as unread:
            unread.bind((LOOPBACK, 0))
            targets = {"peace": None, "flood": self.proxy.monitor, "control": unread.getsockname()}
            return self._measure(targets[name])

    def _measure(self, target: Address | None) -> Phase:
        proxy, port = self.proxy, self.proxy.monitor[1]
        logged, refused, drops = len(proxy.log), self._refused(), kernel_drops(port)
        cpu_s, started = proxy.cpu(), time.perf_counter()
        if target is None:
            sent_s, clients = 0.0, self._clients()
        else:
            with sending(target, self.flood_rate, self.services, self.keyring) as stop_sending:
                clients = self._clients()
                sent_s = stop_sending()
        said = proxy.log[logged:]
        return Phase(
            clients=clients,
            busy=100 * (proxy.cpu() - cpu_s) / (time.perf_counter() - started),
            sent_s=sent_s,
            kernel_drops=kernel_drops(port) - drops,
            refused=self._refused() - refused,
            downs=said.count("-> down"),
            lines=said.count("\n"),
        )

    def _clients(self) -> Clients:
        kept = run_wrk(self.proxy.address, self.load.seconds)
        closed = run_wrk(self.proxy.address, self.load.seconds, *CLOSING)
        paced = rows.latency(Running(self.proxy.address), self.load)
        return Clients(*kept, *closed, paced["latency_p99_us"] / 1000)

    def _refused(self) -> Counter[str]:
        return Counter(self.proxy.status()["counters"]["dropped"])


@contextmanager
def running(mode: str, chosen: argparse.Namespace, folder: Path) -> Iterator[Bench]:
    """The bench for one mode, once all back-ends are up."""
    with ExitStack() as stack:
        servers = [stack.enter_context(programs.http_backend(folder)) for _ in range(BACKENDS)]
        keyring = folder / "keyring" if mode == "keyed" else None
        options = []
        if keyring is not None:
            write_keyring(keyring)
            options = ["--keyring", str(keyring)]
        probing = ["--probe-interval", str(chosen.probe_interval)]
        proxy = stack.enter_context(quiet(Proxy(folder, *probing, *options, reactor="epoll")))
        for _, port in servers:
            agent = ["--proxy", f"{LOOPBACK}:{proxy.monitor[1]}", "--port", "0", "--service-port", str(port)]
            report = ["--report", "cpu=10,memory=10,tcp=0"]  # all agents share this machine's own figures
            home = Path(tempfile.mkdtemp(dir=folder))
            stack.enter_context(quiet(Twistd(home, "rproxy-agent", *agent, *report, *options)))
        poll(lambda: all(proxy.state(server) == "up" for server in servers), READY_S, "all back-ends are up")
        load = Load(folder, chosen.seconds, chosen.rate)
        yield Bench(proxy, [port for _, port in servers], keyring, load, chosen.flood_rate)


def outcomes(measured: Measured, flood_rate: float) -> list[Outcome]:
    def middle(figure: str, value: Callable[[Phase], float]) -> Outcome:
        return Outcome(figure, [*(f"{each:,.0f}" for each in measured.medians(value)), ""])

    def total(figure: str, value: Callable[[Phase], int]) -> Outcome:
        return Outcome(figure, [*(f"{each:,}" for each in measured.totals(value)), ""])

    def p99(value: Callable[[Phase], float]) -> list[str]:
        return [*(f"{each:.1f}" for each in measured.medians(value)), f"{measured.growth(value):.2f}"]

    def wrk_p99(value: Callable[[Phase], float]) -> Outcome:
        return at_most("… p99 ms", p99(value), measured.growth(value), P99_GROWTH_MAX)

    sent = middle("datagrams/s", lambda phase: phase.sent_s)
    slowest = min(measured.medians(lambda phase: phase.sent_s)[1:])
    downs = total("back-ends that went down", lambda phase: phase.downs)
    return [
        middle("requests/s, kept", lambda phase: phase.clients.kept_per_s),
        wrk_p99(lambda phase: phase.clients.kept_p99_ms),
        middle("new connections/s", lambda phase: phase.clients.closed_per_s),
        wrk_p99(lambda phase: phase.clients.closed_p99_ms),
        Outcome("p99 ms at the fixed rate", p99(lambda phase: phase.clients.paced_p99_ms)),
        middle("proxy's CPU, % of a core", lambda phase: phase.busy),
        attrs.evolve(sent, aim=f"{flood_rate:,.0f}", reached=slowest >= SENT_MIN * flood_rate),
        total("dropped by the kernel", lambda phase: phase.kernel_drops),
        total("dropped by the proxy", lambda phase: phase.refused.total()),
        total("lines logged", lambda phase: phase.lines),
        attrs.evolve(downs, aim="none", reached=not any(measured.totals(lambda phase: phase.downs))),
    ]


def reasons(measured: Measured) -> str:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in measured.refused.most_common())
    return f"Dropped by the proxy in the floods: {dropped}."


def run(mode: str, chosen: argparse.Namespace) -> Measured:
    with tempfile.TemporaryDirectory() as folder, running(mode, chosen, Path(folder)) as bench:
        return Measured([[bench.phase(name) for name in PHASES] for _ in range(chosen.rounds)])


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.flood", description=__doc__)
    parser.add_argument("--modes", type=names(MODES), default=list(MODES), help=",".join(MODES))
    parser.add_argument("--rounds", type=int, default=3, help="of peace, flood and control (3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each client; wrk rounds up (4)")
    parser.add_argument("--rate", type=float, default=2000.0, help="of the client at a fixed rate, requests/s (2000)")
    parser.add_argument("--flood-rate", type=float, default=50_000.0, help="datagrams/s (50000)")
    parser.add_argument("--probe-interval", type=float, default=1.0, help="in seconds (1)")
    parsed = parser.parse_args(arguments)
    if min(parsed.rounds, parsed.seconds, parsed.rate, parsed.flood_rate) <= 0:
        parser.error("--rounds, --seconds, --rate and --flood-rate must be positive")
    return parsed


def missing() -> list[str]:
    """The Debian packages to install."""
    return [package for package in programs.missing() if package.startswith(NEEDED)]


def main(arguments: Sequence[str]) -> int:
    chosen = options(arguments)
    programs.raise_descriptor_limit()
    if lacking := missing():
        tell(f"needs apt-get install {' '.join(lacking)}")
        return 2
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    found = []
    for mode in chosen.modes:
        measured = run(mode, chosen)
        judged = outcomes(measured, chosen.flood_rate)
        print(f"{mode.capitalize()} PDUs:\n\n{table([*PHASES, 'growth'], judged)}\n\n{reasons(measured)}\n")
        found += judged
    return exit_status(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
