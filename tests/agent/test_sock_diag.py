"""What the kernel says of listening sockets, real ones."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator

import pytest

from rproxy.agent import sock_diag
from rproxy.agent.sock_diag import Listener, SockDiag

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sock_diag is Linux's")
Listen = Callable[..., int]


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    diag = SockDiag()
    yield diag
    diag.close()


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Opens a listening socket, and returns its port."""
    servers = []

    def listen(host: str, port: int = 0, *, backlog: int = 7, dual: bool = False, shared: bool = False) -> int:
        six = ":" in host
        server = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
        servers.append(server)
        if six:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        if shared:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((host, port))
        server.listen(backlog)
        found: int = server.getsockname()[1]
        return found

    yield listen
    for server in servers:
        server.close()


def seen(found: list[Listener]) -> list[Listener]:
    return [Listener(each.host, each.queued, each.backlog) for each in found]


@pytest.mark.parametrize(
    ("host", "shown", "target"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("::", "::", "127.0.0.1"),
        ("::ffff:127.0.0.2", "127.0.0.2", "127.0.0.2"),
    ],
)
def test_a_listening_socket_is_found_with_its_queue_and_backlog(
    diag: SockDiag, listen: Listen, host: str, shown: str, target: str
) -> None:
    port = listen(host, dual=True)
    (found,) = diag.listening(port)
    assert seen([found]) == [Listener(shown, 0, 7)]
    clients = [socket.create_connection((target, port)) for _ in range(3)]
    assert seen(diag.listening(port)) == [Listener(shown, 3, 7)]
    assert diag.queue(found.query) == (3, 7)
    for client in clients:
        client.close()


def test_sockets_of_both_families_and_of_several_addresses_are_found(diag: SockDiag, listen: Listen) -> None:
    port = listen("127.0.0.1", backlog=1)
    listen("127.0.0.2", port, backlog=2)
    listen("::1", port, backlog=3)
    found = diag.listening(port)
    assert {(each.host, each.backlog) for each in found} == {("127.0.0.1", 1), ("127.0.0.2", 2), ("::1", 3)}
    assert [diag.queue(each.query) for each in found] == [(0, each.backlog) for each in found]
    assert len({each.place for each in found}) == 3


def test_sockets_that_share_an_address_have_one_place(diag: SockDiag, listen: Listen) -> None:
    port = listen("127.0.0.1", shared=True)
    listen("127.0.0.1", port, shared=True, backlog=9)
    found = diag.listening(port)
    assert {each.backlog for each in found} == {7, 9}
    assert len({each.place for each in found}) == 1


def test_many_sockets_are_more_than_one_message(diag: SockDiag, listen: Listen) -> None:
    port = listen("127.0.0.1", shared=True)
    for _ in range(500):
        listen("127.0.0.1", port, shared=True)
    assert seen(diag.listening(port)) == [Listener("127.0.0.1", 0, 7)] * 501


def test_only_listening_sockets_of_that_port_are_found(diag: SockDiag, listen: Listen) -> None:
    port = listen("127.0.0.1")
    with socket.socket() as bound, socket.create_connection(("127.0.0.1", port)) as client:
        bound.bind(("127.0.0.1", 0))
        assert diag.listening(bound.getsockname()[1]) == []
        assert diag.listening(client.getsockname()[1]) == []


def test_a_queue_of_a_socket_that_has_closed_is_an_error_also_if_another_one_has_its_address(diag: SockDiag) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        (found,) = diag.listening(address[1])
    with pytest.raises(FileNotFoundError):
        diag.queue(found.query)
    with socket.create_server(address):
        with pytest.raises(FileNotFoundError):
            diag.queue(found.query)
        (again,) = diag.listening(address[1])
        assert diag.queue(again.query)[0] == 0


class Answers:
    """A netlink socket that gives these answers."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.closed = False

    def send(self, request: bytes) -> None:
        pass

    def recv_into(self, buffer: bytearray) -> int:
        if not self._answers:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        answer = self._answers.pop(0)
        buffer[: len(answer)] = answer
        return len(answer)

    def close(self) -> None:
        self.closed = True


def message(kind: int, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("=IHHII", 16 + len(body) if length is None else length, kind, 0, 0, 0) + body


BODY = bytes(72)


@pytest.mark.parametrize(
    ("answers", "number"),
    [
        ([], errno.EAGAIN),
        ([message(2, struct.pack("=i", -errno.EPERM))], errno.EPERM),
        ([message(20, BODY[:20])], errno.EPROTO),
        ([message(20, BODY, length=0)], errno.EPROTO),
        ([message(20, BODY, length=1000)], errno.EPROTO),
        ([message(77, BODY)], errno.EPROTO),
        ([message(20, BODY)], errno.EAGAIN),
        ([message(20, BODY), message(1, BODY)], errno.EPROTO),
    ],
    ids=["none", "an error", "short", "no length", "too long", "another type", "no end", "another type at the end"],
)
def test_any_other_answer_is_an_error_after_which_a_new_socket_is_opened(
    diag: SockDiag, listen: Listen, monkeypatch: pytest.MonkeyPatch, answers: list[bytes], number: int
) -> None:
    port = listen("127.0.0.1")
    fake = Answers(*answers)
    with monkeypatch.context() as patch:
        patch.setattr(sock_diag, "_open", lambda: fake)
        with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")):
            diag.listening(port)
    assert fake.closed
    assert seen(diag.listening(port)) == [Listener("127.0.0.1", 0, 7)]


def test_a_system_without_netlink_is_an_error(diag: SockDiag, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_NETLINK")
    with pytest.raises(OSError, match="Address family not supported"):
        diag.listening(80)


def test_one_descriptor_is_open_until_it_is_closed(diag: SockDiag) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(3):
        diag.listening(80)
    assert descriptors() == before + 1
    diag.close()
    diag.close()
    assert descriptors() == before
