"""Static back-ends on a clock of their own: connections are made by the test, and names are what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rproxy.net.addresses import Address
from rproxy.net.lookups import Lookups
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Backend, StaticTerms
from rproxy.sources.static.backends import StaticBackends
from rproxy.sources.static.dial import Dial, Outcome
from rproxy.sources.static.row import Checks, Dials, Entry
from rproxy.timing.wheel import Wheel
from tests.fakes import UNLIMITED, pool_of, run

REFUSED = Outcome("Connection refused", answered=True)
PASSED = Outcome(answered=True, rtt_ms=0.4)


class FakeDials(Dials):
    """Every connection is answered at once as `outcomes` say, by address; the others stay open."""

    def __init__(self, clock: Clock, wheel: Wheel) -> None:
        super().__init__(clock, wheel)
        self.clock = clock
        self.outcomes: dict[Address, Outcome] = {}
        self.made: list[tuple[float, Address, int, bool]] = []
        """When, and of what: the version of its PROXY header, and whether it reads a line."""
        self.open: dict[Dial, tuple[Address, Callable[[Outcome], None]]] = {}

    def make(
        self,
        address: Address,
        done: Callable[[Outcome], None],
        *,
        send_proxy: int = 0,
        reads: bool = False,
        after_silence: bool = False,
    ) -> Dial:
        dial = super().make(address, done, send_proxy=send_proxy, reads=reads, after_silence=after_silence)
        self.made.append((self.clock.seconds(), address, send_proxy, reads))
        self.open[dial] = (address, done)
        return dial

    def start(self, dial: Dial) -> None:
        address, _ = self.open[dial]
        if address in self.outcomes:
            self.end(address, self.outcomes[address])

    def end(self, address: Address, outcome: Outcome) -> None:
        """The open connections to an address end like this."""
        for dial, (of, done) in list(self.open.items()):
            if of == address:
                del self.open[dial]
                done(outcome)

    def cancel(self, dial: Dial) -> None:
        del self.open[dial]

    def at(self, address: Address) -> list[float]:
        return [at for at, of, _, _ in self.made if of == address]


class FakeLookups(Lookups):
    """Names that the test answers."""

    def __init__(self) -> None:
        super().__init__(None)
        self.asked: list[tuple[str, Deferred[Sequence[str]]]] = []
        self.cancelled: list[str] = []

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        waiting: Deferred[Sequence[str]] = Deferred(lambda _: self.cancelled.append(host))
        self.asked.append((host, waiting))
        return waiting

    def answer(self, *addresses: str) -> None:
        """To the last question."""
        self.asked[-1][1].callback(addresses)

    def fail(self, error: Exception) -> None:
        self.asked[-1][1].errback(error)


class Bench:
    """`own` has the addresses that are this proxy itself."""

    def __init__(self, *entries: Entry, jitter: Callable[[], float] = lambda: 0.5) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock)
        self.pool = pool_of(limits=UNLIMITED, slow_start_s=0, panic_below=0)
        self.publish = Publisher()
        self.log = PoolLog(self.clock, 100, trace=False)
        self.publish.subscribe(self.log.observers())
        self.own: set[Address] = set()
        self.send_proxy = 0
        self.dials = FakeDials(self.clock, self.wheel)
        self.lookups = FakeLookups()
        self.in_use: dict[Address, Entry] = {}
        checks = Checks(
            self.clock,
            self.wheel,
            self.pool,
            self.publish,
            jitter,
            self.own.__contains__,
            lambda: self.send_proxy,
            dials=self.dials,
        )
        self.backends = StaticBackends(checks, self.lookups, self._changed)
        self.backends.apply(entries)

    def _changed(self, entries: object) -> None:
        assert isinstance(entries, dict)
        self.in_use = entries

    def start(self, seconds: float = 0.2) -> None:
        self.backends.start()
        run(self.clock, seconds)

    def run(self, seconds: float) -> None:
        run(self.clock, seconds)

    def backend(self, key: Address) -> Backend:
        backend = self.pool.get(*key)
        assert backend is not None
        return backend

    @property
    def keys(self) -> list[Address]:
        return [(backend.address, backend.port) for backend in self.pool]

    def stop(self) -> None:
        self.backends.stop()
        self.log.stop()
        self.wheel.stop()


def entry(
    host: str, port: int = 80, *, weight: int = 100, check: str = "connect", send_proxy: int | None = None
) -> Entry:
    agent_port = int(check.rpartition(":")[2]) if ":" in check else None
    return Entry((host, port), StaticTerms(weight, check), check != "none", agent_port, send_proxy)


def entries(*hosts: str) -> Iterable[Entry]:
    return [entry(host) for host in hosts]
