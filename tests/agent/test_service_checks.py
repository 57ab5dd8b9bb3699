"""Checks of real services, on loopback sockets, and of real commands."""

from __future__ import annotations

import ctypes
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from rproxy.agent.check_loop import Check, CheckFailed
from rproxy.agent.service_checks import CommandCheck, ConnectCheck, HttpCheck
from rproxy.agent.sock_diag import SockDiag
from tests.agent.conftest import Closing
from tests.agent.processes import all_reaped, children
from tests.integration.addresses import LOOPBACK, RefusingPort
from tests.integration.polling import in_background
from tests.integration.servers import DeafListener, Listener, Server

T = TypeVar("T")
on_the_reactor: Callable[[T], T] = pytest_twisted.ensureDeferred
PR_SET_CHILD_SUBREAPER = 36
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="sees the queue on Linux only")


def own() -> list[str]:
    return [LOOPBACK]


async def outcome(check: Check, patience_s: float = 10.0) -> str:
    """Why the check fails; empty if it passes."""
    from twisted.internet import reactor

    clock: Any = reactor
    running = Deferred.fromCoroutine(check.run())
    timer = clock.callLater(patience_s, running.cancel)
    try:
        await running
    except CheckFailed as failed:
        return str(failed)
    except Exception:
        assert not timer.active()
        return f"{check.timeout_reason} (time is up)"
    finally:
        if timer.active():
            timer.cancel()
        await deferLater(clock, 0.05)  # for connections to be closed and processes to be reaped
    return ""


def connect_check(port: int) -> ConnectCheck:
    from twisted.internet import reactor

    return ConnectCheck(reactor, port, own)


@pytest.mark.parametrize("host", [LOOPBACK, "::1", "0.0.0.0", "127.0.0.9"])
@on_the_reactor
async def test_a_service_that_accepts_is_well_wherever_it_listens(closing: Closing, host: str) -> None:
    server = closing(Server(lambda connection: None, host))
    check = connect_check(server.address[1])
    assert [await outcome(check) for _ in range(3)] == ["", "", ""]


@on_the_reactor
async def test_one_that_closes_or_says_something_at_once_is_well(closing: Closing) -> None:
    server = closing(Server(lambda connection: connection.sendall(b"220 hello\r\n")))
    assert await outcome(connect_check(server.address[1])) == ""


@on_the_reactor
async def test_one_that_refuses_is_not(closing: Closing) -> None:
    port = closing(RefusingPort()).address[1]
    assert await outcome(connect_check(port)) == f"127.0.0.1:{port}: Connection refused"


@on_the_reactor
async def test_one_that_drops_what_we_send_is_not(closing: Closing) -> None:
    port = closing(DeafListener()).address[1]
    assert "no connection" in await outcome(connect_check(port))


@LINUX
@on_the_reactor
async def test_one_that_does_not_accept_is_not_and_gets_no_connection_more_until_it_does(closing: Closing) -> None:
    service = closing(Listener())
    port = service.address[1]
    check, diag = connect_check(port), SockDiag()
    for _ in range(3):
        assert await outcome(check, 0.5) == f"connections to port {port} are made, but not accepted (time is up)"
    assert [each.queued for each in diag.listening(port)] == [1]
    diag.close()
    service.accept()
    in_background(accept_all, service)
    assert await outcome(check) == ""


def accept_all(service: Listener) -> None:
    with suppress(OSError):
        while True:
            service.accept()


@LINUX
@on_the_reactor
async def test_one_whose_queue_gets_shorter_while_we_wait_is_well(closing: Closing) -> None:
    """However long the queue is."""
    from twisted.internet import reactor

    service = closing(Listener())
    crowd = [socket.create_connection(service.address) for _ in range(20)]
    clock: Any = reactor
    clock.callLater(0.1, service.accept)
    assert await outcome(connect_check(service.address[1])) == ""
    for each in crowd:
        each.close()


def answering(answer: bytes, wait_s: float = 0.0) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        assert request.startswith(b"GET /health?a=1 HTTP/1.1\r\nHost: 127.0.0.1:")
        size = max(len(answer) // 10, 1)
        for at in range(0, len(answer), size):  # in pieces
            connection.sendall(answer[at : at + size])
            time.sleep(wait_s)

    return serve


async def http_outcome(closing: Closing, serve: Callable[[socket.socket], None], patience_s: float = 10.0) -> str:
    from twisted.internet import reactor

    return await outcome(HttpCheck(reactor, closing(Server(serve)).address[1], own, "/health?a=1"), patience_s)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
        b"HTTP/1.1 399\r\n\r\n",
        b"HTTP/1.1 200\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
@on_the_reactor
async def test_a_good_status_is_well(closing: Closing, answer: bytes) -> None:
    assert await http_outcome(closing, answering(answer)) == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "GET /health?a=1 is answered with status 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "GET /health?a=1 is answered with status 404"),
        (b"HTTP/1.1 200", "the answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer is not HTTP"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "the connection is closed without an answer"),
        (b"", "the connection is closed without an answer"),
        (b"x" * 70_000, "the answer is not HTTP"),
    ],
)
@on_the_reactor
async def test_any_other_is_not(closing: Closing, answer: bytes, why: str) -> None:
    assert await http_outcome(closing, answering(answer)) == why


@on_the_reactor
async def test_an_answer_that_dribbles_is_not_waited_for(closing: Closing) -> None:
    serve = answering(b"HTTP/1.1 200 OK\r\n\r\n", 0.4)
    assert await http_outcome(closing, serve, 0.5) == "no answer to GET /health?a=1 (time is up)"


@on_the_reactor
async def test_one_that_accepts_and_says_nothing_is_not_well(closing: Closing) -> None:
    assert await http_outcome(closing, lambda _: time.sleep(1.5), 0.5) == "no answer to GET /health?a=1 (time is up)"


def command_check(command: str) -> CommandCheck:
    from twisted.internet import reactor

    return CommandCheck(reactor, command)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("true", ""),
        ("exit 0", ""),
        ("cat", ""),  # it has nothing to read
        ("echo much && echo more >&2", ""),
        ("false", "false: exit status 1"),
        ("exit 7", "exit 7: exit status 7"),
        ("no-such-command", "no-such-command: exit status 127"),
        ("kill -9 $$", "kill -9 $$: killed by signal 9"),
        ("sleep 100", "sleep 100: not done (time is up)"),
        ("trap '' TERM INT HUP; sleep 100", "trap '' TERM INT HUP; sleep 100: not done (time is up)"),
    ],
)
@on_the_reactor
async def test_a_command_must_end_well_and_in_time(command: str, why: str) -> None:
    assert await outcome(command_check(command), 0.3 if "time is up" in why else 10) == why
    await all_reaped()


@on_the_reactor
async def test_all_that_a_command_has_started_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    for command in (f"sleep 100 & echo $! >> {pids}; exit 0", f"(sleep 100 & echo $! >> {pids}; wait) & wait"):
        await outcome(command_check(command), 1)
    started = [int(line) for line in pids.read_text().split()]
    assert len(started) == 2
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in started):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    await all_reaped()


@LINUX
@on_the_reactor
async def test_an_agent_that_is_its_containers_init_keeps_no_zombie() -> None:
    """It inherits the orphans of a command."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        assert await outcome(command_check("(sleep 100 & sleep 100 &) ; exit 0")) == ""
        assert await outcome(command_check("sleep 100 & sleep 100"), 0.2) != ""
        await all_reaped()
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def test_a_stop_ends_a_command() -> None:
    check = command_check("sleep 100")
    running = Deferred.fromCoroutine(check.run())
    assert len(children()) == 1
    running.addErrback(lambda _: None)
    running.cancel()
    check.stop()
    assert children() == []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@on_the_reactor
async def test_a_command_that_cannot_be_started_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", no_more)
    assert await outcome(command_check("true")) == "true: Resource temporarily unavailable"
    assert signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN
