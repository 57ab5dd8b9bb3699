"""Answers that are rendered while they are read, and errors: one line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import pytest
from twisted.web.http_headers import Headers

from rproxy.admin.documents import Document, Query
from rproxy.admin.health import Health
from rproxy.admin.snapshots import Snapshots
from rproxy.observe.parameters import BadParameter, Missing
from tests.admin.clients import Client, ServerBench
from tests.fakes import logged, turn


def get(path: str, *, method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()


def parsed(answer: bytes) -> tuple[int, Headers, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.split(b"\r\n")
    headers = Headers()
    for field in fields:
        name, _, value = field.partition(b": ")
        headers.addRawHeader(name, value)
    if headers.getRawHeaders("transfer-encoding") == ["chunked"]:
        whole, rest = b"", body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            whole, rest = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        body = whole
    return int(status.split()[1]), headers, body


class QueryBench(ServerBench):
    """`/list` yields the parameters and then `pieces`."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes | Exception] = []
        self.rendered = 0
        self.root.putChild(b"list", Query(("name", "limit"), self._render, self.work))
        self.server.resource = self.root

    def _render(self, parameters: Mapping[str, str]) -> Iterator[bytes]:
        for piece in [json.dumps(dict(parameters)).encode(), *self.pieces]:
            if isinstance(piece, Exception):
                raise piece
            self.rendered += 1
            yield piece

    def ask(self, path: str, **options: Any) -> tuple[int, bytes]:
        status, _, body = parsed(self.client().ask(get(path, **options)))
        return status, body


def error(body: bytes) -> str:
    document = json.loads(body)
    assert list(document) == ["error"]
    assert "\n" not in document["error"]
    return str(document["error"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("?", {}),
        ("?name=a%20b%2Fc&limit=", {"name": "a b/c"}),
        ("?name=a+b&&limit=5&", {"name": "a b", "limit": "5"}),
        ("?name=%C3%A9=1", {"name": "é=1"}),
        ("?n%61me=x?y", {"name": "x?y"}),
    ],
)
def test_parameters_are_those_of_the_query(query: str, expected: dict[str, str]) -> None:
    status, body = QueryBench().ask(f"/list{query}")
    assert (status, json.loads(body)) == (HTTPStatus.OK, expected)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?nome=1", "'nome' is no parameter of this: there are name, limit"),
        ("?name=1&name=2", "name is given twice"),
        ("?name=%ff", "what is asked for is no text in UTF-8"),
        ("?%0d%0aX:1=1", "'\\r\\nX:1' is no parameter of this: there are name, limit"),
    ],
)
def test_what_is_no_parameter_is_said(query: str, said: str) -> None:
    status, body = QueryBench().ask(f"/list{query}")
    assert (status, error(body)) == (HTTPStatus.BAD_REQUEST, said)


@pytest.mark.parametrize("strict", [False, True])
def test_a_document_without_parameters_ignores_a_query_or_says_that_it_is_wrong(strict: bool) -> None:
    bench = QueryBench()
    snapshots = Snapshots(lambda: iter((b"[]",)), bench.work, bench.clock.seconds)
    bench.root.putChild(b"all", Document("application/json", snapshots, bench.work, strict=strict))
    assert bench.ask("/all?") == (HTTPStatus.OK, b"[]")
    status, body = bench.ask("/all?service=web")
    if strict:
        assert (status, error(body)) == (
            HTTPStatus.BAD_REQUEST,
            "'service' is no parameter of this: there are none",
        )
    else:
        assert (status, body) == (HTTPStatus.OK, b"[]")


@pytest.mark.parametrize(
    ("raised", "status"), [(BadParameter("so"), HTTPStatus.BAD_REQUEST), (Missing("so"), HTTPStatus.NOT_FOUND)]
)
def test_what_the_document_cannot_be_made_of_is_said(raised: Exception, status: HTTPStatus) -> None:
    bench = QueryBench()

    def fail(_: Mapping[str, str]) -> Iterator[bytes]:
        raise raised
        yield b""

    bench.root.putChild(b"failing", Query((), fail, bench.work))
    assert bench.ask("/failing") == (status, b'{"error": "so"}\n')


def test_pieces_are_rendered_as_the_client_reads_and_empty_ones_are_pauses() -> None:
    bench = QueryBench()
    bench.pieces = [b"", b"", bytes(1000), b"", *([bytes(1000)] * 50)]
    client = bench.client()
    client.stalled = True
    client.send(get("/list"))
    assert bench.rendered == 1
    client.unstall()
    client.settle()
    assert parsed(client.take())[2] == b"{}" + 51 * bytes(1000)
    assert bench.rendered == 55


def test_one_piece_is_rendered_in_each_turn() -> None:
    bench = QueryBench()
    bench.pieces = [b""] * 20
    clients = [bench.client() for _ in range(5)]
    for client in clients:
        client.receive(get("/list"))
    while bench.rendered < 5 * 21:
        before = bench.rendered
        turn(bench.clock)
        assert bench.rendered - before <= 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_head_request_has_no_body_but_the_same_head(version: str) -> None:
    bench = QueryBench()
    status, headers, body = parsed(bench.client().ask(get("/list", method="HEAD", version=version)))
    assert (status, body) == (HTTPStatus.OK, b"")
    assert headers.getRawHeaders("content-type") == ["application/json"]


def test_an_old_client_gets_it_without_chunks_and_the_end_with_the_connection() -> None:
    bench = QueryBench()
    bench.pieces = [b"more"]
    client = bench.client()
    answer = client.ask(get("/list", version="1.0"))
    assert answer.endswith(b"\r\n\r\n{}more")
    assert client.write_ended


def test_a_document_that_fails_in_the_middle_ends_the_connection() -> None:
    bench = QueryBench()
    bench.pieces = [b"more", ValueError("so")]
    client = bench.client()
    with logged() as events:
        answer = client.ask(get("/list"))
    assert not answer.endswith(b"0\r\n\r\n")
    assert client.ended is not None
    assert len(list(events)) == 1


def test_one_that_fails_at_once_is_our_own_error() -> None:
    bench = QueryBench()

    def fail(_: Mapping[str, str]) -> Iterator[bytes]:
        raise ValueError
        yield b""

    bench.root.putChild(b"failing", Query((), fail, bench.work))
    with logged():
        status, body = bench.ask("/failing")
    assert status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "log" in error(body)


@pytest.mark.parametrize("path", ["/", "/x", "/list/x", "/%ff", "//", "/list/"])
def test_what_there_is_not_is_said_as_json(path: str) -> None:
    status, body = QueryBench().ask(path)
    assert status == HTTPStatus.NOT_FOUND
    assert "rproxy docs api" in error(body)


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "PUT", "get", "TRACE"])
def test_what_cannot_be_done_is_said_with_what_can(method: str) -> None:
    client = QueryBench().client()
    status, headers, body = parsed(client.ask(get("/list", method=method)))
    assert (status, headers.getRawHeaders("allow")) == (HTTPStatus.METHOD_NOT_ALLOWED, ["GET, HEAD"])
    assert error(body) == "only GET and HEAD can be asked here"


def test_health_is_one_word_or_the_faults_in_lines() -> None:
    bench = QueryBench()
    faults: list[str] = []
    bench.root.putChild(b"readyz", Health("ready", lambda: faults))
    assert bench.ask("/readyz") == (HTTPStatus.OK, b"ready\n")
    faults += ["web: so", "mail: so"]
    assert bench.ask("/readyz") == (HTTPStatus.SERVICE_UNAVAILABLE, b"web: so\nmail: so\n")
    assert bench.ask("/readyz", method="HEAD") == (HTTPStatus.SERVICE_UNAVAILABLE, b"")
    assert bench.ask("/readyz", method="POST")[0] == HTTPStatus.METHOD_NOT_ALLOWED


def test_a_client_that_is_reset_while_it_is_answered_leaves_nothing() -> None:
    for turns in range(10):
        bench = QueryBench()
        bench.pieces = [b"", b"x", b"", b"x"]
        client: Client = bench.client()
        client.receive(get("/list"))
        for _ in range(turns):
            turn(bench.clock)
        client.reset()
        client.settle()
        assert not bench.clock.getDelayedCalls()
