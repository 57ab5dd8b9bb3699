"""Timeouts of silent sessions, and what happens when no more sessions fit."""

from __future__ import annotations

import re
import select
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import need
from tests.integration.conftest import Certificate, Starter, Variant, every_carrier, every_listener
from tests.integration.processes import (
    BUSY,
    LOOPBACK,
    PROMPT_S,
    READY_S,
    SMALL_BUFFER,
    Pool,
    Proxy,
    echo,
    in_background,
    poll,
    receive,
    receive_all,
    receive_now,
    run_twistd,
    send_until_blocked,
    shell,
    wait_for_reset,
)
from tests.integration.streams import Stream, check_rest, flood
from tests.integration.test_carriers import LISTENERS, Dial
from tests.integration.test_commands import PROXY, assert_it_says_in_one_line

pytestmark = every_carrier

IDLE_S: Final = 2.0
HALF_CLOSED_S: Final = 1.0
TOLERANCE: Final = 1.25
"""A timeout may be this many times late."""
BUSY_S: Final = 0.5
"""And later by this, because the machine is busy."""
BACKLOG: Final = 4096
NAGLE_S: Final = 0.04
"""The shortest time that Linux delays an ACK."""
SPIN: Final = 0.1
"""Share of a core that a proxy which waits may use."""


@pytest.fixture(scope="module")
def timed_proxy(
    variant: Variant, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("timed")
    timeouts = ["--idle-timeout", f"{IDLE_S:g}", "--half-close-timeout", f"{HALF_CLOSED_S:g}"]
    with Proxy(folder, *every_listener(folder, certificate), *variant.tls_options, *timeouts) as proxy:
        yield proxy


@pytest.fixture
def timed(timed_proxy: Proxy) -> Iterator[Pool]:
    """At a proxy with short timeouts, and every kind of listener."""
    pool = Pool(timed_proxy)
    yield pool
    pool.close()


def ordered(client: socket.socket, server: socket.socket, first: str) -> tuple[socket.socket, socket.socket]:
    return (client, server) if first == "client" else (server, client)


def end_writing(one: socket.socket, other: socket.socket) -> None:
    """A half-close that has arrived."""
    one.shutdown(socket.SHUT_WR)
    assert receive_all(other) == b""


def assert_reset_in_time(started: float, timeout_s: float, *sides: socket.socket) -> None:
    for side in sides:
        wait_for_reset(side, started + TOLERANCE * timeout_s + BUSY_S - time.monotonic())
        assert time.monotonic() - started >= timeout_s, "too soon"


def ended(proxy: Proxy, ending: str) -> int:
    return proxy.sessions().get(ending, 0)


def test_an_idle_session_is_reset_on_both_sides_in_time_counted_and_logged(timed: Pool) -> None:
    before, logged = ended(timed.proxy, "idle"), len(timed.proxy.log)
    client, server = timed.link()
    started = time.monotonic()
    client.sendall(b"x")
    assert receive(server, 1) == b"x"
    assert_reset_in_time(started, IDLE_S, client, server)
    assert ended(timed.proxy, "idle") == before + 1
    assert f"1 session(s) closed: idle and silent for {IDLE_S:g} s" in timed.proxy.log[logged:]


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_half_closed_and_silent_session_is_reset_on_both_sides_in_its_own_time(timed: Pool, first: str) -> None:
    before = ended(timed.proxy, "half-closed")
    client, server = timed.link()
    started = time.monotonic()
    end_writing(*ordered(client, server, first))
    assert_reset_in_time(started, HALF_CLOSED_S, client, server)
    assert ended(timed.proxy, "half-closed") == before + 1


def test_sessions_that_time_out_together_are_told_of_together(timed: Pool) -> None:
    logged = len(timed.proxy.log)
    number = 20
    pairs = timed.links(number)
    for client, _ in pairs:
        client.shutdown(socket.SHUT_WR)
    for pair in pairs:
        for side in pair:
            wait_for_reset(side, READY_S)
    pattern = rf"(\d+) session\(s\) closed: half-closed and silent for {HALF_CLOSED_S:g} s"
    counts = [int(count) for count in re.findall(pattern, timed.proxy.log[logged:])]
    assert sum(counts) == number
    assert len(counts) < number / 2


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_half_closed_session_lives_as_long_as_the_other_side_sends(timed: Pool, first: str) -> None:
    one, other = ordered(*timed.link(), first)
    end_writing(one, other)
    ticks = 12
    for _ in range(ticks):
        time.sleep(HALF_CLOSED_S / 4)
        other.sendall(b"x")
        assert receive(one, 1) == b"x"
    other.sendall(b"end")
    other.close()
    assert receive_all(one) == b"end"


def test_the_time_before_a_half_close_does_not_count(timed: Pool) -> None:
    client, server = timed.link()
    time.sleep(0.8 * IDLE_S)
    end_writing(client, server)
    time.sleep(0.7 * HALF_CLOSED_S)
    server.sendall(b"the answer")
    server.close()
    assert receive_all(client) == b"the answer"


@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_session_lives_as_long_as_one_side_sends(timed: Pool, sender: str) -> None:
    one, other = ordered(*timed.link(), sender)
    for _ in range(8):
        time.sleep(IDLE_S / 4)
        one.sendall(b"x")
        assert receive(other, 1) == b"x"
    other.sendall(b"y")
    assert receive(one, 1) == b"y"


def fill(server: socket.socket) -> int:
    """Whatever waits for the client: how many bytes."""
    (size,) = flood([server]).values()
    return size


def read_slowly(client: socket.socket, stream: Stream, seconds: float, every_s: float) -> None:
    """A little at a time."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        stream.check(receive_now(client, SMALL_BUFFER))
        time.sleep(every_s)


def test_a_session_lives_as_long_as_one_side_reads_what_waits_for_it(timed: Pool) -> None:
    """The proxy itself has nothing to do: all is in the kernel's buffers."""
    client, server = timed.link(client_buffer=SMALL_BUFFER)
    size = fill(server)
    stream = Stream()
    read_slowly(client, stream, 2 * IDLE_S, IDLE_S / 4)
    server.close()
    assert check_rest(client, stream) == size


def test_a_half_closed_session_lives_as_long_as_one_side_reads_what_waits_for_it(timed: Pool) -> None:
    client, server = timed.link(client_buffer=SMALL_BUFFER)
    end_writing(client, server)
    size = fill(server)
    stream = Stream()
    read_slowly(client, stream, 4 * HALF_CLOSED_S, HALF_CLOSED_S / 4)
    server.close()
    assert check_rest(client, stream) == size


def test_a_reader_that_has_stopped_is_silent(timed: Pool) -> None:
    client, server = timed.link(client_buffer=SMALL_BUFFER)
    send_until_blocked(server)
    started = time.monotonic()
    wait_for_reset(server, TOLERANCE * IDLE_S + BUSY_S)
    assert time.monotonic() - started > IDLE_S / 2
    wait_for_reset(client, PROMPT_S)


@pytest.mark.parametrize(("position", "dial"), LISTENERS)
def test_an_idle_client_of_every_kind_of_listener_is_let_go(
    timed: Pool, certificate: Certificate, position: int, dial: Dial
) -> None:
    before = ended(timed.proxy, "idle")
    listener = timed.listen()
    started = time.monotonic()
    client = timed.keep(dial(timed.proxy.listeners[position], certificate))
    server = listener.accept()
    assert_reset_in_time(started, IDLE_S, server)
    with suppress(ConnectionResetError, ssl.SSLEOFError):  # a UNIX socket cannot pass on a reset
        assert (client.family, client.recv(1)) == (socket.AF_UNIX, b""), "it looks like a clean end"
    assert ended(timed.proxy, "idle") == before + 1


def test_without_timeouts_silent_sessions_stay(variant: Variant, start: Starter) -> None:
    pool = start.pool(*variant.options, "--idle-timeout", "0", "--half-close-timeout", "0")
    idle, half_closed = pool.link(), pool.link()
    end_writing(*half_closed)
    time.sleep(1)
    idle[0].sendall(b"x")
    assert receive(idle[1], 1) == b"x"
    half_closed[1].sendall(b"x")
    assert receive(half_closed[0], 1) == b"x"


def limited(start: Starter, variant: Variant, descriptors: int, *options: str) -> Pool:
    """At a proxy that may have only so many descriptors open."""
    return start.pool(*variant.options, *options, wrapper=shell(f"ulimit -n {descriptors}"))


def is_answered(client: socket.socket) -> bool:
    """Something has arrived: an answer, or an end, which the next `receive` tells apart."""
    readable, _, _ = select.select([client], [], [], 0)
    return bool(readable)


def crowd(pool: Pool, number: int) -> list[socket.socket]:
    """So many clients, each of which sends its own word to an echo server. Returns when no more of them fit."""
    clients = [pool.connect() for _ in range(number)]
    for place, client in enumerate(clients):
        client.sendall(_word(place))
    poll(lambda: "clients wait" in pool.proxy.log, READY_S, "the proxy says that it is full")
    return clients


def _word(place: int) -> bytes:
    return b"%04d" % place


def assert_answered(clients: Sequence[socket.socket], places: range) -> None:
    for place in places:
        assert receive(clients[place], 4) == _word(place)


def share_of_a_core(proxy: Proxy, seconds: float = 1.0) -> float:
    before = proxy.cpu()
    time.sleep(seconds)
    return (proxy.cpu() - before) / seconds


def test_when_descriptors_run_short_clients_wait_for_their_turn(variant: Variant, start: Starter) -> None:
    pool = limited(start, variant, 80)
    pool.serve(echo)
    number = 60
    clients = crowd(pool, number)
    fit = pool.proxy.connections()
    assert 0 < fit < number
    assert_answered(clients, range(fit))
    assert share_of_a_core(pool.proxy) < SPIN
    assert not any(is_answered(client) for client in clients[fit:]), "somebody is served, or let go, out of turn"
    for place in range(number - fit):
        clients[place].close()
        assert_answered(clients, range(fit + place, fit + place + 1))
    assert pool.proxy.log.count("clients wait") == 1
    for client in clients:
        client.close()
    pool.settled(within_s=PROMPT_S)
    assert sum(row["total"] for row in pool.proxy.backends().values()) == number
    assert pool.proxy.sessions() == {"closed": number}


def test_after_a_shortage_the_proxy_is_as_before(variant: Variant, start: Starter) -> None:
    """Also when all leave at once, and nobody waits any more."""
    pool = limited(start, variant, 80)
    pool.serve(echo)
    for _ in range(3):
        clients = crowd(pool, 40)
        for client in clients:
            client.close()
        pool.settled(within_s=PROMPT_S)
    assert share_of_a_core(pool.proxy) < SPIN
    client = pool.connect()
    client.sendall(_word(0))
    assert_answered([client], range(1))


def test_descriptors_of_bulk_transfers_are_provided_for(variant: Variant, start: Starter) -> None:
    """Stalled ones hold their pipes, if the carrier has any; nevertheless every session that is accepted is served."""
    limit, number = 160, 100
    pool = limited(start, variant, limit)
    before = pool.proxy.descriptors("pipe")
    stalled = pool.links(20, BUSY, client_buffer=SMALL_BUFFER)
    sizes = flood(server for _, server in stalled)
    assert (pool.proxy.descriptors("pipe") > before) is (variant.carrier == "splice")
    pool.serve(echo)
    clients = crowd(pool, number)
    fit = pool.proxy.connections() - len(stalled)
    assert fit > 0
    assert_answered(clients, range(fit))
    assert pool.proxy.descriptors() < limit
    assert share_of_a_core(pool.proxy) < SPIN
    for client, server in stalled:
        server.close()
        assert check_rest(client, Stream()) == sizes[server]
        client.close()
    for client in clients[:fit]:
        client.close()
    assert_answered(clients, range(fit, min(2 * fit, number)))


def test_the_most_connections_can_be_given_and_hold_for_all_listeners_together(
    variant: Variant, start: Starter, certificate: Certificate
) -> None:
    most = 3
    listeners = every_listener(start.folder, certificate)
    pool = start.pool(*listeners, *variant.tls_options, "--max-connections", f"{most}")
    pool.serve(echo)
    first = crowd(pool, most + 1)
    assert_answered(first, range(most))
    others = [
        in_background(answer, pool.proxy.listeners[position], dial, certificate)
        for position, dial in (listener.values for listener in LISTENERS[1:])
    ]
    assert share_of_a_core(pool.proxy) < SPIN
    assert not is_answered(first[most])
    assert not any(other.done() for other in others)
    for client in first[:most]:
        client.close()
    assert_answered(first, range(most, most + 1))
    first[most].close()
    for other in others:
        assert other.result(READY_S) == b"hello"
    pool.settled(within_s=PROMPT_S)


def answer(address: str, dial: Dial, certificate: Certificate) -> bytes:
    with dial(address, certificate) as client:
        client.sendall(b"hello")
        return receive(client, 5)


def test_more_connections_than_descriptors_allow_is_an_error_at_the_start(variant: Variant, tmp_path: Path) -> None:
    options = [*PROXY, *variant.options, "--max-connections", "1000"]
    done = run_twistd(tmp_path, *options, prefix=shell("ulimit -n 1000"))
    assert_it_says_in_one_line(done, tmp_path, "--max-connections 1000")


@pytest.mark.parametrize("option", ["--max-connections", "--idle-timeout", "--half-close-timeout"])
@pytest.mark.parametrize("value", ["-1", "many", "nan"])
def test_a_wrong_limit_is_named(variant: Variant, tmp_path: Path, option: str, value: str) -> None:
    done = run_twistd(tmp_path, *PROXY, *variant.options, option, value)
    assert_it_says_in_one_line(done, tmp_path, f"{option} {value}")


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(variant: Variant, start: Starter) -> None:
    proxy = start.proxy(*variant.options, wrapper=shell("ulimit -Hn 2000 && ulimit -Sn 64"))
    limits = Path(f"/proc/{proxy.pid}/limits").read_text()
    assert re.findall(r"Max open files +(\d+) +(\d+)", limits) == [("2000", "2000")]


def sockets(*words: str) -> list[str]:
    """What `ss` tells, a line each."""
    need("ss")
    return subprocess.run(["ss", "-tnH", *words], capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_queue_of_clients_to_accept_is_long(pool: Pool) -> None:
    allowed = int(Path("/proc/sys/net/core/somaxconn").read_text())
    for host, port in (socket_name(text) for text in pool.proxy.listeners[:2]):
        (line,) = sockets("--listening", "src", host, "and", "sport", "=", f":{port}")
        assert int(line.split()[2]) == min(BACKLOG, allowed)


def socket_name(listener: str) -> tuple[str, str]:
    host, _, port = listener.rpartition(":")
    return host, port


def test_both_legs_are_kept_alive(pool: Pool) -> None:
    """A peer whose host has vanished without a word is found out in the end."""
    _, server = pool.link()
    for side in (f"sport = :{pool.proxy.address[1]}", f"dport = :{server.getsockname()[1]}"):
        (line,) = sockets("--options", *side.split())
        assert "timer:(keepalive," in line


def test_the_second_of_two_small_writes_is_not_held_back(pool: Pool) -> None:
    """On a new session, and with a receiver that delays its ACKs, for which Nagle's algorithm would wait."""
    for name in ("client", "server"):
        slowest_s = sorted(second_write_s(*ordered(*pool.link(), name)) for _ in range(9))
        assert slowest_s[4] < NAGLE_S / 2, f"what the {name} sends"


def second_write_s(sender: socket.socket, receiver: socket.socket) -> float:
    """How long after it was sent it arrives."""
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    receiver.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    sender.sendall(b"a")
    time.sleep(0.005)
    started = time.monotonic()
    sender.sendall(b"b")
    assert receive(receiver, 2) == b"ab"
    return time.monotonic() - started


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    """What systemd would hand over: a listening socket."""
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        yield listening


def test_a_listening_socket_is_inherited_and_outlives_each_proxy(
    variant: Variant, start: Starter, inherited: socket.socket
) -> None:
    listen = ["--listen", "systemd:domain=INET:index=0"]
    wrapper = shell(f"exec 3<&{inherited.fileno()} && export LISTEN_FDS=1 LISTEN_PID=$$")
    for _ in range(2):
        pool = Pool(start.proxy(*variant.options, *listen, wrapper=wrapper, pass_fds=[inherited.fileno()]))
        start.closing(pool.abandon)
        assert pool.proxy.address == inherited.getsockname()
        pool.serve(echo)
        client = pool.connect()
        client.sendall(_word(0))
        assert_answered([client], range(1))
        client.close()
        assert pool.proxy.stop() == -signal.SIGTERM
        pool.connect()  # waits for the next one, and is not refused
