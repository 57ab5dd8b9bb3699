"""The kinds of service checks: a connection, an HTTP request, a command."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from rproxy.agent.accept_queue import ListeningSockets, service_addresses
from rproxy.agent.check_loop import TIMEOUT_S, CheckFailed
from rproxy.agent.shell_command import CommandFailed, ShellCommand
from rproxy.agent.sock_diag import Listener
from rproxy.net.addresses import written

QUEUE_POLL_S: Final = 0.005
"""Time from the check's connection to the first look at the accept queue; doubled for each further one."""
QUEUE_POLL_MAX_S: Final = 0.1
HEAD_MAX: Final = 1 << 16
"""Bytes of a response within which its status line must be found."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\n]*|\r)?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")

OwnAddresses = Callable[[], Collection[str]]
"""This host's IP addresses at which the service's clients connect, as far as known now."""


class _Connection(Protocol):
    """A connection to the service. One coroutine at a time may wait for `change`."""

    transport: ITCPTransport

    def __init__(self) -> None:
        self.received = bytearray()
        self.has_ended = False
        self._waiting: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._notify()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.has_ended = True
        self._notify()

    def _notify(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _forget(self, _: object) -> None:
        self._waiting = None

    def change(self) -> Deferred[None]:
        """Fires when more bytes have arrived, or the connection has ended. Cancellable."""
        self._waiting = Deferred(self._forget)
        return self._waiting


class _ConnectionFactory(Factory):
    noisy = False
    protocol = _Connection


async def _connect(reactor: Any, hosts: Sequence[str], port: int) -> _Connection:
    """A connection to the first of `hosts` that accepts one. Raises `CheckFailed`, with the reason of the first."""
    reasons = []
    for host in hosts:
        endpoint = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        try:
            connection: Any = await endpoint(reactor, host, port, TIMEOUT_S / len(hosts)).connect(_ConnectionFactory())
            assert isinstance(connection, _Connection)
            return connection
        except ConnectError as error:
            reason = os.strerror(error.osError) if isinstance(error.osError, int) else "no connection"
            reasons.append(f"{written((host, port))}: {reason}")
    raise CheckFailed(reasons[0])


class ConnectCheck:
    """A `Check` that connects to the service's port, and waits until the service accepts the connection.

    The kernel completes connections for a program that hangs, often hundreds, until the accept queue is full. So the
    queue must become shorter than it is with this connection. Where it is not visible (systems other than Linux;
    sockets with TCP_DEFER_ACCEPT, which queue a connection only when data arrive), the connection is enough.
    """

    def __init__(self, reactor: Any, port: int, own_addresses: OwnAddresses) -> None:
        self.timeout_reason = ""
        self._reactor = reactor
        self._port = port
        self._own_addresses = own_addresses
        self._sockets = ListeningSockets(reactor.seconds)
        self._has_unaccepted = False
        """Whether a connection of an earlier check may still be queued: watch that instead of adding one each time."""

    def stop(self) -> None:
        """As `Check.stop`: a cancelled check has closed its connection."""
        self._sockets.close()

    async def run(self) -> None:
        """As `Check.run`."""
        found = self._sockets.find(self._port)
        before = _queued(found)
        if self._has_unaccepted and before:
            await self._shorter_queue(before)
            return
        self._has_unaccepted = False
        self.timeout_reason = f"no connection to port {self._port}"
        connection = await _connect(self._reactor, service_addresses(found, self._own_addresses()), self._port)
        try:
            await self._shorter_queue(before + 1)
        finally:
            connection.transport.loseConnection()

    async def _shorter_queue(self, length: int) -> None:
        """Wait until the accept queue is shorter than `length`, or than it has grown since."""
        self.timeout_reason = f"connections to port {self._port} are made, but not accepted"
        self._has_unaccepted = True
        wait_s = QUEUE_POLL_S
        while True:
            await deferLater(self._reactor, wait_s)
            now = _queued(self._sockets.find(self._port))
            if now < length:
                break
            length, wait_s = now, min(2 * wait_s, QUEUE_POLL_MAX_S)
        self._has_unaccepted = False


def _queued(found: Collection[Listener]) -> int:
    """The number of connections that are not yet accepted."""
    return sum(listener.queued for listener in found)


class HttpCheck:
    """A `Check` that sends GET `path`, to be answered with a status from 200 to 399."""

    def __init__(self, reactor: Any, port: int, own_addresses: OwnAddresses, path: str) -> None:
        self.timeout_reason = f"no answer to GET {path}"
        self._reactor = reactor
        self._port = port
        self._own_addresses = own_addresses
        self._sockets = ListeningSockets(reactor.seconds)
        self._path = path

    def stop(self) -> None:
        """As `Check.stop`: a cancelled check has closed its connection."""
        self._sockets.close()

    async def run(self) -> None:
        """As `Check.run`."""
        hosts = service_addresses(self._sockets.find(self._port), self._own_addresses())
        connection = await _connect(self._reactor, hosts, self._port)
        try:
            peer: Any = connection.transport.getPeer()
            host = written((peer.host, peer.port))
            request = (
                f"GET {self._path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rproxy-agent\r\nConnection: close\r\n\r\n"
            )
            connection.transport.write(request.encode("ascii"))
            status = await _status(connection)
        finally:
            connection.transport.abortConnection()
        if not 200 <= status < 400:
            raise CheckFailed(f"GET {self._path} is answered with status {status}")


async def _status(connection: _Connection) -> int:
    """The status of the response; interim responses (1xx, RFC 9110) are skipped. Raises `CheckFailed`."""
    received = connection.received
    while True:
        match = _STATUS.match(received)
        if match is not None and not match[1].startswith(b"1"):
            return int(match[1])
        end = _HEAD_END.search(received) if match is not None else None
        if end is not None:
            del received[: end.end()]
            continue
        if connection.has_ended or len(received) > HEAD_MAX or (match is None and b"\n" in received):
            raise CheckFailed("the answer is not HTTP" if received else "the connection is closed without an answer")
        await connection.change()


class CommandCheck:
    """A `Check` that runs a shell command, which must exit with status 0."""

    def __init__(self, reactor: Any, command: str) -> None:
        self.timeout_reason = f"{command}: not done"
        self._command = ShellCommand(reactor, command)

    def stop(self) -> None:
        """As `Check.stop`."""
        self._command.stop()

    async def run(self) -> None:
        """As `Check.run`. Fails while processes of the previous command, though killed, are still there."""
        try:
            await self._command.run()
        except CommandFailed as failed:
            raise CheckFailed(f"{self._command.command}: {failed}") from None
