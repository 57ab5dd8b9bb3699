"""Keeps one proxy told of an agent: registers at every interval, and sooner while the proxy does not probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.agent.freshness import Freshness
from rproxy.net.addresses import Address, written
from rproxy.timing.loops import keep_looping
from rproxy.wire.pdu import WEIGHT_NORMAL, Pdu, ProbeRequest, Register

SILENCE_S: Final = 12.0
"""An agent that no probe has reached for so long takes it that its proxy was restarted."""
RETRY_S: Final = 1.0
"""The first of the waits between registrations that no probe answers; it doubles when all addresses were tried."""
RETRY_MAX_S: Final = 10.0
"""The longest of them: a proxy that comes back has its pool in time however long it was away."""
JITTER: Final = 0.1
LOOKUP_S: Final = 300.0
"""How often a name is looked up again in any case."""
ADDRESSES_MAX: Final = 16
"""Of one name."""
UNKNOWN: Final = "::"
"""Stands for an address of ours that nothing has told yet: no proxy has a key for it."""
HINT_S: Final = 10.0
"""An agent that no proxy has probed for so long says what may be wrong."""

Resolve = Callable[[str], "Deferred[Sequence[str]]"]
"""A host name's IP addresses in text, best first; fails when there are none now."""


@attrs.frozen
class Service:
    """What an agent registers: `port` 0 is the proxy's default back-end port, `interval_s` in seconds."""

    interval_s: float
    instance: int
    port: int = 0
    weight: int = WEIGHT_NORMAL

    @property
    def interval_ms(self) -> int:
        return max(1, round(self.interval_s * 1000))


class Registering(Protocol):
    """What a registrar needs of its agent."""

    service: Service
    draining: bool
    clock: IReactorTime
    resolve: Resolve
    jitter: Callable[[], float]
    counters: Counter[str]
    own_address: Callable[[Address, str], str] | None
    stranger: Address | None
    """Who has probed, and is nobody's proxy."""

    @property
    def is_keyed(self) -> bool: ...
    def send(self, pdu: Pdu, address: Address, own: str, source: str = "") -> None: ...


class Registrar:
    """Tries the addresses of a proxy's name in turn until it is probed from one, and then keeps to that one."""

    log = Logger()

    def __init__(self, agent: Registering, proxy: Address) -> None:
        self.address: Address | None = None
        """Where we register: the address that probes, or the one whose turn it is."""
        self.probed_at = agent.clock.seconds()
        """When last, or when we began."""
        self._agent = agent
        self._proxy = proxy
        self._addresses: tuple[Address, ...] = ()
        """What the name stands for."""
        self._own: dict[Address, str] = {}
        """Our address as the proxy sees it, by the one we have written to."""
        self._freshness: Freshness | None = None
        self._loop = LoopingCall(self.register)
        self._looking_up = LoopingCall(self._look_up)
        self._loop.clock = self._looking_up.clock = agent.clock
        self._retry: IDelayedCall | None = None
        self._retry_s = RETRY_S
        self._tries = 0
        """Registrations in vain."""
        self._turn = -1
        """Whose turn it is of the addresses of a name that has moved."""
        self._known = False
        self._unprobed_since = agent.clock.seconds()
        self._hinted: tuple[bool, bool] = False, False
        """Whether that nobody probes us was said, and whether with a stranger's address."""
        self._lookup: Deferred[Sequence[str]] | None = None

    def start(self) -> None:
        keep_looping(self._loop, self._agent.service.interval_s, now=True, failed=self._failed)
        keep_looping(self._looking_up, LOOKUP_S, now=False, failed=self._failed)
        self._retry_after(RETRY_S)

    def _failed(self, failure: Failure) -> None:
        self.log.failure("registering with {proxy}", failure, proxy=written(self._proxy))

    def stop(self) -> None:
        for loop in (self._loop, self._looking_up):
            if loop.running:
                loop.stop()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._lookup is not None:
            self._lookup.cancel()

    @property
    def _settled(self) -> bool:
        """Whether the proxy probes from an address that its name still has."""
        return self._known and self.address in self._addresses

    def knows(self, source: Address) -> bool:
        """Whether a probe from there is our proxy's."""
        return source == self.address or (source in self._addresses and not self._settled)

    def seen_at(self, source: Address, local: str) -> str:
        """Our address as the proxy sees it that has asked from `source` at `local`, which is empty if not known."""
        if not local or self._agent.own_address is None:
            return self._own.get(source, UNKNOWN)
        return self._agent.own_address(source, local)

    def probed(self, source: Address, probe: ProbeRequest) -> None:
        """The proxy knows us, until it has been silent for `SILENCE_S`; unless somebody repeats what it once sent."""
        if self._agent.is_keyed:
            self._freshness = self._freshness or Freshness()
            if not self._freshness.take(probe.sequence, probe.token):
                self._agent.counters["stale-probe"] += 1
                return
        if not self._known or source != self.address:
            self._known = True
            self._hinted = False, False
            self.address = source
            here = written(self._proxy) if source == self._proxy else f"{written(self._proxy)} ({written(source)})"
            self.log.info("{proxy} probes this agent", proxy=here)
        self.probed_at = self._agent.clock.seconds()
        self._retry_s, self._tries = RETRY_S, 0
        self._retry_after(SILENCE_S)

    def _retry_after(self, delay_s: float) -> None:
        """Jitter only shortens, so that the waits keep what they promise; agents of one proxy drift apart."""
        delay_s *= 1 - JITTER * self._agent.jitter()
        if self._retry is None:
            self._retry = self._agent.clock.callLater(delay_s, self._unprobed)
        else:
            self._retry.reset(delay_s)

    def _unprobed(self) -> None:
        self._retry = None
        if self._known:
            self._fall_silent()
        else:
            self._tries += 1
            if self._tries % max(len(self._addresses), 1) == 0:
                self._retry_s = min(self._retry_s * 2, RETRY_MAX_S, self._agent.service.interval_s)
            self._hint()
            self._take_turn()
        self._retry_after(self._retry_s)
        self.register()

    def _fall_silent(self) -> None:
        self._known = False
        self._unprobed_since = self._agent.clock.seconds()
        self._agent.stranger = None
        if self._freshness is not None:
            self._freshness.fell_silent()
        self.log.info("{proxy} has stopped probing; registering again", proxy=written(self._proxy))

    def _take_turn(self) -> None:
        """The next address, in the order of the name's."""
        if self.address in self._addresses:
            self.address = self._addresses[(self._addresses.index(self.address) + 1) % len(self._addresses)]
        elif self._addresses:
            self.address = self._addresses[0]

    def _hint(self) -> None:
        """Once, what may be wrong: no proxy says so to a stranger. Once more where somebody else probes us."""
        stranger = self._agent.stranger
        told, told_stranger = self._hinted
        unprobed_s = self._agent.clock.seconds() - self._unprobed_since
        if self.address is None or unprobed_s < HINT_S or (told and (told_stranger or stranger is None)):
            return
        self._hinted = True, stranger is not None
        self.log.warn(
            "{proxy} does not probe this agent: is it running, does UDP pass both ways, do its --allow and --keyring "
            "fit this host? trying on{stranger}",
            proxy=written(self._proxy),
            stranger="" if stranger is None else f"; probes come from {written(stranger)}, which no --proxy names",
        )

    def register(self) -> None:
        """Send at once where an address is known; while the proxy is silent, look its name up again as well."""
        self._send_registration()
        if not self._known:
            self._look_up()

    def _send_registration(self) -> None:
        service, draining = self._agent.service, self._agent.draining
        pdu = Register(service.port, service.interval_ms, service.instance, service.weight, draining)
        self.send(pdu)
        if self._known and self._addresses and not self._settled:
            self._turn += 1  # the name has moved, and the proxy still probes from its old place
            self.send_to(self._addresses[self._turn % len(self._addresses)], pdu)

    def _look_up(self) -> None:
        if self._lookup is None:
            self._lookup = self._agent.resolve(self._proxy[0])
            self._lookup.addCallbacks(self._resolved, self._unresolved)

    def _resolved(self, hosts: Sequence[str]) -> None:
        self._lookup = None
        addresses = tuple((host, self._proxy[1]) for host in dict.fromkeys(hosts))[:ADDRESSES_MAX]
        if set(addresses) == set(self._addresses):  # in whatever order
            return
        self._addresses, self._turn = addresses, -1
        self._own = {address: self._own[address] for address in (*addresses, self.address) if address in self._own}
        if self.address not in addresses:
            if not self._known:
                self._take_turn()
            self._send_registration()

    def _unresolved(self, failure: Failure) -> None:
        self._lookup = None
        if failure.check(CancelledError):
            return
        self._agent.counters["unresolved"] += 1
        if self._agent.counters["unresolved"] == 1:
            self.log.warn(
                "{proxy} has no address now ({error}); trying again",
                proxy=written(self._proxy),
                error=getattr(failure.value, "strerror", None) or failure.getErrorMessage(),
            )

    def send(self, pdu: Pdu) -> None:
        """To the proxy, if its address is known."""
        if self.address is not None:
            self.send_to(self.address, pdu)

    def send_to(self, address: Address, pdu: Pdu, local: str = "") -> None:
        """To one address of the proxy's; from `local` where it asked there."""
        if self._agent.own_address is not None:
            try:
                self._own[address] = self._agent.own_address(address, local)
            except OSError as error:  # no route: what we send would not arrive anyhow
                self._agent.counters[error.__class__.__name__] += 1
                return
        self._agent.send(pdu, address, self._own.get(address, UNKNOWN), local)
