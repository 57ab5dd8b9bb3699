"""Agents that run in a thread of the test and report given figures."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from typing import Any, Final

import attrs

from rproxy.agent.sampler import Load
from rproxy.net.addresses import Address
from rproxy.wire.pdu import MalformedPdu, Pdu, ProbeRequest, ProbeResponse, Register, Unregister, decode, encode
from tests.integration.addresses import address_of, family

REGISTER_S: Final = 1.0
IDLE: Final = Load(cpu=0, memory=0, tcp=0)
BUSY: Final = Load(cpu=0, memory=0, tcp=1000)
"""Figures of a busy host: idle ones are preferred, whatever the round trips."""


class FakeAgent:
    """Registers one service at a proxy's monitor, again until it is probed, and answers every probe with `load`.

    `delay_s` is how long it lets the proxy wait for each answer; `host` its own address, by default the proxy's.
    """

    def __init__(
        self,
        monitor: Address,
        service_port: int,
        load: Load = IDLE,
        *,
        interval_s: float = 20.0,
        delay_s: float = 0.0,
        host: str = "",
    ) -> None:
        self.load = load
        self.draining = False
        self._delay_s = delay_s
        self.probes = 0
        self.sessions: int | None = None
        """How many sessions the proxy said that it has here, in its last probe."""
        self._monitor = monitor
        self._registration = Register(service_port, round(interval_s * 1000), random.getrandbits(64))
        self._socket = socket.socket(family(monitor[0]), socket.SOCK_DGRAM)
        self._socket.bind((host or monitor[0], 0))
        self._socket.settimeout(REGISTER_S)
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        """The address at which it is probed."""
        return address_of(self._socket)

    @property
    def backend(self) -> Address:
        """The address of its service."""
        return self.address[0], self._registration.service_port

    def _run(self) -> None:
        while not self._closed:
            if not self.probes:
                self._register()
            with suppress(TimeoutError, MalformedPdu):
                datagram, source = self._socket.recvfrom(64)
                self._answer(decode(datagram), source)

    def _register(self) -> None:
        self._send(attrs.evolve(self._registration, draining=self.draining), self._monitor)

    def _send(self, pdu: Pdu, address: Any) -> None:
        self._socket.sendto(encode(pdu), address)

    def drain(self, draining: bool = True) -> None:
        """Start or stop draining."""
        self.draining = draining
        self._register()

    def limit(self, max_connections: int | None) -> None:
        """Register another limit of sessions."""
        self._registration = attrs.evolve(self._registration, max_connections=max_connections)
        self._register()

    def _answer(self, pdu: object, source: Any) -> None:
        if isinstance(pdu, ProbeRequest):
            self.probes += 1
            self.sessions = pdu.sessions
            load = self.load
            answer = ProbeResponse(
                pdu.sequence, pdu.token, load.cpu, load.memory, load.application, load.tcp, self.draining
            )
            if self._delay_s:
                threading.Timer(self._delay_s, self._send_late, (answer, source)).start()
            else:
                self._send(answer, source)

    def _send_late(self, answer: ProbeResponse, source: Any) -> None:
        with suppress(OSError):  # closed in the meantime
            self._send(answer, source)

    def close(self, *, unregister: bool = True) -> None:
        if self._closed:
            return
        self._closed = True
        self._socket.sendto(b"", self.address)  # wakes the thread
        self._thread.join()
        if unregister:
            self._send(Unregister(self._registration.service_port, self._registration.instance), self._monitor)
        self._socket.close()
