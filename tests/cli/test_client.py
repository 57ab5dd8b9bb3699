"""The client of a proxy's HTTP listener, at servers of many kinds."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rproxy.cli.client import Client, Failure, Place, place_of
from tests.cli.fake_proxy import PLACE, TOKEN, FakeProxy
from tests.integration.polling import in_background


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://127.0.0.1:8404", Place("127.0.0.1", 8404)),
        ("http://127.0.0.1:8404/", Place("127.0.0.1", 8404)),
        ("http://127.0.0.1:8404//", Place("127.0.0.1", 8404)),
        ("http://127.0.0.1:81/status.json", Place("127.0.0.1", 81)),
        ("HTTP://Front:8404", Place("front", 8404)),
        ("http://front", Place("front", 8404)),
        ("front", Place("front", 8404)),
        ("10.1.1.10:81", Place("10.1.1.10", 81)),
        ("[::1]:81", Place("::1", 81)),
        ("http://[fe80::1%2]:81", Place("fe80::1%2", 81)),
        ("unix:/run/rproxy/admin.sock", Place(path="/run/rproxy/admin.sock")),
        ("unix:///run/admin.sock", Place(path="/run/admin.sock")),
        ("unix:admin.sock", Place(path="admin.sock")),
    ],
)
def test_a_place_is_named_by_a_url(url: str, place: Place) -> None:
    assert place_of(url) == place


@pytest.mark.parametrize(
    "url",
    ["", "unix:", "https://front", "ftp://front", "http://", "http://front:port", "http://front:70000", "http://u@front",
     "http://front/other", "http://front/?x", "http://front/#x", ":8404", "http://[::1", "unix:/a\0b", "fr ont:8\n",
     "::1", "http://fr ont", "http://fr\u00a0ont:8"],
)  # fmt: skip
def test_what_is_no_place_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(Failure) as failed:
        place_of(url)
    assert len(str(failed.value).splitlines()) == 1


def test_a_place_is_written_as_it_is_named() -> None:
    for url in ("http://127.0.0.1:8404", "http://[::1]:81", "unix:/run/x"):
        assert str(place_of(url)) == url


@pytest.mark.parametrize("kind", ["127.0.0.1", "::1", "unix"])
def test_documents_come_over_tcp_and_unix_sockets(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "admin.sock" if kind == "unix" else None
    with FakeProxy({"/x y": {"rows": [{"a": 1}]}}, "127.0.0.1" if path else kind, path) as proxy:
        client = Client(place_of(proxy.url))
        assert client.rows("/x y", "rows", {"name": "ä/&", "none": None, "number": 0}) == [{"a": 1}]
    assert proxy.asked == [("GET", "/x%20y?name=%C3%A4%2F%26&number=0")]
    assert "authorization" not in proxy.headers[0]


def test_a_token_is_sent_with_every_request() -> None:
    with FakeProxy({"/do": {"done": "it is done"}}) as proxy:
        client = Client(place_of(proxy.url), TOKEN)
        assert client.post("/do", {"value": 5}) == {"done": "it is done"}
        client.get("/do")
    assert proxy.asked == [("POST", "/do?value=5"), ("GET", "/do")]
    assert [headers["authorization"] for headers in proxy.headers] == [f"Bearer {TOKEN}"] * 2


@pytest.mark.parametrize(
    ("answer", "token", "expected"),
    [
        ((401, b'{"error": "reading needs the token"}'), None, ": it asks for a token; give --token-file FILE"),
        ((401, b""), None, "it asks for a token; give --token-file FILE"),
        ((401, b""), "wrong", "it asks for a token; the token of --token-file is not the proxy's"),
        (
            (404, b'{"error": "no back-end 10.1.1.3:80; near: 10.1.1.2:80"}'),
            None,
            "no back-end 10.1.1.3:80; near: 10.1",
        ),
        ((404, b"<html>"), None, "it has no /x: is it an rproxy, and as new as this command?"),
        ((403, b"<html>"), None, "name the proxy by its IP address"),
        ((409, b'{"error": "it is\\n\\u001b[31m gone"}'), None, "it is \\x1b[31m gone"),
        ((400, b'{"error": ["x"]}'), None, "it answers 400 Bad Request"),
        ((302, b""), None, "it answers 302 Found"),
        ((500, b"[[[["), None, "it answers 500 Internal Server Error"),
        ((200, b"<html>"), None, "the answer is not JSON"),
        ((200, b"[" * 100_000), None, "the answer is not JSON"),
        ((200, b"\xff\xfe"), None, "the answer is not JSON"),
        ((200, b"[1]"), None, "the answer is no JSON object"),
        ((200, b"{}"), None, "the answer has no list of rows"),
        ((200, b'{"rows": {}}'), None, "the answer has no list of rows"),
        ((200, b'{"rows": [1]}'), None, "the answer has no list of rows"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(answer: tuple[int, bytes], token: str | None, expected: str) -> None:
    with FakeProxy({"/x": answer}) as proxy, pytest.raises(Failure) as failed:
        Client(place_of(proxy.url), token).rows("/x", "rows")
    assert expected in str(failed.value)
    assert len(str(failed.value).splitlines()) == 1
    assert str(failed.value).isprintable()


def test_where_nobody_listens_it_is_said_what_to_look_at(tmp_path: Path) -> None:
    for url in (f"http://127.0.0.1:{unused_port()}", f"unix:{tmp_path}/none"):
        with pytest.raises(Failure, match=r"does a proxy run there, with --admin\? RPROXY_URL or --url names another"):
            Client(place_of(url)).get("/x")


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Place("no-such-host.invalid", 8404), "http://no-such-host.invalid:8404: "),
        (Place("x" * 300, 8404), "http://xxx"),
        (Place(path="/" + "x" * 200), "unix:/xxx"),
        (Place(path="/dev/null"), "unix:/dev/null: Connection refused"),
    ],
)
def test_a_place_that_cannot_be_reached_is_one_line(place: Place, expected: str) -> None:
    with pytest.raises(Failure) as failed:
        Client(place).get("/x")
    assert str(failed.value).startswith(expected)
    assert len(str(failed.value).splitlines()) == 1


def served(answer: Callable[[socket.socket], Any]) -> str:
    """The URL of a server that takes one connection, reads a request and does this."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            answer(connection)

    in_background(serve)
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", "closed connection without response"),
        (b"SSH-2.0-OpenSSH_9\r\n", "no HTTP is spoken there"),
        (b"\x15\x03\x01\x00\x02", "no HTTP is spoken there"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "the answer is cut off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "no HTTP is spoken there"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", None),
        (b"HTTP/1.0 200 OK\r\n\r\n{}", None),
    ],
)
def test_whatever_listens_there_is_answered_with_a_line(sent: bytes, expected: str | None) -> None:
    client = Client(place_of(served(lambda connection: connection.sendall(sent))))
    if expected is None:
        assert client.get("/x") == {}
        return
    with pytest.raises(Failure) as failed:
        client.get("/x")
    assert expected in str(failed.value)
    assert str(failed.value).isprintable()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_one_that_says_nothing_more_is_not_waited_for(sent: bytes) -> None:
    over = socket.socketpair()

    def answer(connection: socket.socket) -> None:
        connection.sendall(sent)
        over[1].recv(1)

    client = Client(place_of(served(answer)), answer_s=0.05)
    with pytest.raises(Failure, match=r"no answer within 0\.05 s"):
        client.get("/x")
    over[0].close()


def test_a_document_of_many_rows_is_read_whole() -> None:
    rows = [{"number": number, "text": "x" * 100} for number in range(5000)]
    with FakeProxy({"/x": {"rows": rows}}) as proxy:
        assert Client(place_of(proxy.url)).rows("/x", "rows") == json.loads(json.dumps(rows))
    assert str(PLACE) == "http://127.0.0.1:8404"
