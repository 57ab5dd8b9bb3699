"""The client's address in the record of its session, on every kind of plain listener, with either carrier."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort
from zope.interface import implementer

from rproxy.carriers.portable.client_side import ClientSide
from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord
from rproxy.sessions.session import Session
from tests.carriers.splicing import Splicing
from tests.fakes import Reactor, Stream, run


class PortEndpoint:
    """Listens with the port that `make` makes for a factory."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self.port: Any = None

    def listen(self, factory: Any) -> Deferred[IListeningPort]:
        self.port = self._make(factory)
        self.port.startListening()
        return succeed(self.port)


UNIX = socket.AF_UNIX
V4 = socket.AF_INET
V6 = socket.AF_INET6


@pytest.mark.parametrize("carrier", ["splice", "portable"])
@pytest.mark.parametrize(
    ("interface", "family", "host", "bound", "expected"),
    [
        ("127.0.0.1", V4, "127.0.0.1", ("127.0.0.9", 0), "127.0.0.9:{port}"),
        ("::1", V6, "::1", ("::1", 0), "[::1]:{port}"),
        ("::", V4, "127.0.0.1", ("127.0.0.9", 0), "127.0.0.9:{port}"),
        ("unix", UNIX, "", None, "UNIX"),
        ("unix", UNIX, "", "client", "{folder}/client"),
        ("unix", UNIX, "", b"\0rproxy-test-client", "@rproxy-test-client"),
    ],
    ids=["IPv4", "IPv6", "IPv4 on IPv6", "unnamed", "path", "abstract"],
)
def test_a_record_has_the_clients_address_also_after_the_connection_has_ended(
    stack: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    carrier: str,
    interface: str,
    family: int,
    host: str,
    bound: Any,
    expected: str,
) -> None:
    bench = Splicing(stack)
    records: list[SessionRecord] = []
    monkeypatch.setattr(bench, "session_ended", records.append)
    path = str(tmp_path / "listener")

    def make(factory: Any) -> Any:
        if family is UNIX:
            return unix.Port(path.encode(), factory, 50, 0o666, bench.reactor)
        return tcp.Port(0, factory, 50, interface, bench.reactor)

    endpoint = PortEndpoint(make)
    serving: Any = bench.carrier if carrier == "splice" else bench.portable
    serving.serve(endpoint, bench.service)
    stack.callback(run, bench.reactor, 1)
    stack.callback(endpoint.port.stopListening)
    client = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    if bound is not None:
        client.bind(str(tmp_path / bound) if isinstance(bound, str) else bound)
    client.connect(path if family is UNIX else (host, endpoint.port.socket.getsockname()[1]))
    if carrier == "portable":
        endpoint.port.doRead()
    bench.until(lambda: records)
    bench.portable.abort()
    run(bench.reactor, 1)
    assert bench.capacity.sessions == 0
    port = "" if family is UNIX else client.getsockname()[1]
    assert records[0].client == expected.format(port=port, folder=tmp_path)


@implementer(IAddress)
class OtherAddress:
    def __str__(self) -> str:
        return "a serial line"


def test_an_address_of_another_kind_is_shown_as_it_is(stack: ExitStack) -> None:
    """A plugin of Twisted may add listeners of any kind."""
    side, stream = accepted(stack)
    stream.peerAddr = OtherAddress()
    assert side.client_address() == "a serial line"


def test_the_address_of_an_ended_session_is_formatted_once(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several observers of a session may read it."""
    side, stream = accepted(stack)
    side.session.ended(Ending.CLIENT_GONE)
    address = side.client_address()
    monkeypatch.setattr(stream, "getPeer", None)
    assert side.client_address() == address


def test_a_header_changes_the_address_of_a_client_that_was_asked_for_it_before(stack: ExitStack) -> None:
    """A trace reads it when a back-end is chosen, and the header of a PROXY listener comes later."""
    side, stream = accepted(stack)
    before = side.client_address()
    stream.peerAddr = IPv4Address("TCP", "192.0.2.1", 1234)
    assert before != "192.0.2.1:1234"
    assert side.client_address() == "192.0.2.1:1234"


def accepted(stack: ExitStack) -> tuple[ClientSide, Stream]:
    """A client's side in memory."""
    bench = Splicing(stack)
    side = ClientSide(bench.portable)
    side.session = Session(bench.service, side)
    stream = Stream(Reactor(), side)
    side.transport = stream  # type: ignore[assignment]
    return side, stream


class Nobody:
    """A `Gate` that admits no client."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refused: dict[str, int] = {}

    def admit(self, host: str) -> bool:
        self.asked.append(host)
        return False

    def count(self, host: str) -> None:
        raise AssertionError("no client is older than the gate")

    def leave(self, host: str) -> None:
        raise AssertionError("a client that was not admitted is not counted")


@pytest.mark.parametrize("carrier", ["splice", "portable"])
def test_a_client_that_the_service_does_not_take_is_reset_without_a_backend(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    bench = Splicing(stack)
    records: list[SessionRecord] = []
    monkeypatch.setattr(bench, "session_ended", records.append)
    gate = bench.service.gate = Nobody()
    endpoint = PortEndpoint(lambda factory: tcp.Port(0, factory, 50, "127.0.0.1", bench.reactor))
    serving: Any = bench.carrier if carrier == "splice" else bench.portable
    serving.serve(endpoint, bench.service)
    stack.callback(run, bench.reactor, 1)
    stack.callback(endpoint.port.stopListening)
    client = stack.enter_context(socket.socket())
    client.bind(("127.0.0.9", 0))
    client.connect(("127.0.0.1", endpoint.port.socket.getsockname()[1]))
    client.send(b"a request")
    if carrier == "portable":
        endpoint.port.doRead()
    bench.until(lambda: records)
    run(bench.reactor, 1)
    client.settimeout(10)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert [record.ending for record in records] == [Ending.DENIED]
    assert records[0].backend is None
    assert records[0].tries == 0
    assert gate.asked == ["127.0.0.9"]
    assert bench.capacity.sessions == 0
