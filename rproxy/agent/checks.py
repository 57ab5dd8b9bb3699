"""The ways to look at a service: by a connection, by an HTTP request, by a command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from rproxy.agent.listening import addresses, listeners, waiting
from rproxy.agent.service_check import PATIENCE_S, CheckFailed
from rproxy.net.addresses import written

LOOK_S: Final = 0.005
"""How soon after our connection it is looked whether it has been accepted; each next look comes after twice as long."""
LOOK_MAX_S: Final = 0.1
HEAD_MAX: Final = 1 << 16
"""Bytes of a response in which its status must be."""
REAP_S: Final = 0.02
"""How often it is looked whether a command has ended."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\n]*|\r)?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")

Own = Callable[[], Collection[str]]
"""The addresses of ours at which the service's clients may come."""


class _Visit(Protocol):
    """A connection of ours to the service."""

    transport: ITCPTransport

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self._news: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.callback(None)

    def _forget_news(self, _: object) -> None:
        self._news = None

    def news(self) -> Deferred[None]:
        """Fires when more bytes have come, or the end."""
        self._news = Deferred(self._forget_news)
        return self._news


class _Visits(Factory):
    noisy = False
    protocol = _Visit


async def _visit(reactor: Any, hosts: Sequence[str], port: int) -> _Visit:
    """A connection to the first of `hosts` that takes one. Raises `CheckFailed`."""
    why = ""
    for host in hosts:
        endpoint = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        try:
            visit: Any = await endpoint(reactor, host, port, PATIENCE_S / len(hosts)).connect(_Visits())
            assert isinstance(visit, _Visit)
            return visit
        except ConnectError as error:
            reason = os.strerror(error.osError) if isinstance(error.osError, int) else "no connection"
            why = why or f"{written((host, port))}: {reason}"
    raise CheckFailed(why)


class ConnectCheck:
    """A connection to the service's port, which must not only be made, but accepted.

    The kernel makes connections for a program that hangs, until its queue is full, which may take hundreds. So the
    queue is watched: it must get shorter than it is with our connection. Where it cannot be seen (another system than
    Linux, a socket with TCP_DEFER_ACCEPT, which is not queued for before data have come), a connection is enough.
    """

    def __init__(self, reactor: Any, port: int, own: Own) -> None:
        self.waits_for = ""
        self._reactor = reactor
        self._port = port
        self._own = own
        self._unaccepted = False
        """A connection of ours waits there since an earlier check: no use to add one each time."""

    def run(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._run())

    def stop(self) -> None:
        """Nothing is left of a check that has been cancelled."""

    async def _run(self) -> None:
        found = listeners(self._port)
        before = sum(listener.waiting for listener in found)
        if self._unaccepted and before:
            await self._accepted(before)
            return
        self._unaccepted = False
        self.waits_for = f"no connection to port {self._port}"
        visit = await _visit(self._reactor, addresses(found, self._own()), self._port)
        try:
            await self._accepted(before + 1)
        finally:
            visit.transport.loseConnection()

    async def _accepted(self, queued: int) -> None:
        self.waits_for = f"connections to port {self._port} are made, but not accepted"
        self._unaccepted = True
        wait_s = LOOK_S
        while True:
            await deferLater(self._reactor, wait_s)
            now = waiting(self._port)
            if now < queued:
                break
            queued, wait_s = now, min(2 * wait_s, LOOK_MAX_S)
        self._unaccepted = False


class HttpCheck:
    """A GET of `path`, to be answered with a status from 200 to 399."""

    def __init__(self, reactor: Any, port: int, own: Own, path: str) -> None:
        self.waits_for = f"no answer to GET {path}"
        self._reactor = reactor
        self._port = port
        self._own = own
        self._path = path

    def run(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._run())

    def stop(self) -> None:
        """Nothing is left of a check that has been cancelled."""

    async def _run(self) -> None:
        visit = await _visit(self._reactor, addresses(listeners(self._port), self._own()), self._port)
        try:
            peer: Any = visit.transport.getPeer()
            host = written((peer.host, peer.port))
            request = (
                f"GET {self._path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rproxy-agent\r\nConnection: close\r\n\r\n"
            )
            visit.transport.write(request.encode("ascii"))
            status = await _status(visit)
        finally:
            visit.transport.abortConnection()
        if not 200 <= status < 400:
            raise CheckFailed(f"GET {self._path} is answered with status {status}")


async def _status(visit: _Visit) -> int:
    """The response's status; those that only announce it (1xx) are passed over. Raises `CheckFailed`."""
    while True:
        match = _STATUS.match(visit.received)
        if match is not None and not match[1].startswith(b"1"):
            return int(match[1])
        end = _HEAD_END.search(visit.received) if match is not None else None
        if end is not None:
            del visit.received[: end.end()]
            continue
        if visit.ended or len(visit.received) > HEAD_MAX or (match is None and b"\n" in visit.received):
            raise CheckFailed(
                "the answer is not HTTP" if visit.received else "the connection is closed without an answer"
            )
        await visit.news()


class CommandCheck:
    """A command of the shell that must end with status 0. It, and all that it has started, is killed at its end."""

    def __init__(self, reactor: Any, command: str) -> None:
        self.waits_for = f"{command}: not done"
        self._reactor = reactor
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        if not self._is_reaped():
            raise CheckFailed(f"{self._command}: killed, and still there")
        process = self._process = self._start()
        try:
            while process.poll() is None:
                await deferLater(self._reactor, REAP_S)
        finally:
            self._kill(process)
        if process.returncode:
            raise CheckFailed(f"{self._command}: {_ending(process.returncode)}")

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 - the operator's own command
                ["/bin/sh", "-c", self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # and so a group of its own
            )
        except OSError as error:
            raise CheckFailed(f"{self._command}: {error.strerror}") from None

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        """No zombie stays until the next check."""
        if not self._is_reaped():
            self._reactor.callLater(REAP_S, self._reap)

    def _is_reaped(self) -> bool:
        """Whether nothing is left. What a command leaves behind is ours to bury where we are a container's init."""
        process = self._process
        if process is None:
            return True
        if process.poll() is None:
            return False
        with suppress(ChildProcessError):
            while True:
                ended, _ = os.waitpid(-process.pid, os.WNOHANG)
                if not ended:
                    return False
        self._process = None
        return True

    def stop(self) -> None:
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(REAP_S)


def _ending(code: int) -> str:
    return f"exit status {code}" if code > 0 else f"killed by signal {-code}"
