from __future__ import annotations

from http import HTTPStatus

import pytest

from rproxy.admin.requests import FIELDS_MAX, HEAD_MAX, Refused, Request, head_end, parse

HOST = b"Host: localhost"


def head(*lines: bytes, end: bytes = b"\r\n") -> bytes:
    return end.join([*lines, b"", b""])


def refusal(data: bytes) -> HTTPStatus:
    with pytest.raises(Refused) as caught:
        parse(data)
    return caught.value.status


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_request_is_taken_apart(end: bytes) -> None:
    request = parse(head(b"GET /status.json?a=/b HTTP/1.1", b"hOST:\t127.0.0.1:8081 ", b"Accept: */*", end=end))
    assert request == Request(b"GET", b"/status.json", b"127.0.0.1:8081", (), persistent=True, is_old=False)


@pytest.mark.parametrize(
    ("line", "fields", "persistent"),
    [
        (b"GET / HTTP/1.1", [HOST], True),
        (b"GET / HTTP/1.1", [HOST, b"Connection: Close"], False),
        (b"GET / HTTP/1.1", [HOST, b"Connection: te, close"], False),
        (b"GET / HTTP/1.1", [HOST, b"Connection: te", b"Connection: close"], False),
        (b"GET / HTTP/1.9", [HOST], True),
        (b"GET / HTTP/1.0", [], False),
        (b"GET / HTTP/1.0", [b"Connection: Keep-Alive"], True),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive, close"], False),
    ],
)
def test_whether_the_connection_stays_open(line: bytes, fields: list[bytes], persistent: bool) -> None:
    assert parse(head(line, *fields)).persistent is persistent


def test_a_whole_url_names_whom_it_is_for() -> None:
    request = parse(head(b"GET http://evil.example/status.json?x HTTP/1.1", HOST))
    assert (request.host, request.path) == (b"evil.example", b"/status.json")
    assert parse(head(b"GET HTTP://[::1]:80 HTTP/1.1", HOST)).path == b"/"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"GET / HTTP/1.1"], HTTPStatus.BAD_REQUEST),  # no Host
        ([b"GET / HTTP/1.1", HOST, HOST], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.0", HOST, HOST], HTTPStatus.BAD_REQUEST),
        ([b"GET /"], HTTPStatus.BAD_REQUEST),
        ([b"G{T / HTTP/1.1", HOST], HTTPStatus.BAD_REQUEST),
        ([b"GET  / HTTP/1.1", HOST], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1 ", HOST], HTTPStatus.BAD_REQUEST),
        ([b"GET / x HTTP/1.1", HOST], HTTPStatus.BAD_REQUEST),
        ([b"GET / http/1.1", HOST], HTTPStatus.BAD_REQUEST),
        ([b"PRI * HTTP/2.0"], HTTPStatus.HTTP_VERSION_NOT_SUPPORTED),
        ([b"GET / HTTP/1.1", b"Host : localhost"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b" folded"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b"no colon"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b": no name"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b"X: \0"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b"X: a\rb"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", *[HOST] * (FIELDS_MAX + 1)], HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        ([b"GET / HTTP/1.1", HOST, b"Content-Length: 1"], HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        ([b"GET / HTTP/1.1", HOST, b"Content-Length: " + b"9" * 5000], HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        ([b"GET / HTTP/1.1", HOST, b"Content-Length: -1"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b"Content-Length: +1"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b"Content-Length: 0, 0"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b"Content-Length:"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b"Content-Length: 0", b"Content-Length: 0"], HTTPStatus.BAD_REQUEST),
        ([b"GET / HTTP/1.1", HOST, b"Transfer-Encoding: chunked"], HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        ([b"GET / HTTP/1.1", HOST, b"transfer-encoding: identity"], HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        (
            [b"GET / HTTP/1.1", HOST, b"Content-Length: 0", b"Transfer-Encoding: chunked"],
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ),
    ],
)
def test_what_is_malformed_or_has_a_body_is_refused(lines: list[bytes], status: HTTPStatus) -> None:
    assert refusal(head(*lines)) is status


@pytest.mark.parametrize("length", [b"0", b"00"])
def test_a_body_of_no_length_is_none(length: bytes) -> None:
    assert parse(head(b"GET / HTTP/1.1", HOST, b"Content-Length: " + length)).method == b"GET"


def test_a_head_ends_with_an_empty_line_wherever_it_is_cut() -> None:
    for whole in (head(b"GET / HTTP/1.1", HOST), head(b"GET / HTTP/1.1", HOST, end=b"\n")):
        searched = 0
        for size in range(len(whole)):
            assert head_end(whole[:size], searched) == 0
            searched = size
        assert head_end(whole + b"GET /more", searched) == len(whole)


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"\0", b" GET", b"\xff"])
def test_what_begins_like_no_request_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        head_end(data)
    assert caught.value.status is HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("data", [b"G" * (HEAD_MAX + 1), b"G" * HEAD_MAX + b"\r\n\r\n"])
def test_a_head_is_bounded(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        head_end(data)
    assert caught.value.status is HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


def test_a_head_may_be_as_long_as_that() -> None:
    assert head_end(b"G" * (HEAD_MAX - 4) + b"\r\n\r\n") == HEAD_MAX
    assert head_end(b"G" * HEAD_MAX) == 0
