"""The operators' server: whatever its clients do, its work at once, its memory and its waits are bounded."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.web.resource import Resource

from rproxy.admin.channel import (
    ANSWER_S,
    BODY_MAX,
    IDLE_S,
    LINGER_BYTES,
    LINGER_S,
    READ_BYTES,
    REQUEST_S,
    TARGET_MAX,
    UNREAD_BYTES,
    Channel,
    Request,
)
from rproxy.admin.http_server import CONNECTIONS_MAX
from rproxy.admin.snapshots import OUTDATED_BYTES, REUSED_S
from tests.admin.clients import Client, ServerBench
from tests.fakes import logged, run, turn

GET = b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
DOCUMENT = b"a document\n"


def status(answer: bytes) -> int:
    return answers(answer)[0]


def answers(data: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", data)]


def test_a_connection_serves_one_request_after_another() -> None:
    client = ServerBench().client()
    for _ in range(3):
        answer = client.ask(GET)
        assert status(answer) == HTTPStatus.OK
        assert answer.endswith(b"\r\n\r\n" + DOCUMENT)
        assert b"Content-Length: %d\r\n" % len(DOCUMENT) in answer
    assert client.reading


def test_pipelined_requests_are_answered_one_after_the_other_and_nothing_is_read_meanwhile() -> None:
    client = ServerBench().client()
    client.stalled = True
    client.send(3 * GET)
    assert not client.reading
    assert client.held < 300  # the head of one answer
    client.unstall()
    client.settle()
    assert answers(client.take()) == [HTTPStatus.OK] * 3
    assert client.reading


class Large(Resource):
    """Answers in one go."""

    def render_GET(self, request: Request) -> bytes:
        return bytes(200_000)


@pytest.mark.parametrize(
    ("asked", "answer_max"),
    [(b"/large", 201_000), (b"/nothing", 1000), (b"http://evil.example/", 1000), (b"*", 1000), (b"/status.json", 1000)],
)
def test_of_pipelined_requests_for_anything_one_is_answered_until_that_is_read(asked: bytes, answer_max: int) -> None:
    bench = ServerBench()
    bench.server.resource.putChild(b"large", Large())
    client = bench.client()
    client.stalled = True
    client.receive(40 * GET.replace(b"/status.json", asked))
    client.settle()
    assert not client.reading
    assert 0 < client.held < answer_max
    client.unstall()
    client.settle()
    assert len(answers(client.take())) == 40


def test_one_piece_of_an_unread_answer_is_written() -> None:
    piece = bytes(1000)
    client = ServerBench(lambda: iter([piece] * 50)).client()
    client.stalled = True
    client.send(GET)
    assert client.held < 2 * len(piece)
    client.unstall()
    client.settle()
    assert client.take().endswith(50 * piece)


def test_the_answer_of_an_empty_document_ends() -> None:
    client = ServerBench(lambda: iter(())).client()
    assert answers(client.ask(2 * GET)) == [HTTPStatus.OK] * 2


def test_only_little_is_done_in_each_turn_however_many_connections_ask() -> None:
    rendered = []

    def render() -> Iterator[bytes]:
        for number in range(5):
            rendered.append(number)
            yield bytes(10)

    bench = ServerBench(render)
    clients = [bench.client() for _ in range(20)]
    for client in clients:
        client.receive(GET)
    while not all(client.value() for client in clients):
        before = len(rendered)
        turn(bench.clock)
        written = sum(client.held > 0 for client in clients)
        assert len(rendered) - before + written <= 1
    assert rendered == [0, 1, 2, 3, 4]


def test_head_gets_only_the_length() -> None:
    client = ServerBench().client()
    answer = client.ask(GET.replace(b"GET", b"HEAD", 1))
    assert b"Content-Length: %d\r\n" % len(DOCUMENT) in answer
    assert answer.endswith(b"\r\n\r\n")
    assert status(client.ask(GET)) == HTTPStatus.OK


@pytest.mark.parametrize(
    ("request_", "expected", "stays"),
    [
        (GET.replace(b"status", b"other"), HTTPStatus.NOT_FOUND, True),
        (GET.replace(b"GET", b"DELETE"), HTTPStatus.METHOD_NOT_ALLOWED, True),
        (GET.replace(b"GET", b"get"), HTTPStatus.METHOD_NOT_ALLOWED, True),
        (GET.replace(b"GET", b"M-SEARCH"), HTTPStatus.METHOD_NOT_ALLOWED, True),
        (GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"), 405, True),
        (GET.replace(b"localhost", b"evil.example"), HTTPStatus.FORBIDDEN, True),
        (GET.replace(b"\r\n\r\n", b"\r\nOrigin: http://evil.example\r\n\r\n"), HTTPStatus.FORBIDDEN, True),
        (GET.replace(b"HTTP/1.1", b"HTTP/1.0"), HTTPStatus.OK, False),
        (GET.replace(b" HTTP/1.1", b""), HTTPStatus.BAD_REQUEST, False),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"), HTTPStatus.OK, True),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % BODY_MAX) + bytes(BODY_MAX), 200, True),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % (BODY_MAX + 1)), 413, False),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n") + b"\x01\r\n", 400, False),
        (GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), 413, False),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: " + 5000 * b"9" + b"\r\n\r\n"), 400, False),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: " + 5000 * b"9" + b"\r\nAccept: */*\r\n\r\n"), 400, False),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"), 400, False),
        (
            GET.replace(b"\r\n\r\n", Channel.maxHeaders * b"\r\nAccept: */*" + b"\r\n\r\n"),
            HTTPStatus.BAD_REQUEST,
            False,
        ),
        (GET.replace(b"status", TARGET_MAX * b"/"), HTTPStatus.REQUEST_URI_TOO_LONG, False),
        (GET.replace(b"status", (TARGET_MAX - 11) * b"/"), HTTPStatus.NOT_FOUND, True),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"), 413, False),
        (b"\x16\x03\x01\x02\x00", HTTPStatus.BAD_REQUEST, False),
        (b"G" * (Channel.totalHeadersSize + 2), HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, False),
        (b"\r\n" + GET, HTTPStatus.OK, True),
        (b"GET http://localhost:8404/status.json HTTP/1.1\r\nHost: evil.example\r\n\r\n", HTTPStatus.OK, True),
        (b"GET HTTP://localhost?a HTTP/1.1\r\nHost: localhost\r\n\r\n", HTTPStatus.NOT_FOUND, True),
        (b"GET http://evil.example/status.json HTTP/1.1\r\nHost: localhost\r\n\r\n", HTTPStatus.FORBIDDEN, True),
        (b"GET http:///status.json HTTP/1.1\r\nHost: localhost\r\n\r\n", HTTPStatus.FORBIDDEN, True),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", HTTPStatus.OK, True),
        (b"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n", HTTPStatus.FORBIDDEN, True),
        (GET.replace(b"/status.json", b"*"), HTTPStatus.METHOD_NOT_ALLOWED, True),
        (GET.replace(b"/status.json", b"/*"), HTTPStatus.NOT_FOUND, True),
        (GET.replace(b"GET", b"TRACE"), HTTPStatus.METHOD_NOT_ALLOWED, True),
        (GET.replace(b"GET /status.json", b"CONNECT localhost:80"), HTTPStatus.NOT_FOUND, True),
        (GET.replace(b"HTTP/1.1", b"HTTP/2.0"), HTTPStatus.BAD_REQUEST, False),
        (GET.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: gzip\r\n\r\n"), HTTPStatus.BAD_REQUEST, False),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, False),
        (GET.replace(b"\r\n\r\n", b"\r\nno field\r\n\r\n"), HTTPStatus.BAD_REQUEST, False),
        (GET.replace(b"\r\n\r\n", b"\r\nX: a\0b\r\n\r\n"), HTTPStatus.BAD_REQUEST, False),
        (GET.replace(b"status", b"\xff"), HTTPStatus.BAD_REQUEST, False),
        (GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc"), 200, True),
    ],
)
def test_what_is_not_served_is_refused_and_what_is_no_request_ends_the_connection(
    request_: bytes, expected: int, stays: bool
) -> None:
    client = ServerBench().client()
    with logged() as events:
        answer = client.ask(request_)
    assert answers(answer)[-1] == expected
    assert b"Twisted" not in answer
    head, _, body = answer.rpartition(b"\r\n\r\n")
    if expected >= HTTPStatus.BAD_REQUEST:
        assert b"Content-Type: application/json" in head
        assert json.loads(body)["error"]
        assert body.count(b"\n") == 1
    assert client.write_ended is not stays
    assert list(events) == []


def test_a_name_of_its_own_is_permitted() -> None:
    client = ServerBench(names=["Front.Example."]).client()
    assert status(client.ask(GET.replace(b"localhost", b"front.example:8081"))) == HTTPStatus.OK


def test_a_document_that_cannot_be_rendered_is_our_own_error() -> None:
    def fail() -> Iterator[bytes]:
        raise ValueError
        yield b""

    client = ServerBench(fail).client()
    assert status(client.ask(GET)) == HTTPStatus.INTERNAL_SERVER_ERROR


def test_bytes_that_come_one_by_one_are_a_request_too() -> None:
    client = ServerBench().client()
    for number in range(len(GET)):
        assert client.take() == b""
        client.send(GET[number : number + 1])
    assert status(client.take()) == HTTPStatus.OK


@pytest.mark.parametrize(
    ("sent", "limit_s", "ending"),
    [
        (b"", REQUEST_S, ConnectionDone),
        (b"GET ", REQUEST_S, ConnectionAborted),
        (GET, IDLE_S, ConnectionDone),
        (GET + b"\r\n", IDLE_S, ConnectionDone),
        (GET + b"GET", REQUEST_S, ConnectionAborted),
    ],
)
def test_a_request_must_come_in_time(sent: bytes, limit_s: float, ending: type[Exception]) -> None:
    bench = ServerBench()
    client = bench.client()
    if sent:
        client.send(sent)
    bench.wait(limit_s - 0.1)
    assert client.ended is None
    bench.wait(0.2)
    assert client.ended is ending
    assert not bench.clock.getDelayedCalls()


def test_bytes_that_trickle_do_not_prolong_that() -> None:
    bench = ServerBench()
    for begun in (b"", GET):
        client = bench.client()
        if begun:
            client.send(begun)
        for _ in range(round(REQUEST_S)):
            client.send(b"G")
            bench.wait(1.0)
        bench.wait(0.1)
        assert client.ended is ConnectionAborted


def test_an_answer_must_be_read_in_time() -> None:
    bench = ServerBench()
    client = bench.client()
    client.stalled = True
    client.send(GET)
    bench.wait(ANSWER_S - 0.1)
    assert client.ended is None
    bench.wait(0.2)
    assert client.ended is ConnectionAborted


def test_after_the_last_answer_the_rest_is_discarded_for_a_while_and_the_end_awaited() -> None:
    bench = ServerBench()
    client = bench.client()
    client.ask(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000000\r\n\r\n"))
    client.receive(bytes(LINGER_BYTES))
    bench.wait(LINGER_S - 0.1)
    assert client.ended is None
    bench.wait(0.2)
    assert client.ended is ConnectionAborted
    assert not bench.clock.getDelayedCalls()


def test_that_has_its_limit() -> None:
    bench = ServerBench()
    client = bench.client()
    client.ask(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000000\r\n\r\n"))
    client.receive(bytes(LINGER_BYTES))
    client.receive(b"x")
    bench.wait(0)
    assert client.ended is ConnectionAborted
    assert not bench.clock.getDelayedCalls()


def test_who_reads_the_last_answer_slowly_gets_the_rest_from_the_kernel() -> None:
    bench = ServerBench()
    client = bench.client()
    client.ask(GET.replace(b"1.1", b"1.0"))
    assert client.write_ended
    bench.wait(LINGER_S + 0.1)
    assert client.ended is ConnectionDone
    assert not bench.clock.getDelayedCalls()


def test_answers_have_no_versions_and_are_not_to_be_cached() -> None:
    answer = ServerBench().client().ask(GET)
    assert b"Cache-Control: no-store\r\n" in answer
    assert b"Server:" not in answer


def test_a_client_that_ends_after_the_last_answer_is_gone_at_once() -> None:
    bench = ServerBench()
    client = bench.client()
    client.ask(GET.replace(b"1.1", b"1.0"))
    client.receive_end()
    assert client.ended is ConnectionDone
    assert not bench.clock.getDelayedCalls()


@pytest.mark.parametrize("stalled", [False, True])
def test_a_client_that_is_reset_at_any_time_leaves_nothing(stalled: bool) -> None:
    for turns in range(12):
        bench = ServerBench(lambda: iter([b"x"] * 4))
        client = bench.client()
        client.stalled = stalled
        client.receive(GET)
        for _ in range(turns):
            turn(bench.clock)
        client.reset()
        run(bench.clock, 0)
        assert not bench.clock.getDelayedCalls()
        others = bench.client()
        assert status(others.ask(GET)) == HTTPStatus.OK


def test_a_lost_connection_leaves_no_work_to_the_garbage_collector() -> None:
    bench = ServerBench(lambda: iter([b"x"] * 4))
    client = bench.client()
    client.stalled = True
    client.send(GET)
    ((request,),) = [channel.requests for channel in bench.server.connections]
    assert request.producer is not None
    client.reset()
    assert request.producer is None


def test_the_kernel_keeps_little_for_each() -> None:
    client = ServerBench().client()
    assert client.socket_options == [(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)]
    assert client.__dict__["bufferSize"] == READ_BYTES


def connections(bench: ServerBench, number: int) -> list[Client]:
    return [bench.client() for _ in range(number)]


def test_beyond_the_most_connections_the_one_that_has_kept_us_waiting_longest_makes_room() -> None:
    bench = ServerBench()
    clients = connections(bench, CONNECTIONS_MAX)
    clients[0].ask(GET)
    further = bench.client()
    bench.wait(0)
    assert [client.ended for client in clients[:3]] == [None, ConnectionAborted, None]
    assert status(further.ask(GET)) == HTTPStatus.OK
    assert status(clients[0].ask(GET)) == HTTPStatus.OK


def test_there_may_be_fewer() -> None:
    bench = ServerBench(connections_max=4)
    clients = connections(bench, 6)
    bench.wait(0)
    assert [client.ended for client in clients] == [ConnectionAborted] * 2 + [None] * 4


def test_slow_readers_make_room_as_well() -> None:
    bench = ServerBench()
    clients = connections(bench, CONNECTIONS_MAX)
    for client in clients:
        client.stalled = True
        client.send(GET)
    further = connections(bench, CONNECTIONS_MAX)
    bench.wait(0)
    assert {client.ended for client in clients} == {ConnectionAborted}
    assert [status(client.ask(GET)) for client in further] == [HTTPStatus.OK] * CONNECTIONS_MAX


def test_who_waits_for_us_does_not_make_room() -> None:
    bench = ServerBench(lambda: iter([b"x"] * 300))
    clients = connections(bench, CONNECTIONS_MAX)
    for client in clients:
        client.receive(GET)
    for _ in range(CONNECTIONS_MAX + 1):
        turn(bench.clock)  # all have been looked at, and the document is not rendered yet
    assert bench.server.buildProtocol(IPv4Address("TCP", "127.0.0.1", 4321)) is None
    clients[0].settle()
    assert {status(client.take()) for client in clients} == {HTTPStatus.OK}


def test_who_reads_what_is_long_outdated_is_cut_off() -> None:
    pieces = [bytes(OUTDATED_BYTES // 4), bytes(OUTDATED_BYTES // 4)]
    bench = ServerBench(lambda: iter(pieces))
    clients = connections(bench, 6)
    for client in clients:
        client.stalled = True
        client.send(GET)
        bench.wait(2 * REUSED_S)
    for client in clients:
        client.unstall()
        client.settle()
    assert [client.ended is None for client in clients] == [False, False, False, True, True, True]
    assert status(clients[0].take()) == status(clients[5].take()) == HTTPStatus.OK


def test_on_stopping_all_end_and_nothing_is_left_to_do() -> None:
    bench = ServerBench(lambda: iter([b"x"] * 300))
    clients = connections(bench, 3)
    clients[0].receive(GET)
    clients[1].stalled = True
    clients[1].receive(GET)
    turn(bench.clock)
    bench.server.stop()
    bench.clock.advance(0)
    assert {client.ended for client in clients} == {ConnectionAborted}
    assert not bench.clock.getDelayedCalls()


class Failing(Resource):
    """Raises, before or after it has begun to answer."""

    def __init__(self, *, begins: bool) -> None:
        super().__init__()
        self._begins = begins

    def render_GET(self, request: Request) -> bytes:
        if self._begins:
            request.write(b"x")
        raise ValueError("so")


@pytest.mark.parametrize(("begins", "answered"), [(False, [HTTPStatus.INTERNAL_SERVER_ERROR]), (True, [HTTPStatus.OK])])
def test_a_fault_of_ours_is_logged_and_ends_the_connection(begins: bool, answered: list[int]) -> None:
    bench = ServerBench()
    bench.server.resource.putChild(b"failing", Failing(begins=begins))
    client = bench.client()
    with logged() as events:
        answer = client.ask(GET.replace(b"/status.json", b"/failing"))
    assert len(list(events)) == 1
    assert answers(answer) == ([] if begins else answered)
    assert b"html" not in answer
    assert client.ended is not None if begins else client.write_ended
