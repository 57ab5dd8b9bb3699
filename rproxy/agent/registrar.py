"""Registers an agent with one proxy: at every interval, and more often while the proxy does not probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.agent.environment import Environment
from rproxy.agent.proxy_addresses import ProxyAddresses
from rproxy.agent.replay_guard import SequenceGuard
from rproxy.agent.unprobed_hint import UnprobedHint
from rproxy.net.addresses import Address, written
from rproxy.timing.loops import keep_looping
from rproxy.wire.pdu import WEIGHT_NORMAL, Pdu, ProbeRequest, Register

SILENCE_S: Final = 12.0
"""Without a probe for this long, the proxy is assumed to have restarted and forgotten the agent."""
RETRY_S: Final = 1.0
"""The first wait between registrations while no probe comes; doubled when every address has been tried."""
RETRY_MAX_S: Final = 10.0
"""The longest wait: bounds how long a proxy that comes back lacks its pool, however long it was away."""
JITTER: Final = 0.1
"""Waits are shortened at random by up to this fraction, so that the agents of a proxy drift apart."""
LOOKUP_S: Final = 300.0
"""Interval between look-ups of the proxy's name while it probes."""
STALE_PROBE: Final = "stale-probe"
"""Counter of replayed probes."""
UNKNOWN_ADDRESS: Final = "::"
"""This host's address while it is unknown. No key is valid for it."""


@attrs.frozen
class Registration:
    """What an agent registers.

    `interval_s` is the time between registrations; `instance` is random for every start; `port` is the service's TCP
    port, 0 for the proxy's default; `weight` is relative to `WEIGHT_NORMAL`; `max_connections` is the most sessions of
    each proxy at once, None for no limit of the agent's.
    """

    interval_s: float
    instance: int
    port: int = 0
    weight: int = WEIGHT_NORMAL
    max_connections: int | None = None

    @property
    def interval_ms(self) -> int:
        """The interval as sent: whole milliseconds, at least 1."""
        return max(1, round(self.interval_s * 1000))


class RegisteringAgent(Protocol):
    """What registrars use of their agent. Attributes are read anew each time: the agent may change them."""

    registration: Registration
    environment: Environment
    draining: bool
    """Whether the host asks for no new clients."""
    counters: Counter[str]
    unknown_prober: Address | None
    """The host that last probed without being one of the proxies; set to None when a proxy stops probing."""

    @property
    def is_keyed(self) -> bool:
        """Whether PDUs are keyed. If not, replayed probes are not detected: forging one is as easy."""

    def send(self, pdu: Pdu, address: Address, own: str, source: str = "") -> None:
        """Send `pdu` to `address`, at any time between start and stop. Never raises: errors are counted.

        `own` is this host's address as the proxy sees it, for the seal; `source` is the local address to send from,
        empty for that of the route.
        """


class Registrar:
    """Registers with one proxy. Call `start` once the agent has a port, and `stop` before it closes; both repeatedly.

    Probes are passed on to `probed` after they have been found authentic.
    """

    log = Logger()

    def __init__(self, agent: RegisteringAgent, proxy: Address) -> None:
        """`proxy` is a host name or an IP address, and the UDP port of its monitor."""
        self.probed_at = agent.environment.clock.seconds()
        """When the proxy last probed; the time of construction before that."""
        self._agent = agent
        self._proxy = proxy
        self._addresses = ProxyAddresses(proxy[1])
        self._own_addresses: dict[Address, str] = {}
        """This host's address as the proxy sees it, by the proxy's address that was last written to."""
        self._sequence_guard = SequenceGuard()
        self._hint = UnprobedHint(proxy, self.probed_at)
        self._registering = LoopingCall(self.register)
        self._looking_up = LoopingCall(self._look_up)
        self._registering.clock = self._looking_up.clock = agent.environment.clock
        self._timeout: IDelayedCall | None = None
        """While the proxy probes, checks whether it has been silent for `_silence_s`; otherwise, the next retry."""
        self._silence_s = self._shortened(SILENCE_S)
        self._retry_s = RETRY_S
        self._retries = 0
        """Since the proxy last probed."""
        self._lookup: Deferred[Sequence[str]] | None = None
        """The look-up under way."""

    @property
    def address(self) -> Address | None:
        """The proxy's address that is registered with, None until its name has been resolved."""
        return self._addresses.current

    def start(self) -> None:
        """Register now and from now on."""
        keep_looping(self._registering, self._agent.registration.interval_s, now=True, failed=self._failed)
        keep_looping(self._looking_up, LOOKUP_S, now=False, failed=self._failed)
        self._set_timeout(self._shortened(RETRY_S))

    def _failed(self, failure: Failure) -> None:
        self.log.failure("registering with {proxy}", failure, proxy=written(self._proxy))

    def stop(self) -> None:
        """Cancel every timer and look-up. May be called twice, or without `start`."""
        for loop in (self._registering, self._looking_up):
            if loop.running:
                loop.stop()
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        if self._lookup is not None:
            self._lookup.cancel()

    def accepts(self, source: Address) -> bool:
        """Whether a probe from `source` is taken for this proxy's."""
        return self._addresses.accepts(source)

    def own_address(self, source: Address, local: str) -> str:
        """This host's address as the proxy at `source` sees it.

        `local` is the local address that the proxy's datagram was sent to, empty if unknown. Raises `OSError` if there
        is no route.
        """
        environment = self._agent.environment
        if not local or environment.own_address is None:
            return self._own_addresses.get(source, UNKNOWN_ADDRESS)
        return environment.own_address(source, local)

    def probed(self, source: Address, probe: ProbeRequest) -> bool:
        """The proxy has probed: it knows this agent until it has been silent for `SILENCE_S`.

        To be called with probes whose token is new. One that is replayed all the same, by its sequence number, is
        counted and has no effect: then this returns False.
        """
        if self._agent.is_keyed and not self._sequence_guard.accept(probe.sequence):
            self._agent.counters[STALE_PROBE] += 1
            return False
        if self._addresses.probed(source):
            name = written(self._proxy)
            self.log.info(
                "{proxy} probes this agent", proxy=name if source == self._proxy else f"{name} ({written(source)})"
            )
        self.probed_at = self._agent.environment.clock.seconds()
        return True

    def _shortened(self, delay_s: float) -> float:
        """Jitter only shortens: the constants remain upper bounds."""
        return delay_s * (1 - JITTER * self._agent.environment.jitter())

    def _set_timeout(self, delay_s: float) -> None:
        """Probes do not restart it: it runs out in time to notice a silence, and is then set to what is left of it."""
        self._timeout = self._agent.environment.clock.callLater(delay_s, self._timed_out)

    def _timed_out(self) -> None:
        self._timeout = None
        if self._addresses.is_probing:
            left_s = self.probed_at + self._silence_s - self._agent.environment.clock.seconds()
            if left_s > 0:
                self._set_timeout(left_s)
                return
            self._probing_stopped()
        else:
            self._retry()
        self._set_timeout(self._shortened(self._retry_s))
        self.register()

    def _probing_stopped(self) -> None:
        self._retry_s, self._retries = RETRY_S, 0
        self._addresses.probing_stopped()
        self._hint.restart(self._agent.environment.clock.seconds())
        self._agent.unknown_prober = None
        self._sequence_guard.forget()
        self.log.info("{proxy} has stopped probing; registering again", proxy=written(self._proxy))

    def _retry(self) -> None:
        self._retries += 1
        if self._retries % max(len(self._addresses.resolved), 1) == 0:
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S, self._agent.registration.interval_s)
        if self.address is not None:
            self._hint.maybe_log(self._agent.environment.clock.seconds(), self._agent.unknown_prober)
        self._addresses.advance()

    def register(self) -> None:
        """Send a registration now, if an address is known. Unless the proxy probes, look up its name again as well."""
        self._send_registration()
        if not self._addresses.is_probing:
            self._look_up()

    def _send_registration(self) -> None:
        registration = self._agent.registration
        pdu = Register(
            registration.port,
            registration.interval_ms,
            registration.instance,
            registration.weight,
            self._agent.draining,
            registration.max_connections,
        )
        for address in self._addresses.next_targets():
            self.send_to(address, pdu)

    def _look_up(self) -> None:
        if self._lookup is None:
            self._lookup = self._agent.environment.resolve(self._proxy[0])
            self._lookup.addCallbacks(self._resolved, self._unresolved)

    def _resolved(self, hosts: Sequence[str]) -> None:
        self._lookup = None
        if self._addresses.update(hosts):
            self._send_registration()
        known = {self.address, *self._addresses.resolved}
        self._own_addresses = {address: own for address, own in self._own_addresses.items() if address in known}

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
        """Send to the current address of the proxy, if there is one."""
        if self.address is not None:
            self.send_to(self.address, pdu)

    def send_to(self, address: Address, pdu: Pdu, local: str = "") -> None:
        """Send to one address of the proxy: from `local`, if given, which is where the proxy has sent its probe.

        Without a route to it, nothing is sent, and the error counted.
        """
        environment = self._agent.environment
        if environment.own_address is not None:
            try:
                self._own_addresses[address] = environment.own_address(address, local)
            except OSError as error:
                self._agent.counters[error.__class__.__name__] += 1
                return
        self._agent.send(pdu, address, self._own_addresses.get(address, UNKNOWN_ADDRESS), local)
