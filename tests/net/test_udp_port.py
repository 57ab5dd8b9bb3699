"""UDP ports that read a bounded number of datagrams, over real sockets on loopback."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import DatagramProtocol

from rproxy.net.addresses import plain
from rproxy.net.binding import Binding
from rproxy.net.udp_port import (
    BUFFER,
    DATAGRAM_MAX,
    READ_MAX,
    WAKE_UPS_MAX,
    WAKE_UPS_S,
    BoundedPort,
    listen_udp,
    udp_ports,
)
from tests.fakes import Reactor, logged, run

LOOPBACK = "127.0.0.1"
WAIT_S = 10.0
MORE = 10
SO_RCVBUFFORCE = 33


class Taker(DatagramProtocol):
    """Takes datagrams in; `broken` ones raise."""

    noisy = False

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.sources: list[Any] = []
        self.asked_at: list[str] = []
        self.broken: set[bytes] = set()
        self.first: Deferred[bytes] = Deferred()

    def datagramReceived(self, datagram: bytes, addr: object, local: str = "") -> None:
        self.taken.append(datagram)
        self.sources.append(addr)
        self.asked_at.append(local)
        if datagram in self.broken:
            raise ValueError("a bug")
        if len(self.taken) == 1:
            self.first.callback(datagram)


class Bench:
    """A port that the test tells to read, and a socket that sends to it."""

    def __init__(self, host: str = LOOPBACK) -> None:
        self.reactor = Reactor()
        self.protocol = Taker()
        self.port = BoundedPort(0, self.protocol, Binding(host), self.reactor)
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.sender.sendto(datagram, (LOOPBACK, self.port.getHost().port))

    def reads(self, wake_ups: int = 1) -> list[int]:
        """How many datagrams each wake-up takes in."""
        counts = []
        for _ in range(wake_ups):
            before = len(self.protocol.taken)
            self.port.doRead()
            counts.append(len(self.protocol.taken) - before)
        return counts

    def close(self) -> None:
        self.sender.close()
        self.port.stopListening()
        run(self.reactor, 0)


@pytest.fixture(params=[LOOPBACK, "0.0.0.0", "::"], ids=["one address", "IPv4's", "all"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """It has just been woken up: only the first wake-up after a pause reads a single datagram."""
    bench = Bench(request.param)
    bench.port.startListening()
    bench.reads()
    yield bench
    bench.close()


@pytest.mark.parametrize("size", [0, 1, 24, 44, DATAGRAM_MAX])
def test_a_wake_up_takes_in_a_bounded_number_of_datagrams_and_the_next_one_the_rest(bench: Bench, size: int) -> None:
    bench.send(*[bytes(size)] * (READ_MAX + MORE))
    assert bench.reads(3) == [READ_MAX, MORE, 0]


def test_the_first_wake_up_after_a_pause_takes_in_one_datagram_without_asking_for_another(bench: Bench) -> None:
    for _ in range(2):
        run(bench.reactor, WAKE_UPS_S)
        bench.send(*[b"a PDU"] * MORE)
        assert bench.reads(3) == [1, MORE - 1, 0]


def test_a_port_that_is_woken_up_too_often_is_left_alone_for_a_moment(bench: Bench) -> None:
    """Then what has come meanwhile is read together."""
    watched: list[bool] = []
    bench.port.watch = watched.append
    run(bench.reactor, WAKE_UPS_S)
    for number in range(1, WAKE_UPS_MAX + 1):
        assert bench.port in bench.reactor.readers
        bench.send(b"a PDU")
        assert bench.reads() == [1]
        assert watched == [False] * (number == WAKE_UPS_MAX)
    assert bench.port not in bench.reactor.readers
    bench.send(*[b"a PDU"] * MORE)
    run(bench.reactor, WAKE_UPS_S)
    assert (bench.port in bench.reactor.readers, watched) == (True, [False, True])
    assert bench.reads(2) == [1, MORE - 1]
    bench.reads(WAKE_UPS_MAX - 2)
    assert (bench.port in bench.reactor.readers, watched) == (False, [False, True, False])


def test_one_that_is_woken_up_now_and_then_is_not(bench: Bench) -> None:
    for _ in range(5 * WAKE_UPS_MAX):
        bench.send(b"a PDU")
        assert bench.reads() == [1]
        run(bench.reactor, 1.01 * WAKE_UPS_S / (WAKE_UPS_MAX - 1))
        assert bench.port in bench.reactor.readers


def test_one_that_is_closed_meanwhile_leaves_no_timer(bench: Bench) -> None:
    bench.reads(WAKE_UPS_MAX)
    bench.port.stopListening()
    run(bench.reactor, 0)
    assert bench.reactor.getDelayedCalls() == []


def test_datagrams_are_taken_in_as_they_came_and_with_their_source(bench: Bench) -> None:
    several = [b"one", b"", bytes(44), b"four"]
    bench.send(*several)
    bench.reads()
    assert bench.protocol.taken == several
    assert [plain(source) for source in bench.protocol.sources] == [(LOOPBACK, bench.sender.getsockname()[1])] * 4


@pytest.mark.parametrize("size", [DATAGRAM_MAX, DATAGRAM_MAX + 1, 1500, 65_507])
def test_of_a_long_datagram_no_more_is_read_than_shows_that_it_is_too_long(bench: Bench, size: int) -> None:
    bench.send(bytes(size), b"the next one")
    assert bench.reads() == [2]
    assert [len(datagram) for datagram in bench.protocol.taken] == [DATAGRAM_MAX, 12]


def test_where_there_is_nothing_nothing_is_taken_in(bench: Bench) -> None:
    assert bench.reads(2) == [0, 0]


def test_a_datagram_that_cannot_be_taken_in_is_logged_and_costs_no_other(bench: Bench) -> None:
    bench.protocol.broken = {b"two", b"three"}
    bench.send(b"one", b"two", b"three", b"four")
    with logged() as events:
        bench.reads()
    assert bench.protocol.taken == [b"one", b"two", b"three", b"four"]
    assert [event["log_failure"].type for event in events] == [ValueError, ValueError]


class Failing:
    """A socket on which every other read fails."""

    def __init__(self, sock: socket.socket, error: OSError) -> None:
        self._sock = sock
        self._error = error
        self._reads = 0

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        self._count()
        return self._sock.recvfrom(size)

    def recvmsg(self, size: int, control_size: int) -> tuple[bytes, Any, int, Any]:
        self._count()
        return self._sock.recvmsg(size, control_size)

    def _count(self) -> None:
        self._reads += 1
        if self._reads % 2 == 0:
            raise self._error


@pytest.mark.parametrize(
    "number", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENOMEM, errno.EINTR, errno.EBADF]
)
def test_an_error_of_reading_ends_a_wake_up_and_nothing_else(
    bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.send(b"one", b"two", b"three")
    monkeypatch.setattr(bench.port, "socket", Failing(bench.port.socket, OSError(number, "failed")))
    with logged() as events:
        assert bench.reads(3) == [1, 1, 1]
    assert bench.protocol.taken == [b"one", b"two", b"three"]
    assert list(events) == []


class Limited(socket.socket):
    """Takes the size of its buffer by the options of `allowed` only, and notes by which it was told."""

    allowed: tuple[int, ...] = ()
    told: tuple[int, ...] = ()

    def setsockopt(self, level: int, option: int, value: Any, *more: Any) -> None:
        if (level, value) != (socket.SOL_SOCKET, BUFFER):
            super().setsockopt(level, option, value, *more)
            return
        self.told += (option,)
        if option not in self.allowed:
            raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize(
    ("allowed", "told"),
    [
        ((SO_RCVBUFFORCE,), (SO_RCVBUFFORCE,)),
        ((socket.SO_RCVBUF,), (SO_RCVBUFFORCE, socket.SO_RCVBUF)),
        ((), (SO_RCVBUFFORCE, socket.SO_RCVBUF)),
    ],
    ids=["any size", "up to a limit", "not at all"],
)
def test_the_kernel_is_asked_for_a_large_buffer_and_what_it_allows_will_do(
    allowed: tuple[int, ...], told: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    limited = Limited(socket.AF_INET, socket.SOCK_DGRAM)
    limited.setblocking(False)
    limited.allowed = allowed
    monkeypatch.setattr(bench.port, "createInternetSocket", lambda: limited)
    bench.port.startListening()
    assert limited.told == told
    bench.send(b"heard all the same")
    assert bench.reads() == [1]
    bench.close()


def test_the_buffer_is_as_large_as_the_kernel_allows(bench: Bench) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        try:
            other.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        except OSError:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        expected = other.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert bench.port.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == expected


def test_a_reactor_without_descriptors_opens_the_port_its_own_way_and_reads_as_little_of_each_datagram(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reactor, protocol = Reactor(), Taker()
    listen, sizes = reactor.listenUDP, []

    def noted(port: int, protocol: DatagramProtocol, interface: str, maxPacketSize: int) -> IListeningPort:  # noqa: N803
        sizes.append(maxPacketSize)
        return listen(port, protocol, interface, maxPacketSize)

    monkeypatch.setattr(reactor, "listenUDP", noted)
    port = listen_udp(reactor, 5555, protocol, "10.1.1.10")
    assert reactor.open_ports == [port]
    address: Any = port.getHost()
    assert (address.type, address.host, address.port) == ("UDP", "10.1.1.10", 5555)
    assert sizes == [DATAGRAM_MAX]
    assert protocol.transport is reactor.datagrams[0]


def test_a_port_that_a_reactor_cannot_open_is_its_own_error() -> None:
    reactor = Reactor()
    reactor.taken.add(5555)
    with pytest.raises(CannotListenError):
        listen_udp(reactor, 5555, Taker(), "")


@pytest_twisted.inlineCallbacks  # type: ignore[untyped-decorator]
def test_on_twisteds_own_reactor_the_port_is_bounded_and_is_read() -> Iterator[Deferred[Any]]:
    from twisted.internet import reactor

    assert isinstance(reactor, PosixReactorBase)
    protocol = Taker()
    port = listen_udp(reactor, 0, protocol, LOOPBACK)
    (bounded,) = udp_ports(port)
    assert isinstance(bounded, BoundedPort)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", (LOOPBACK, bounded.getHost().port))
    protocol.first.addTimeout(WAIT_S, reactor)
    yield protocol.first
    assert protocol.taken == [b""]
    stopped = port.stopListening()
    assert stopped is not None
    yield stopped
    assert bounded.fileno() == -1


def test_a_taken_port_is_an_error_of_listening_with_its_cause() -> None:
    from twisted.internet import reactor

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((LOOPBACK, 0))
        with pytest.raises(CannotListenError) as caught:
            listen_udp(reactor, taken.getsockname()[1], Taker(), LOOPBACK)
    assert caught.value.socketError.errno == errno.EADDRINUSE
