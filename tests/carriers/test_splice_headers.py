"""PROXY headers in the splice carrier: those that clients' connections begin with, and those that back-ends get."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from twisted.internet import unix

from rproxy.carriers.splice.pipes import Pipe
from rproxy.carriers.splice.reactor import TICK_S
from rproxy.carriers.splice.states import HEADER
from rproxy.pool.states import Administration
from rproxy.sessions.endings import Ending
from rproxy.sessions.outbound import Outbound
from rproxy.sessions.proxy_headers import HEADER_S, ProxyHeaders
from rproxy.sessions.service import DEFAULT_TERMS, ServiceTerms
from rproxy.wire.proxy_header import LOCAL, SIZE_MAX, UNIQUE_ID, encode, parse
from tests.carriers.loopback import ends, fill, listening, received, reset, stream, wait_for
from tests.carriers.splicing import Splicing
from tests.carriers.test_client_addresses import PortEndpoint
from tests.fakes import logged, run, texts

SOURCE: Final = ("192.0.2.1", 1234)
DESTINATION: Final = ("192.0.2.2", 5678)
LINE: Final = encode(1, SOURCE, DESTINATION)
BINARY: Final = encode(2, SOURCE, DESTINATION, [(UNIQUE_ID, b"a unique id")])
_DATA_SEGMENTS_IN: Final = 152
"""Of tcpi_data_segs_in in TCP_INFO, linux/tcp.h."""
LARGE: Final = 1 << 20


def expecting(stack: ExitStack, *servers: socket.socket, terms: ServiceTerms = DEFAULT_TERMS) -> Splicing:
    """A carrier whose clients on loopback begin with a header."""
    bench = Splicing(stack, *(servers or [listening()]), terms=terms)
    bench.service.proxy_headers = ProxyHeaders([ip_network("127.0.0.0/8")], bench.reactor.seconds)
    return bench


def sending(stack: ExitStack, version: int, *servers: socket.socket, terms: ServiceTerms = DEFAULT_TERMS) -> Splicing:
    bench = Splicing(stack, *(servers or [listening()]), terms=terms)
    bench.service.outbound = Outbound(send_proxy=version)
    return bench


def packets_to(sock: socket.socket) -> int:
    """Packets with data that a connection has received."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _DATA_SEGMENTS_IN + 4)
    return int.from_bytes(info[_DATA_SEGMENTS_IN:], "little")


@pytest.mark.parametrize("header", [LINE, BINARY])
def test_a_header_may_come_in_single_bytes_and_the_data_behind_it(stack: ExitStack, header: bytes) -> None:
    bench = expecting(stack)
    client = bench.dial()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in header:
        client.send(bytes([byte]))
        bench.quieten() if byte == header[-1] else bench.turn(0.01)
    backend = bench.accept(bench.servers[0])
    assert bench.sessions[0].link.client() == SOURCE
    client.send(b"question")
    assert bench.receive(backend, 8) == b"question"
    backend.send(b"answer")
    assert bench.receive(client, 6) == b"answer"
    for end in (client, backend):
        end.close()
    bench.assert_over(Ending.CLOSED)
    assert (bench.clients, bench.counters.up) == (["192.0.2.1:1234"], 8)


@pytest.mark.parametrize("header", [LINE, BINARY])
@pytest.mark.parametrize("ended", [False, True])
def test_a_header_with_data_behind_it_in_one_packet(stack: ExitStack, header: bytes, ended: bool) -> None:
    bench = expecting(stack)
    client = bench.dial()
    client.send(header + b"question")
    if ended:
        client.shutdown(socket.SHUT_WR)
    backend = bench.accept(bench.servers[0])
    assert bench.receive(backend, 9 if ended else 8) == b"question"
    backend.send(b"answer")
    backend.close()
    assert bench.receive(client, 7) == b"answer"
    client.close()
    bench.assert_over(Ending.CLOSED)


@pytest.mark.parametrize("header", [LINE, BINARY])
def test_a_header_and_the_end_of_the_stream(stack: ExitStack, header: bytes) -> None:
    bench = expecting(stack)
    client = bench.dial()
    client.send(header)
    client.shutdown(socket.SHUT_WR)
    backend = bench.accept(bench.servers[0])
    assert bench.receive(backend, 1) == b""
    backend.send(b"greeting")
    assert bench.receive(client, 8) == b"greeting"


def test_behind_a_header_a_server_may_speak_first(stack: ExitStack) -> None:
    bench = expecting(stack)
    client = bench.dial()
    assert bench.turn(1.0)
    bench.turn()
    assert bench.connections == [(0, 0)]
    client.send(LINE)
    bench.accept(bench.servers[0]).send(b"greeting")
    assert bench.receive(client, 8) == b"greeting"


def test_what_follows_a_header_is_spliced(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = expecting(stack)
    moved = 0
    unobserved = Pipe.fill

    def fill_pipe(pipe: Pipe, source: int) -> int:
        nonlocal moved
        size = unobserved(pipe, source)
        moved += size
        return size

    monkeypatch.setattr(Pipe, "fill", fill_pipe)
    client = bench.dial()
    data = stream(LARGE)
    client.send(BINARY)
    backend = bench.accept(bench.servers[0])
    for start in range(0, LARGE, LARGE // 4):
        piece = data[start : start + LARGE // 4]
        bench.send(client, piece)
        assert bench.receive(backend, len(piece)) == piece
    assert moved > LARGE // 2


def test_the_longest_header_may_have_data_behind_it(stack: ExitStack) -> None:
    bench = expecting(stack)
    client = bench.dial()
    start = encode(2, SOURCE, DESTINATION)
    padding = SIZE_MAX - len(start) - 3
    header = start[:14] + (SIZE_MAX - 16).to_bytes(2) + start[16:] + b"\4" + padding.to_bytes(2) + bytes(padding)
    client.send(header + b"question")
    assert bench.receive(bench.accept(bench.servers[0]), 8) == b"question"


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN TCP4 1.2.3.4 5.6.7.8 9 10\r\n"])
def test_without_addresses_the_connections_own_are_kept(stack: ExitStack, header: bytes) -> None:
    bench = expecting(stack)
    client = bench.dial()
    client.send(header + b"question")
    assert bench.receive(bench.accept(bench.servers[0]), 8) == b"question"
    assert bench.sessions[0].link.client() == client.getsockname()


@pytest.mark.parametrize(
    ("sent", "flaw"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "does not begin as one"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 70000\r\n", "port 70000 is above 65535"),
        (BINARY[:12] + b"\x22" + BINARY[13:], "version and command 0x22 of version 2"),
    ],
)
def test_a_bad_header_is_refused_with_a_reset_and_logged_seldom(stack: ExitStack, sent: bytes, flaw: str) -> None:
    bench = expecting(stack)
    with logged() as events:
        for _ in range(3):
            client = bench.dial()
            client.send(sent + b"question")
            assert bench.is_reset(client)
        run(bench.reactor, 10)
        client = bench.dial()
        client.send(sent)
        assert bench.is_reset(client)
    first, last = (line for line in texts(events) if "refused" in line)
    assert first.endswith(f" sent a bad PROXY header: {flaw}: refused")
    assert last.endswith(f" sent a bad PROXY header: {flaw}: refused, and so were 2 more since the last such line")
    bench.assert_over(*[Ending.BAD_HEADER] * 4)
    assert not select.select([bench.servers[0]], [], [], 0)[0]


def test_an_end_within_a_header_is_a_bad_one_and_without_a_byte_the_client_is_gone(stack: ExitStack) -> None:
    bench = expecting(stack)
    for begun in (b"", b"PROXY TCP4 ", BINARY[:-1]):
        client = bench.dial()
        client.send(begun)
        client.shutdown(socket.SHUT_WR)
        assert bench.is_reset(client) is bool(begun)
    bench.assert_over(Ending.CLIENT_GONE, Ending.BAD_HEADER, Ending.BAD_HEADER)


@pytest.mark.parametrize("begun", [b"", b"PROXY TCP4 1.", LINE + b"question"])
def test_a_reset_before_a_header_was_read_leaves_nothing(stack: ExitStack, begun: bytes) -> None:
    bench = expecting(stack)
    client = bench.dial()
    bench.quieten()
    client.send(begun)
    reset(client)
    bench.assert_over(Ending.CLIENT_GONE)
    bench.pass_s(2 * TICK_S)
    assert not bench.carrier._dispatcher._headers.awaited


@pytest.mark.parametrize("begun", [b"", LINE[:-1]])
def test_a_header_has_to_be_complete_in_time(stack: ExitStack, begun: bytes) -> None:
    bench = expecting(stack)
    client = bench.dial()
    bench.quieten()
    bench.pass_s(HEADER_S - 2 * TICK_S)
    client.send(begun)
    bench.quieten()
    leg: Any = bench.sessions[0].link
    assert leg.state & HEADER
    bench.pass_s(3 * TICK_S)
    assert bench.is_reset(client)
    bench.assert_over(Ending.HEADER_TIMEOUT)
    assert bench.reactor.getDelayedCalls() == []


def test_the_time_for_connecting_begins_behind_the_header(stack: ExitStack) -> None:
    bench = expecting(stack)
    client = bench.dial()
    bench.quieten()
    bench.pass_s(HEADER_S - 1)
    client.send(LINE)
    bench.accept(bench.servers[0])
    assert bench.sessions[0].started_at == bench.service.seconds()


def test_a_client_from_elsewhere_is_refused_before_it_is_read(stack: ExitStack) -> None:
    bench = expecting(stack)
    bench.service.proxy_headers = ProxyHeaders([ip_network("10.0.0.0/8")], bench.reactor.seconds)
    with logged() as events:
        for _ in range(2):
            client = bench.dial()
            client.send(LINE + b"question")
            assert bench.is_reset(client)
    (line,) = (line for line in texts(events) if "refused" in line)
    assert line.startswith("127.0.0.1:")
    assert line.endswith(" is not of proxy-protocol-from: refused")
    bench.assert_over(Ending.UNTRUSTED, Ending.UNTRUSTED)


def test_clients_whose_headers_are_awaited_are_ended_with_all_others(stack: ExitStack) -> None:
    bench = expecting(stack)
    client = bench.dial()
    bench.quieten()
    bench.carrier.abort()
    with pytest.raises(ConnectionError):
        client.recv(1)
    bench.assert_over(Ending.STOPPED)


@attrs.define
class Gate:
    """Admits the clients of one address; notes all that ask, and those that leave."""

    host: str
    asked: list[str] = attrs.Factory(list)
    refused: dict[str, int] = attrs.Factory(dict)

    def admit(self, host: str) -> bool:
        self.asked.append(host)
        return host == self.host

    def count(self, host: str) -> None:
        raise AssertionError("no client is older than the gate")

    def leave(self, host: str) -> None:
        self.asked.append(f"{host} leaves")


def test_a_gate_admits_by_the_address_in_the_header(stack: ExitStack) -> None:
    bench = expecting(stack)
    gate = bench.service.gate = Gate("192.0.2.1")
    client = bench.dial()
    client.send(encode(2, ("192.0.2.9", 1), DESTINATION))
    assert bench.is_reset(client)
    client = bench.dial()
    client.send(LINE)
    bench.accept(bench.servers[0]).close()
    assert bench.receive(client, 1) == b""
    client.close()
    bench.assert_over(Ending.DENIED, Ending.CLOSED)
    assert gate.asked == ["192.0.2.9", "192.0.2.1", "192.0.2.1 leaves"]


def header_for(client: socket.socket, version: int) -> bytes:
    return encode(version, client.getsockname(), client.getpeername())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ended", [False, True])
def test_a_back_end_gets_the_header_and_the_clients_first_data_in_one_packet(
    stack: ExitStack, version: int, ended: bool
) -> None:
    bench = sending(stack, version)
    client = bench.dial()
    client.send(b"question")
    if ended:
        client.shutdown(socket.SHUT_WR)
    backend = bench.accept(bench.servers[0])
    expected = header_for(client, version) + b"question"
    assert bench.receive(backend, len(expected) + ended) == expected
    assert packets_to(backend) == 1
    backend.send(b"answer")
    backend.close()
    assert bench.receive(client, 7) == b"answer"
    client.close()
    bench.assert_over(Ending.CLOSED)
    assert (bench.counters.up, bench.counters.down) == (8, 6)


def test_the_first_data_may_come_while_the_back_end_is_connecting(stack: ExitStack) -> None:
    """The event that the back-end is connected is handled before that of the data."""
    bench = sending(stack, 2)
    bench.carrier._rounds = 1
    client = bench.dial()
    bench.until(lambda: bench.sessions and bench.sessions[0].backend)
    wait_for(bench.servers[0])
    assert bench.has_events(1.0)
    assert not bench.sessions[0].is_connected
    client.send(b"question")
    backend = bench.accept(bench.servers[0])
    expected = header_for(client, 2) + b"question"
    assert bench.receive(backend, len(expected)) == expected
    assert packets_to(backend) == 1
    client.send(b"more")
    assert bench.receive(backend, 4) == b"more"


@pytest.mark.parametrize("version", [1, 2])
def test_a_back_end_gets_the_header_at_once_if_the_client_has_sent_nothing(stack: ExitStack, version: int) -> None:
    bench = sending(stack, version)
    client = bench.dial()
    backend = bench.accept(bench.servers[0])
    expected = header_for(client, version)
    assert bench.receive(backend, len(expected)) == expected
    leg: Any = bench.sessions[0].link
    for number in range(3):
        client.send(b"question")
        assert bench.receive(backend, 8) == b"question"
        assert packets_to(backend) == 2 + number
    assert leg.peer.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "or Nagle's algorithm would hold them back"
    assert bench.counters.up == 0
    assert leg.carried() == (24, 0)


def test_a_client_that_ends_without_data_ends_behind_the_header(stack: ExitStack) -> None:
    bench = sending(stack, 2)
    client = bench.dial()
    client.shutdown(socket.SHUT_WR)
    backend = bench.accept(bench.servers[0])
    assert bench.receive(backend, 100) == header_for(client, 2)
    assert packets_to(backend) == 1


def test_much_data_follows_the_header_in_order(stack: ExitStack) -> None:
    bench = sending(stack, 2)
    client = bench.dial()
    data = stream(LARGE)
    sent = fill(client, data)
    backend = bench.accept(bench.servers[0])
    expected = header_for(client, 2) + (data * (sent // LARGE + 1))[:sent]
    assert bench.receive(backend, len(expected)) == expected


def test_a_client_that_resets_meanwhile_has_what_it_sent_delivered_behind_the_header(stack: ExitStack) -> None:
    bench = sending(stack, 2)
    client = bench.dial()
    expected = header_for(client, 2) + b"question"
    bench.turn(1.0)
    client.send(b"question")
    reset(client)
    backend = bench.accept(bench.servers[0])
    assert bench.receive(backend, len(expected)) == expected
    assert bench.is_reset(backend)
    bench.pass_s(2 * TICK_S)
    bench.assert_over(Ending.CLIENT_RESET)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("data", [b"", b"question"])
def test_another_back_end_gets_the_header_anew(stack: ExitStack, version: int, data: bytes) -> None:
    bench = sending(stack, version, listening(), listening())
    client = bench.dial()
    client.send(data)
    expected = header_for(client, version) + data
    first = bench.accept(bench.servers[0])
    assert bench.receive(first, len(expected)) == expected
    first.close()
    second = bench.accept(bench.servers[1])
    assert bench.receive(second, len(expected)) == expected
    assert packets_to(second) == 1
    client.send(b"more")
    assert bench.receive(second, 4) == b"more"


def test_a_client_that_has_waited_gets_a_header_sent_with_its_data(stack: ExitStack) -> None:
    bench = sending(stack, 2, terms=ServiceTerms(wait_s=5.0))
    (backend,) = bench.pool
    bench.publish(bench.pool.administer(backend, Administration.DRAIN, bench.service.seconds()))
    client = bench.dial()
    client.send(b"question")
    bench.quieten()
    bench.publish(bench.pool.administer(backend, Administration.READY, bench.service.seconds()))
    bench.pass_s(0)
    server = bench.accept(bench.servers[0])
    expected = header_for(client, 2) + b"question"
    assert bench.receive(server, len(expected)) == expected
    assert packets_to(server) == 1


@pytest.mark.parametrize("header", [LINE, BINARY])
def test_what_came_in_is_sent_on(stack: ExitStack, header: bytes) -> None:
    bench = expecting(stack)
    bench.service.outbound = Outbound(send_proxy=2)
    client = bench.dial()
    client.send(header + b"question")
    backend = bench.accept(bench.servers[0])
    came = parse(header)
    assert came is not None
    expected = encode(2, SOURCE, DESTINATION, came.tlvs) + b"question"
    assert bench.receive(backend, len(expected)) == expected
    assert packets_to(backend) == 1


@pytest.mark.parametrize("sent", [b"", b"question"])
def test_a_client_that_ends_its_stream_with_its_header_waits_only_if_it_has_sent_data(
    stack: ExitStack, sent: bytes
) -> None:
    """As the checks of load balancers do, which are gone by then."""
    bench = expecting(stack, terms=ServiceTerms(wait_s=5.0))
    (backend,) = bench.pool
    bench.publish(bench.pool.administer(backend, Administration.DRAIN, bench.service.seconds()))
    client = bench.dial()
    client.send(LINE + sent)
    client.shutdown(socket.SHUT_WR)
    bench.quieten()
    if sent:
        assert len(bench.service.wait_queue.queue) == 1
    else:
        bench.assert_over(Ending.CLIENT_GONE)


def test_a_unique_id_without_addresses_is_sent_on_with_the_connections_own(stack: ExitStack) -> None:
    bench = expecting(stack)
    bench.service.outbound = Outbound(send_proxy=2)
    client = bench.dial()
    client.send(LOCAL[:12] + b"\x21\0\0\5\5\0\2id")
    backend = bench.accept(bench.servers[0])
    expected = encode(2, client.getsockname(), client.getpeername(), [(UNIQUE_ID, b"id")])
    assert bench.receive(backend, len(expected)) == expected


@pytest.mark.parametrize("version", [1, 2])
def test_single_back_ends_may_get_headers_of_their_own(stack: ExitStack, version: int) -> None:
    bench = sending(stack, 3 - version)
    address, port = bench.servers[0].getsockname()
    bench.service.special = {(address, port): Outbound(send_proxy=version)}
    client = bench.dial()
    expected = header_for(client, version)
    assert bench.receive(bench.accept(bench.servers[0]), len(expected)) == expected


def on_a_unix_socket(stack: ExitStack, bench: Splicing, path: Path) -> Callable[[], socket.socket]:
    """Listens there; returns what makes a client."""
    endpoint = PortEndpoint(lambda factory: unix.Port(str(path).encode(), factory, 50, 0o666, bench.reactor))
    serving: Any = bench.carrier
    serving.serve(endpoint, bench.service)
    stack.callback(run, bench.reactor, 1)
    stack.callback(endpoint.port.stopListening)

    def dial() -> socket.socket:
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(path))
        client.setblocking(False)
        return client

    return dial


@pytest.mark.parametrize(("version", "header"), [(1, b"PROXY UNKNOWN\r\n"), (2, LOCAL)])
def test_of_a_client_of_a_unix_socket_a_back_end_is_told_no_address(
    stack: ExitStack, tmp_path: Path, version: int, header: bytes
) -> None:
    bench = sending(stack, version)
    client = on_a_unix_socket(stack, bench, tmp_path / "socket")()
    client.send(b"question")
    expected = header + b"question"
    assert bench.receive(bench.accept(bench.servers[0]), len(expected)) == expected


def test_on_a_unix_socket_headers_are_read_from_whoever_may_open_it(stack: ExitStack, tmp_path: Path) -> None:
    bench = expecting(stack)
    bench.service.proxy_headers = ProxyHeaders([ip_network("10.0.0.0/8")], bench.reactor.seconds)
    bench.service.outbound = Outbound(send_proxy=1)
    dial = on_a_unix_socket(stack, bench, tmp_path / "socket")
    dial().send(BINARY)
    assert bench.receive(bench.accept(bench.servers[0]), len(LINE)) == LINE
    dial().send(b"PROXY UNKNOWN\r\n")
    assert bench.receive(bench.accept(bench.servers[0]), 15) == b"PROXY UNKNOWN\r\n"
    bench.service.outbound = Outbound(send_proxy=2)
    unspecified = LOCAL[:12] + b"\x21\0\0\5\5\0\2id"
    dial().send(unspecified)
    assert bench.receive(bench.accept(bench.servers[0]), len(unspecified)) == unspecified


def test_a_back_end_that_ends_with_its_first_read_gets_no_more_than_the_header(stack: ExitStack) -> None:
    """As one does that expects no header, and no other one is left."""
    bench = sending(stack, 2)
    client = bench.dial()
    client.send(b"question")
    backend = bench.accept(bench.servers[0])
    wait_for(backend)
    assert received(backend, 12) == LOCAL[:12]
    reset(backend)
    assert bench.is_reset(client)
    bench.assert_over(Ending.BACKEND_RESET)


def test_an_ended_client_is_told_of_no_header(stack: ExitStack) -> None:
    bench = expecting(stack)
    client = bench.dial()
    client.send(LINE)
    backend = bench.accept(bench.servers[0])
    client.shutdown(socket.SHUT_WR)
    bench.quieten()
    assert ends(backend)


def test_a_client_whose_header_is_awaited_is_listed_and_can_be_cut(stack: ExitStack) -> None:
    bench = expecting(stack)
    client = bench.dial()
    bench.until(lambda: bench.sessions)
    assert [session for each in bench.carrier.slices() for session in each] == bench.sessions
    bench.sessions[0].link.cut(Ending.KILLED)
    assert bench.is_reset(client)
    bench.assert_over(Ending.KILLED)
    bench.pass_s(HEADER_S + 1)
    assert list(bench.counters.endings) == [Ending.KILLED]
