"""What one answer costs an agent: `python -m tests.benchmarks.answer`. Needs Linux; takes 3 minutes.

Real agents of a service, with plain and with keyed PDUs, are probed at fixed rates, and as fast as they answer (*at
once*), over the loopback address. What counts is the CPU time of the whole process, registrations and samples included,
by its answers.

Between two probes the process sleeps, and other work evicts its code and data from caches, TLB and branch predictors:
at ten probes a second, waking up costs more than all the work. So a program that only sends each datagram back through
Twisted is probed beside the agents; *more* is what an agent's answer costs beyond that, the median of the rounds'
differences.
Exits with status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, decode, encode
from rproxy.wire.seal import Envelope, Sealed, Unsealed
from tests.benchmarks.outcomes import Outcome, at_most, exit_status, table
from tests.benchmarks.proxies import quiet, write_keyring
from tests.integration.addresses import LOOPBACK
from tests.integration.polling import READY_S
from tests.integration.twistd import PROJECT, Twistd, environment

MORE_MAX_US: Final = 60.0
"""At `JUDGED`, beyond the bare echo."""
JUDGED: Final = 10.0
"""Probes a second: a proxy asks that often where clients keep coming."""
RATES: Final = (JUDGED, 100.0, 0.0)
"""Probes a second; 0 for as many as are answered."""
WARM_UP: Final = 200
ECHO: Final = """
from twisted.internet import epollreactor
epollreactor.install()
from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol
class Echo(DatagramProtocol):
    def datagramReceived(self, datagram, address):
        self.transport.write(datagram, address)
print(reactor.listenUDP(0, Echo(), "127.0.0.1").getHost().port, flush=True)
reactor.run()
"""


@attrs.define
class Asked:
    """A process that answers datagrams at `address`, and the socket that asks it."""

    pid: int
    asking: socket.socket
    address: Address
    envelope: Envelope = attrs.Factory(Unsealed)
    _sequence: int = 0

    def ask(self) -> None:
        """Send a probe, and wait for its answer. Raises `TimeoutError` if there is none."""
        probe = ProbeRequest(self._sequence, random.getrandbits(64))
        self._sequence += 1
        self.asking.sendto(self.envelope.seal(encode(probe), LOOPBACK), self.address)
        while True:
            pdu = decode(self.envelope.open(self.asking.recv(64), LOOPBACK))
            if pdu == probe or (isinstance(pdu, ProbeResponse) and pdu.sequence == probe.sequence):
                return

    def cost_us(self, rate: float, seconds: float) -> float:
        """CPU time in µs that an answer takes while it is asked at that rate."""
        before, began = self._cpu_ns(), time.monotonic()
        asked = 0
        while asked == 0 or time.monotonic() - began < seconds:
            self.ask()
            asked += 1
            if rate:
                time.sleep(max(0.0, began + asked / rate - time.monotonic()))
        return (self._cpu_ns() - before) / asked / 1000

    def _cpu_ns(self) -> int:
        """All CPU time of the process, as in getrusage(2), but in ns: by clock_getcpuclockid(3)."""
        return time.clock_gettime_ns((~self.pid << 3) | 2)


@contextmanager
def _asking() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.bind((LOOPBACK, 0))
        asking.settimeout(READY_S)
        yield asking


@contextmanager
def agent(folder: Path, envelope: Envelope, *options: str) -> Iterator[Asked]:
    """A real agent, whose only proxy is the socket that asks it."""
    with _asking() as asking:
        words = ["--proxy", f"{LOOPBACK}:{asking.getsockname()[1]}", "--port", "0", *options]
        with quiet(Twistd(folder, "rproxy-agent", *words)) as process:
            _, address = asking.recvfrom(64)
            yield Asked(process.pid, asking, address, envelope)


@contextmanager
def echo() -> Iterator[Asked]:
    """A program that sends datagrams back."""
    command = [sys.executable, "-c", ECHO]
    with (
        _asking() as asking,
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT, env=environment()) as process,
    ):
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            yield Asked(process.pid, asking, (LOOPBACK, port))
        finally:
            process.kill()


Costs = dict[float, list[float]]
"""In µs, one of each round, by rate."""


def run(chosen: argparse.Namespace) -> dict[str, Costs]:
    """The costs of the bare echo, of plain and of keyed answers."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        service = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        words = ["--service-port", str(service.getsockname()[1]), "--check", "none"]
        key = write_keyring(folder / "keys")
        asked = {
            "echo": stack.enter_context(echo()),
            "plain": stack.enter_context(agent(folder, Unsealed(), *words)),
            "keyed": stack.enter_context(agent(folder, Sealed((key,)), *words, "--keyring", str(folder / "keys"))),
        }
        for each in asked.values():
            for _ in range(WARM_UP):
                each.ask()
        costs: dict[str, Costs] = {name: {rate: [] for rate in chosen.rates} for name in asked}
        for _ in range(chosen.rounds):
            for rate in chosen.rates:
                for kind, each in asked.items():
                    costs[kind][rate].append(each.cost_us(rate, chosen.seconds))
        return costs


def outcomes(costs: dict[str, Costs]) -> list[Outcome]:
    """A row for each rate and kind of agent: the answer, the bare echo, and what the answer costs more."""
    rows = []
    for rate, bare in costs["echo"].items():
        for kind in ("plain", "keyed"):
            answers = costs[kind][rate]
            more = median(answer - wake_up for answer, wake_up in zip(answers, bare, strict=True))
            cells = [f"{value:.0f}" for value in (median(answers), median(bare), more)]
            figure = f"{kind}, {f'{rate:g}/s' if rate else 'at once'}: µs"
            rows.append(at_most(figure, cells, more, MORE_MAX_US) if rate == JUDGED else Outcome(figure, cells))
    return rows


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.answer", description=__doc__)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=RATES, help="probes a second, 0 for at once (10 100 0)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="(7)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each rate and process in a round (3)")
    parsed = parser.parse_args(arguments)
    if parsed.rounds < 1 or parsed.seconds <= 0 or min(parsed.rates) < 0:
        parser.error("--rounds and --seconds must be positive, --rates not negative")
    return parsed


def main(arguments: Sequence[str]) -> int:
    found = outcomes(run(options(arguments)))
    print(table(["answer", "bare echo", "more"], found))
    return exit_status(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
