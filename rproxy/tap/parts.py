"""The base class of the proxy's parts, which are twistd services."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from rproxy.net.addresses import unmapped, written


class Part(Service):
    """A part of the proxy.

    `privilegedStartService` opens its ports, before the process sheds its privileges, and may raise `StartupError`;
    `startService` follows. A stop has two steps, either of which may come without a start: first `stop_accepting` of
    all parts, and then, once the sessions have had time to end, `stopService` of all parts, the last one first.
    """

    def stop_accepting(self) -> Deferred[Any] | None:
        """Take on nothing new, and finish what must be finished before the sessions end. Fires when that is done."""
        return None

    def hurry(self) -> None:
        """Finish `stop_accepting` as soon as possible, if it is under way: the sessions are about to be ended."""


class Group(Part, MultiService):
    """Parts of one kind, one of each service, started in order and stopped in the opposite one."""

    def stop_accepting(self) -> Deferred[Any]:
        """As `Part`: the first step of a stop."""
        return DeferredList([maybeDeferred(part.stop_accepting) for part in self])

    def hurry(self) -> None:
        """As `Part`."""
        for part in self:
            part.hurry()


class Stoppable(Protocol):
    """Has timers only while it needs them."""

    def stop(self) -> None:
        """Cancel all timers. Called once, last; may come without a start."""


class Timers(Part):
    """Objects that start their timers themselves, and have only to be stopped: in the order given."""

    def __init__(self, *stoppables: Stoppable) -> None:
        self._stoppables = stoppables

    def stopService(self) -> None:
        """As `Part`: the second step of a stop."""
        super().stopService()
        for each in self._stoppables:
            each.stop()


class Startable(Stoppable, Protocol):
    """Has timers from its start on."""

    def start(self) -> None:
        """Start them. Called once, when the reactor runs."""


class Started(Part):
    """An object that is started and stopped with the process, and does nothing else in between."""

    def __init__(self, startable: Startable) -> None:
        self._startable = startable

    def startService(self) -> None:
        """As `Part`."""
        super().startService()
        self._startable.start()

    def stopService(self) -> None:
        """As `Part`: the second step of a stop."""
        super().stopService()
        self._startable.stop()


def closed(*ports: IListeningPort | None) -> Deferred[Any]:
    """Close these ports, ignoring None. Fires when all are closed; never fails."""
    return DeferredList([maybeDeferred(port.stopListening) for port in ports if port is not None])


def address_of(port: IListeningPort) -> str:
    """A port's address as logs have it."""
    address: Any = port.getHost()
    if hasattr(address, "port"):
        text = written((unmapped(address.host), address.port))
        binding = getattr(port, "binding", None)
        return f"{text} (IPv4, too)" if binding is not None and binding.is_dual else text
    name = address.name
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
