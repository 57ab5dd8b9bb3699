"""What happens when no more sessions fit, and what the sockets of clients and back-ends are set to."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import BY_REPORT, Certificate, Starter, Variant, every_carrier, every_listener
from tests.integration.dials import DIALS, Dial
from tests.integration.fake_agents import BUSY
from tests.integration.polling import PROMPT_S, READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.servers import echo
from tests.integration.sockets import is_readable, ordered, receive
from tests.integration.stopwatch import Stopwatch
from tests.integration.streams import Stream, check_rest, flood
from tests.integration.twistd import RESTING, shell

pytestmark = every_carrier

BACKLOG: Final = 4096
NAGLE_S: Final = 0.04
"""The shortest time that Linux delays an ACK."""
_AS_SYSTEMD: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="clients", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def limited(start: Starter, variant: Variant, descriptors: int, *options: str) -> Pool:
    """At a proxy that may have only so many descriptors open."""
    return start.pool(*BY_REPORT, *variant.options, *options, wrapper=shell(f"ulimit -n {descriptors}"))


def crowd(pool: Pool, number: int) -> list[socket.socket]:
    """Connect clients that each send their own word to an echo server. Returns once no more fit."""
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


def test_when_descriptors_run_short_clients_wait_for_their_turn(variant: Variant, start: Starter) -> None:
    pool = limited(start, variant, 80)
    pool.serve(echo)
    number = 60
    clients = crowd(pool, number)
    fit = pool.proxy.connections()
    assert 0 < fit < number
    assert_answered(clients, range(fit))
    assert pool.proxy.share_of_a_core() < RESTING
    assert not any(is_readable(client) for client in clients[fit:]), "somebody is served, or let go, out of turn"
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
    """Also when all leave at once and no client waits."""
    pool = limited(start, variant, 80)
    pool.serve(echo)
    for _ in range(3):
        clients = crowd(pool, 40)
        for client in clients:
            client.close()
        pool.settled(within_s=PROMPT_S)
    assert pool.proxy.share_of_a_core() < RESTING
    client = pool.connect()
    client.sendall(_word(0))
    assert_answered([client], range(1))


def test_descriptors_of_bulk_transfers_are_provided_for(variant: Variant, start: Starter) -> None:
    """Stalled ones hold their pipes, if the carrier has any; nevertheless every session that is accepted is served."""
    limit, number = 160, 100
    pool = limited(start, variant, limit)
    before = pool.proxy.descriptors("pipe")
    stalled = pool.links(20, BUSY)
    sent = {server: Stream() for _, server in stalled}
    flood(sent)
    assert (pool.proxy.descriptors("pipe") > before) is (variant.carrier == "splice")
    pool.serve(echo)
    clients = crowd(pool, number)
    fit = pool.proxy.connections() - len(stalled)
    assert fit > 0
    assert_answered(clients, range(fit))
    assert pool.proxy.descriptors() < limit
    assert pool.proxy.share_of_a_core() < RESTING
    for client, server in stalled:
        server.close()
        assert check_rest(client, Stream()) == sent[server].size
        client.close()
    for client in clients[:fit]:
        client.close()
    assert_answered(clients, range(fit, min(2 * fit, number)))
    for client in clients:  # while there is a back-end: without one, who has sent something and ended waits for it
        client.close()
    pool.settled(within_s=READY_S)


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
        in_background(answer, address, dial, certificate)
        for address, dial in list(zip(pool.proxy.listeners, DIALS.values(), strict=True))[1:]
    ]
    assert pool.proxy.share_of_a_core() < RESTING
    assert not is_readable(first[most])
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


def sockets(*words: str) -> list[str]:
    """The lines of `ss`."""
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
    """A peer whose host has vanished is detected eventually."""
    _, server = pool.link()
    for leg in (f"sport = :{pool.proxy.address[1]}", f"dport = :{server.getsockname()[1]}"):
        poll(lambda of=leg: is_kept_alive(of), PROMPT_S, f"keepalive of {leg}")  # type: ignore[misc]


def is_kept_alive(leg: str) -> bool:
    (line,) = sockets("--options", *leg.split())
    return "timer:(keepalive," in line


def test_the_second_of_two_small_writes_is_not_held_back(pool: Pool) -> None:
    """On a new session, and with a receiver that delays its ACKs, for which Nagle's algorithm would wait."""
    for name in ("client", "server"):
        took_s = [second_write_s(*ordered(*pool.link(), name)) for _ in range(9)]
        assert median(took_s) < NAGLE_S / 2, f"what the {name} sends"


def second_write_s(sender: socket.socket, receiver: socket.socket) -> float:
    """How long after it was sent it arrives."""
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    receiver.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    sender.sendall(b"a")
    time.sleep(0.005)
    watch = Stopwatch()
    sender.sendall(b"b")
    assert receive(receiver, 2) == b"ab"
    return watch.own_s


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
    wrapper = [sys.executable, "-c", _AS_SYSTEMD, str(inherited.fileno())]
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
