"""What sessions feel of a status listener's clients: `python -m tests.benchmarks.admin`. Needs Linux; takes 3 minutes.

A proxy with 10,000 back-ends (simulated as in `tests.benchmarks.scale`, but for one) carries a session on which a few
bytes go to and fro all the time, and others that are opened anew for that. Beside them one kind of clients after the
other does what it can to the status listener (`tests.benchmarks.operators` has them), each after a time of peace. What
counts is the longest that a few bytes took, and by how much more that was than in peace: the median of the rounds.
Proxy and sessions run ahead of all else (as root), so that what others take of the two cores is not in it.
Exits with status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.wire.seal import Unsealed
from tests.benchmarks.operators import ATTACKS, put_ahead
from tests.benchmarks.outcomes import Outcome, at_most, exit_status, table
from tests.benchmarks.peers.__main__ import stop
from tests.benchmarks.peers.programs import raise_descriptor_limit
from tests.benchmarks.proxies import quiet
from tests.benchmarks.scale import AGENTS_MAX
from tests.benchmarks.simulator import Simulator, register_all
from tests.integration.addresses import LOOPBACK
from tests.integration.fake_agents import FakeAgent
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.twistd import PROJECT, environment

CARRIERS: Final = ("splice", "portable")
PROBE_INTERVAL_S: Final = 60
"""Long, so that probing does not disturb the measurement."""
WAIT_MAX_MS: Final = 5.0
GROWTH_MAX_MB: Final = 100.0
SECONDS_MIN: Final = 0.5


@attrs.frozen
class Waits:
    """The longest waits in ms, on the established session and on new ones; and the number of failed sessions."""

    kept_ms: float
    new_ms: float
    failed: int = 0


@attrs.frozen
class Round:
    peace: Waits
    attack: Waits
    grown_mb: float
    """Growth of the proxy's memory by the attack."""


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.operators", *arguments]
    return subprocess.Popen(
        command, cwd=PROJECT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


class Bench:
    """One proxy with its simulated agents and clients."""

    def __init__(self, proxy: Proxy, simulator: Simulator, seconds: float) -> None:
        self._proxy = proxy
        self._simulator = simulator
        self._seconds = seconds

    def round(self, attack: str) -> Round:
        peace, _ = self.beside()
        before = self._proxy.resident()
        return Round(peace, self.beside(attack)[0], (self._proxy.resident() - before) / 1e6)

    def beside(self, *attacks: str) -> tuple[Waits, list[str]]:
        """The waits of sessions beside these clients, and what each of those has printed."""
        running = [start(attack, *_told(self._proxy.admin, self._seconds + 1)) for attack in attacks]
        sessions = start("sessions", *_told(self._proxy.address, self._seconds))
        self._simulator.run(READY_S + self._seconds, until=lambda: sessions.poll() is not None)
        found = json.loads(sessions.communicate()[0])
        printed = [process.communicate()[0] for process in running]
        kept_ms, new_ms = (1000 * max(found[kind], default=0.0) for kind in ("kept", "new"))
        return Waits(kept_ms, new_ms, found["failed"]), printed


def _told(address: Address, seconds: float) -> list[str]:
    return [address[0], str(address[1]), str(seconds)]


@contextmanager
def running(carrier: str, chosen: argparse.Namespace, folder: Path) -> Iterator[Bench]:
    """A bench whose back-ends have all been probed."""
    told = {
        "max-backends": chosen.agents + 1,
        "probe-interval": PROBE_INTERVAL_S,
        "liveness": 3 * PROBE_INTERVAL_S,
        "carrier": carrier,
    }
    words = [word for option, value in told.items() for word in (f"--{option}", str(value))]
    with quiet(Proxy(folder, *words, reactor="epoll")) as proxy, start("serve") as server:
        simulator = Simulator(proxy.monitor, Unsealed(), chosen.agents, random.Random(chosen.seed), draining=True)
        assert server.stdout is not None
        agent = FakeAgent(proxy.monitor, int(server.stdout.readline()))
        try:
            poll(lambda: proxy.state((LOOPBACK, agent.backend[1])) == "up", READY_S, "the back-end is up")
            register_all(simulator, chosen.agents)
            put_ahead(proxy.pid)
            yield Bench(proxy, simulator, chosen.seconds)
        finally:
            agent.close(unregister=False)
            simulator.close()
            server.communicate()


def run(carrier: str, chosen: argparse.Namespace) -> dict[str, list[Round]]:
    """The rounds of each attack."""
    with tempfile.TemporaryDirectory() as name, running(carrier, chosen, Path(name)) as bench:
        rounds: dict[str, list[Round]] = {attack: [] for attack in chosen.attacks}
        for _ in range(chosen.rounds):
            for attack in chosen.attacks:
                rounds[attack].append(bench.round(attack))
        return rounds


def outcomes(measured: dict[str, list[Round]]) -> list[Outcome]:
    found = []
    for attack, rounds in measured.items():
        peaces, attacks = [one.peace for one in rounds], [one.attack for one in rounds]
        for kind in ("kept_ms", "new_ms"):
            peace, attacked = [[getattr(waits, kind) for waits in each] for each in (peaces, attacks)]
            more = median(after - before for before, after in zip(peace, attacked, strict=True))
            shown = [f"{median(peace):.1f}", f"{median(attacked):.1f}", f"{max(more, 0):.1f}"]
            name = f"{attack}: longest wait ms, session" if kind == "kept_ms" else "… new session"
            found.append(at_most(name, shown, more, WAIT_MAX_MS))
        failures = [sum(waits.failed for waits in each) for each in (peaces, attacks)]
        shown = [*map(str, failures), ""]
        found.append(Outcome("… sessions that failed", shown, "none", not any(failures)))
        grown = max(one.grown_mb for one in rounds)
        found.append(at_most("… memory MB", ["", "", f"{max(grown, 0):.0f}"], grown, GROWTH_MAX_MB))
    return found


def parser_of(benchmark: str, description: str | None, agents: int, seconds: float) -> argparse.ArgumentParser:
    """With the options of a benchmark that has a `Bench`, and their defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{benchmark}", description=description)
    parser.add_argument("--agents", type=int, default=agents, help="(%(default)s)")
    parser.add_argument("--carriers", nargs="+", choices=CARRIERS, default=CARRIERS, help="(both)")
    parser.add_argument("--rounds", type=int, default=3, help="(3)")
    parser.add_argument("--seconds", type=float, default=seconds, help="of peace, and of the others (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the agents (1)")
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process if there is nothing to do."""
    chosen = parser.parse_args(arguments)
    if not 0 < chosen.agents <= AGENTS_MAX or chosen.rounds < 1 or chosen.seconds < SECONDS_MIN:
        parser.error(f"--agents must be from 1 to {AGENTS_MAX}, --rounds at least 1, --seconds {SECONDS_MIN:g}")
    return chosen


def prepare() -> None:
    """Have signals end this process with all that it has started, and let it have enough files open."""
    raise_descriptor_limit()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = parser_of("admin", __doc__, agents=10_000, seconds=2.0)
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS), help="(all)")
    return parsed(parser, arguments)


def main(arguments: Sequence[str]) -> int:
    chosen = options(arguments)
    prepare()
    found = []
    for carrier in chosen.carriers:
        judged = outcomes(run(carrier, chosen))
        print(f"{carrier.capitalize()}:\n\n{table(['peace', 'attack', 'more'], judged)}\n", flush=True)
        found += judged
    return exit_status(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
