"""The status listener of a real proxy: what programs ask of it, and what it bears while sessions go on."""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from http import HTTPStatus
from typing import Final

import attrs
import pytest

from rproxy.admin.http_server import CONNECTIONS_MAX
from rproxy.net.addresses import Address
from rproxy.wire.seal import Unsealed
from tests.benchmarks.operators import ATTACKS, GET
from tests.benchmarks.simulator import Simulator, register_all
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import MB, connect, receive, receive_all, reset
from tests.integration.stopwatch import Stopwatch
from tests.integration.twistd import REACTORS

ROWS: Final = 1000
ATTACK_S: Final = 1.0
WAIT_MAX_S: Final = 1.0
"""For the bytes of a session, beside several other busy processes; it was ten seconds."""
MEMORY_MAX: Final = 40 * MB
both_reactors = pytest.mark.parametrize("reactor", REACTORS)


def ask(proxy: Proxy, method: str = "GET", path: str = "/status.json", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*proxy.admin, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def raw(address: Address, sent: bytes) -> bytes:
    """All that is answered, up to the end."""
    with connect(address) as client:
        client.sendall(sent)
        return receive_all(client)


@both_reactors
def test_programs_are_served_on_one_connection_or_many(start: Starter, reactor: str) -> None:
    proxy = start.proxy(reactor=reactor)
    connection = http.client.HTTPConnection(*proxy.admin, timeout=5)
    for method, path, status in [
        *(
            ("GET", "/status.json", 200),
            ("HEAD", "/status.json", 200),
            ("GET", "/x", 404),
            ("PUT", "/status.json", 405),
        ),
        *(("GET", "/status.json?x", 200), ("DELETE", "/x", 404)),
    ]:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        assert (response.status, bool(body)) == (status, method != "HEAD"), (method, path)
        assert response.getheader("Connection") is None
    connection.close()
    old = raw(proxy.admin, b"GET /status.json HTTP/1.0\r\n\r\n")
    assert json.loads(old.partition(b"\r\n\r\n")[2])["backends"] == []
    assert ask(proxy, Host="evil.example")[0] == HTTPStatus.FORBIDDEN
    assert ask(proxy, Origin="http://evil.example")[0] == HTTPStatus.FORBIDDEN
    assert ask(proxy, Host="localhost", Origin="http://localhost")[0] == HTTPStatus.OK
    log = proxy.log
    assert failures(log) == []
    assert "GET" not in log
    assert "deprecat" not in (log + proxy.errors).lower()


BODIES: Final = {
    "a length": (b"Content-Length: 300000000", 300 * MB),
    "one that is a little too long": (b"Content-Length: 1025", 1025),
    "chunks": (b"Transfer-Encoding: chunked", 300 * MB),
    "asked for first": (b"Content-Length: 300000000\r\nExpect: 100-continue", 0),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_body_is_refused_unread(start: Starter, body: str) -> None:
    proxy = start.proxy()
    field, size = BODIES[body]
    before, chunk = proxy.descriptors(), bytes(65536)
    with connect(proxy.admin) as client:
        client.sendall(b"POST /status.json HTTP/1.1\r\nHost: localhost\r\n" + field + b"\r\n\r\n")
        with pytest.raises(OSError, match=r"reset|Broken pipe") if size > MB else nullcontext():  # it does not get far
            client.settimeout(3)
            for _ in range(0, size, len(chunk)):
                client.sendall(chunk[:size])
        if size <= MB:
            assert receive(client, 12) == b"HTTP/1.1 413"
    poll(lambda: proxy.descriptors() <= before, READY_S, "no file is left open")
    assert proxy.resident() < 150 * MB


def test_curl_that_sends_a_file_reads_why_not(start: Starter) -> None:
    (curl,) = need("curl")
    proxy = start.proxy()
    told = [curl, "-sS", "-i", "--data-binary", "@-", f"http://{LOOPBACK}:{proxy.admin[1]}/status.json"]
    done = subprocess.run(told, input=bytes(30 * MB), capture_output=True, timeout=READY_S, check=False)
    assert done.stdout.startswith(b"HTTP/1.1 413 "), done


@both_reactors
def test_pipelined_requests_that_are_read_late_are_all_answered(start: Starter, reactor: str) -> None:
    proxy = start.proxy(reactor=reactor)
    number = 300
    with connect(proxy.admin, receive_buffer=4096) as client:
        sending = in_background(client.sendall, number * GET + GET.replace(b"Host", b"Connection: close\r\nHost"))
        time.sleep(0.3)
        answers = receive_all(client).split(b"HTTP/1.1 200 OK\r\n")[1:]
        sending.result()
    assert len(answers) == number + 1
    for answer in answers:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["backends"] == []


def test_who_half_closes_after_his_request_is_answered(start: Starter) -> None:
    proxy = start.proxy()
    with connect(proxy.admin) as client:
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        assert json.loads(receive_all(client).partition(b"\r\n\r\n")[2])["backends"] == []


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 100_000, b"HELO x\r\n\r\n", b"G" * 20_000]
)
def test_what_is_no_request_is_answered_at_once_and_hung_up_on(start: Starter, sent: bytes) -> None:
    proxy = start.proxy()
    watch = Stopwatch()
    with connect(proxy.admin) as client:
        client.sendall(sent)
        assert receive(client, 10) == b"HTTP/1.1 4"
    assert watch.own_s < PROMPT_S
    assert "HTTP" not in proxy.log


def test_more_connections_than_there_may_be_keep_nobody_out_and_a_stop_is_not_held_up(start: Starter) -> None:
    proxy = start.proxy()
    idle = [connect(proxy.admin) for _ in range(2 * CONNECTIONS_MAX)]
    try:
        for client in idle[::2]:
            with suppress(OSError):  # it had to make room
                client.sendall(b"GET /status.json")
        assert [ask(proxy)[0] for _ in range(10)] == [HTTPStatus.OK] * 10
        poll(lambda: proxy.descriptors("socket") <= proxy.idle_sockets + CONNECTIONS_MAX, READY_S, "few are open")
        proxy.stop(within_s=3)
    finally:
        for client in idle:
            client.close()


@attrs.frozen
class Busy:
    """A proxy with many rows, and a session on it."""

    proxy: Proxy
    client: socket.socket

    def longest_s(self, until: threading.Event) -> float:
        """That a few bytes took to the server and back."""
        longest_s = 0.0
        while not until.wait(0.002):
            started = time.monotonic()
            self.client.sendall(b"question")
            assert receive(self.client, 8) == b"question"
            longest_s = max(longest_s, time.monotonic() - started)
        return longest_s


@pytest.fixture(scope="module")
def busy(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    throttle = ["--probe-interval", "60", "--liveness", "200", "--max-backends", "10000"]
    with Proxy(tmp_path_factory.mktemp("proxy"), *throttle, *variant.options, reactor=variant.reactor) as proxy:
        pool = Pool(proxy)
        pool.serve(echo)
        simulator = Simulator(proxy.monitor, Unsealed(), ROWS, random.Random(1), draining=True)
        over = threading.Event()
        try:
            register_all(simulator, ROWS)
            answering = in_background(simulator.run, 1e6, over.is_set)
            with pool.connect() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                yield Busy(proxy, client)
            over.set()
            answering.result()
        finally:
            simulator.close()
            pool.abandon()


@every_carrier
@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_operators_programs_do_sessions_go_on(busy: Busy, attack: str) -> None:
    proxy = busy.proxy
    memory, logged = proxy.resident(), len(proxy.log)
    over = threading.Event()
    waiting = in_background(busy.longest_s, over)
    try:
        ATTACKS[attack](proxy.admin, time.monotonic() + ATTACK_S)
        assert len(proxy.status()["backends"]) == ROWS + 1
    finally:
        over.set()
    assert waiting.result() < WAIT_MAX_S
    assert proxy.resident() - memory < MEMORY_MAX
    assert [line for line in proxy.log[logged:].splitlines() if "back-end" not in line] == []
    assert failures(proxy.log) == []


@every_carrier
def test_resets_at_any_time_leave_nothing(busy: Busy) -> None:
    proxy = busy.proxy
    for number in range(200):
        client = connect(proxy.admin)
        client.sendall(GET[: number % (2 * len(GET))] if number % 3 else 3 * GET)
        if number % 2:
            client.recv(1 + 100 * number) if number % 3 == 0 else None
        reset(client)
    poll(lambda: proxy.descriptors("socket") <= proxy.idle_sockets + 3, READY_S, "no connection is left")
    assert failures(proxy.log) == []
