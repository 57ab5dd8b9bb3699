"""How often a healthy back-end is ejected, and how soon a dead one is: `python -m tests.benchmarks.detection`.

The real monitor, pool, sessions and default policy in virtual time, so that every run of the same --seed gives the
same figures; takes some five minutes. Ten alike back-ends answer within two milliseconds, and a client comes every
0.1 s: they take turns, so that each of them gets a client a second. (Under `report` they do not where probes are lost:
one in a hundred outweighs ten connections, so that almost all clients go to the back-end with the fewest losses.)

"Silent" is a back-end that stops at a random moment without a word, and to which connects neither succeed nor fail; the
others refuse connects from then on. While clients come, probes on demand do; false ejections are counted without any
clients, and, where much is lost, with and without. Exits with status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import math
import sys
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from random import Random
from statistics import mean
from typing import Any, Final

import attrs
from twisted.internet.base import DelayedCall
from twisted.internet.task import Clock

from rproxy.config.model import ServiceConfig
from rproxy.net.addresses import Address
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Backend
from rproxy.pool.events import Transitioned
from rproxy.pool.states import Event, State
from rproxy.sessions.endings import Ending
from rproxy.sessions.link import NO_LINK
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.sources.agents.monitor import Monitor, Settings
from rproxy.sources.agents.service_agents import TOKEN_BITS
from rproxy.sources.slow_start import SlowStart
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, decode, encode
from rproxy.wire.seal import Unsealed
from tests.benchmarks.outcomes import Outcome, at_most, exit_status, table
from tests.benchmarks.peers.pacing import percentile
from tests.fakes import pool_of
from tests.policies.balancing import policy
from tests.pool.driving import agent

BACKENDS: Final = 10
LOSS: Final = 0.02
MUCH_LOSS: Final = 0.2
ANSWER_S: Final = (0.0002, 0.002)
"""Range of round trips."""
SERVICE_PORT: Final = 80
REGISTER_S: Final = 20.0
CLIENT_S: Final = 0.1
SETTLED_S: Final = 20.0
"""After this, all are up and their slow start is over."""
PHASE_S: Final = 60.0
"""A death follows `SETTLED_S` at random within this time."""
PATIENCE_S: Final = 60.0
DAY_S: Final = 86_400.0
BUSY_PARTS: Final = 4
"""Runs into which `--busy-days` are parted, with clients and without."""

EJECTIONS_MAX: Final = 2.0
"""Per day, over all back-ends."""
DETECTION_MAX_S: Final = 8.0
REFUSALS_MAX: Final = 3


class VirtualTime(Clock):
    """A `Clock` that inserts a new call by bisection; Twisted's sorts all calls."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> DelayedCall:  # noqa: A002
        call = DelayedCall(self.rightNow + delay, callable, args, kw, self.calls.remove, self._moved, self.seconds)
        insort(self.calls, call)
        return call

    def _moved(self, _: DelayedCall) -> None:
        self.calls.sort()

    def run_until(self, end: float) -> None:
        """Make every call at its own time, as a reactor does."""
        calls = self.calls
        while calls and calls[0].time <= end:
            call = calls.pop(0)
            if call.delayed_time:
                call.activate_delay()
                insort(calls, call)
                continue
            self.rightNow = max(self.rightNow, call.time)
            call.called = 1
            call.func(*call.args, **call.kw)
        self.rightNow = end


class World:
    """A proxy and its back-ends, all up after `SETTLED_S`. Also the monitor's transport."""

    def __init__(self, rng: Random, *, loss: float, backends: int = BACKENDS) -> None:
        self.clock = VirtualTime()
        self.silent: set[Address] = set()
        """Agents that no longer answer."""
        self._rng = rng
        self._loss = 0.0
        pool = pool_of(policy(ServiceConfig().policy))
        publish = Publisher()
        self.monitor = Monitor(self.clock, lambda: rng.getrandbits(TOKEN_BITS), rng.random, Unsealed(), Settings())
        self.ejections: list[tuple[float, Transitioned]] = []
        """Back-ends that went down, and when."""
        publish.subscribe(self.monitor.add(pool, publish).observers())
        publish.subscribe(SlowStart(self.clock, pool).observers())
        publish.subscribe(PoolLog(self.clock, backends, trace=False).observers())
        publish.subscribe({Transitioned: self._transitioned})
        self.service = Service(pool, self.clock, publish=publish)
        transport: Any = self  # the part of one that the monitor uses
        self.monitor.makeConnection(transport)
        self.agents = [agent(number) for number in range(1, backends + 1)]
        for each in self.agents:
            self._register(each)
        self.clock.run_until(SETTLED_S)
        assert len(pool.eligible) == backends
        self._loss = loss

    def _transitioned(self, event: Transitioned) -> None:
        if event.after is State.DOWN:
            self.ejections.append((self.clock.seconds(), event))

    def _register(self, source: Address) -> None:
        self.clock.callLater(REGISTER_S, self._register, source)
        if source not in self.silent and not self._lost():
            self.monitor.datagramReceived(encode(Register(SERVICE_PORT, int(REGISTER_S * 1000), instance=1)), source)

    def _lost(self) -> bool:
        return self._rng.random() < self._loss

    def write(self, datagram: bytes, address: Address) -> None:
        """Send a probe. `loss` covers request and response together."""
        request = decode(datagram)
        assert isinstance(request, ProbeRequest)
        if address not in self.silent and not self._lost():
            answer = encode(ProbeResponse(request.sequence, request.token, cpu=10, memory=20, load=None, tcp=0))
            self.clock.callLater(self._rng.uniform(*ANSWER_S), self.monitor.datagramReceived, answer, address)

    def backend(self, source: Address) -> Backend:
        backend = self.service.pool.get(source[0], SERVICE_PORT)
        assert backend is not None
        return backend


@attrs.frozen
class Death:
    """How a back-end fails: its agent is silent, its service refuses connects, or both."""

    silent: bool
    refuses: bool


@attrs.frozen
class Detection:
    """Times in s since the death. `tries` are those of clients sent to the dead back-end until it was down."""

    down_s: float
    tries: tuple[float, ...]

    @property
    def last_s(self) -> float:
        """When the last client was sent there; 0 if none was."""
        return self.tries[-1] if self.tries else 0.0


def detect(rng: Random, death: Death, loss: float) -> Detection:
    """Simulate one death until the back-end is down."""
    world = World(rng, loss=loss)
    dead = rng.choice(world.agents)
    backend, clock = world.backend(dead), world.clock
    died_at = SETTLED_S + rng.uniform(0, PHASE_S)
    if death.silent:
        clock.callLater(died_at - clock.seconds(), world.silent.add, dead)
    moment, tries = SETTLED_S, []
    while moment < died_at or backend.is_up:
        moment += CLIENT_S
        assert moment < died_at + PATIENCE_S, "the death was not detected"
        clock.run_until(moment)
        refusing = backend if death.refuses and moment >= died_at else None
        if serve_client(world.service, backend, refusing) and moment >= died_at:
            tries.append(moment - died_at)
    down_at = next(at for at, transition in reversed(world.ejections) if transition.backend is backend)
    return Detection(max(down_at - died_at, 0.0), tuple(tries))


def serve_client(service: Service, watched: Backend | None, refusing: Backend | None) -> bool:
    """Run a short session. Returns whether it was sent to the watched back-end."""
    session, seen = Session(service, NO_LINK), False
    while (chosen := session.choose_backend()) is not None:
        seen = seen or chosen is watched
        if chosen is not refusing:
            session.connected()
            session.ended(Ending.CLOSED)
            return seen
        session.connect_failed()
    raise AssertionError("a client was refused")


@attrs.frozen
class Ejections:
    """False ejections: of healthy back-ends."""

    days: float
    by_misses: int
    by_silence: int

    @classmethod
    def total(cls, parts: Iterable[Ejections]) -> Ejections:
        counted = [attrs.astuple(part) for part in parts]
        return cls(*map(sum, zip(*counted, strict=True)))

    @property
    def number(self) -> int:
        return self.by_misses + self.by_silence

    @property
    def a_day(self) -> float:
        return self.number / self.days

    @property
    def error(self) -> float:
        """The standard deviation of `a_day`: rare independent events form a Poisson process."""
        return math.sqrt(self.number) / self.days


def false_ejections(rng: Random, days: float, loss: float, *, busy: bool = False) -> Ejections:
    """`busy`: while clients come."""
    world = World(rng, loss=loss)
    end = SETTLED_S + days * DAY_S
    while busy and world.clock.seconds() < end:
        serve_client(world.service, None, None)
        world.clock.run_until(world.clock.seconds() + CLIENT_S)
    world.clock.run_until(end)
    causes = Counter(transition.event for _, transition in world.ejections)
    by_silence = causes[Event.SILENT]
    return Ejections(days, causes.total() - by_silence, by_silence)


SILENT: Final = Death(silent=True, refuses=False)
DEATHS: Final = {
    "silent": (SILENT, 0.0),
    f"silent, {100 * LOSS:g} % lost": (SILENT, LOSS),
    "silent and refusing": (Death(silent=True, refuses=True), 0.0),
    "refusing, agent alive": (Death(silent=False, refuses=True), 0.0),
}
"""By name: the kind of death, and the loss rate."""
Map = Callable[..., Iterable[Any]]
"""The built-in `map`, or one that spreads the calls over processes."""


def _day(seed: int, days: float, loss: float, busy: bool) -> Ejections:
    return false_ejections(Random(seed), days, loss, busy=busy)


def _death(seed: int, death: Death, loss: float) -> Detection:
    return detect(Random(seed), death, loss)


def measure(chosen: argparse.Namespace, map_: Map) -> list[Outcome]:
    parts = math.ceil(chosen.days)
    seeds = range(chosen.seed, chosen.seed + parts)
    ejections = Ejections.total(map_(_day, seeds, repeat(chosen.days / parts), repeat(LOSS), repeat(False)))
    title = f"false ejections/day, {chosen.days:g} days, {100 * LOSS:g} % lost"
    outcomes = [at_most(title, [_ejections(ejections), "", ""], ejections.a_day, EJECTIONS_MAX), *_busy(chosen, map_)]
    for name, (death, loss) in DEATHS.items():
        seeds = range(chosen.seed, chosen.seed + chosen.deaths)
        outcomes += _death_rows(name, death, list(map_(_death, seeds, repeat(death), repeat(loss))))
    return outcomes


def _busy(chosen: argparse.Namespace, map_: Map) -> list[Outcome]:
    """False ejections where much is lost: probes on demand must not add any."""
    seeds = range(chosen.seed, chosen.seed + 2 * BUSY_PARTS)
    busy = [number >= BUSY_PARTS for number in range(2 * BUSY_PARTS)]
    found = list(map_(_day, seeds, repeat(chosen.busy_days / BUSY_PARTS), repeat(MUCH_LOSS), busy))
    idle, coming = Ejections.total(found[:BUSY_PARTS]), Ejections.total(found[BUSY_PARTS:])
    title = f"false ejections/day, {chosen.busy_days:g} days, {100 * MUCH_LOSS:g} % lost"
    return [
        Outcome(title, [_ejections(idle), "", ""]),
        at_most("… while clients come", [_ejections(coming), "", ""], coming.a_day, round(idle.a_day, 2)),
    ]


def _ejections(found: Ejections) -> str:
    return f"{found.a_day:.2f} ± {found.error:.2f}"


def _death_rows(name: str, death: Death, found: Sequence[Detection]) -> list[Outcome]:
    tries = sorted(float(len(each.tries)) for each in found)
    last, down = sorted(each.last_s for each in found), sorted(each.down_s for each in found)
    sent, after, until = f"{name}: clients sent there", "… last of them after s", "… down after s"
    if death.refuses:
        return [
            at_most(sent, _spread(tries, 1), tries[-1], REFUSALS_MAX),
            Outcome(after, _spread(last, 1)),
            Outcome(until, _spread(down, 1)),
        ]
    return [
        Outcome(sent, _spread(tries, 1)),
        at_most(after, _spread(last, 1), last[-1], DETECTION_MAX_S),
        Outcome(until, _spread(down, 1)),
    ]


def _spread(values: Sequence[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in (mean(values), percentile(values, 0.99), values[-1])]


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.detection", description=__doc__)
    parser.add_argument("--days", type=float, default=60.0, help="for false ejections (60)")
    parser.add_argument("--busy-days", type=float, default=0.1, help="the same, with and without clients (0.1)")
    parser.add_argument("--deaths", type=int, default=300, help="of each kind (300)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (1)")
    parsed = parser.parse_args(arguments)
    if parsed.days <= 0 or parsed.busy_days <= 0 or parsed.deaths < 1:
        parser.error("--days, --busy-days and --deaths must be positive")
    return parsed


def main(arguments: Sequence[str]) -> int:
    chosen = options(arguments)
    with ProcessPoolExecutor() as pool:
        outcomes = measure(chosen, pool.map)
    print(table(["mean", "p99", "max"], outcomes))
    return exit_status(outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
