"""A further UDP port for agents."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.protocol import DatagramProtocol

from rproxy.net.addresses import Address, written
from rproxy.sources.agents.monitor import Monitor


class FurtherPort(DatagramProtocol):
    """Passes datagrams on to the monitor, and marks our address as this port's: `HOST@MONITOR`.

    An agent takes probes only from the address and port with which it registers. What is received on the monitor's own
    port is not marked.
    """

    noisy = False

    def __init__(self, monitor: Monitor, address: Address) -> None:
        """`address` is the configured one."""
        self._monitor = monitor
        self._mark = written(address)

    def startProtocol(self) -> None:
        self._monitor.ways[self._mark] = self.transport

    def stopProtocol(self) -> None:
        self._monitor.ways.pop(self._mark, None)

    def datagramReceived(self, datagram: bytes, addr: Sequence[object], local: str = "") -> None:
        """Process a datagram, sent to our address `local`, if that is known."""
        self._monitor.datagramReceived(datagram, addr, f"{local}@{self._mark}")
