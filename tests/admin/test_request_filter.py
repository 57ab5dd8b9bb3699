from __future__ import annotations

import pytest
from twisted.web.http_headers import Headers

from rproxy.admin.request_filter import is_permitted

NAMES = {"front.example"}


def asked(host: bytes | None, *origins: bytes) -> bool:
    return is_permitted(Headers({b"host": [] if host is None else [host], b"origin": origins}), NAMES)


@pytest.mark.parametrize(
    "host",
    [
        *(b"127.0.0.1", b"10.1.1.10:8081", b"[::1]", b"[2001:db8::1]:8081", b"[fe80::1%eth0]:80", b"127.0.0.1:"),
        *(b"localhost", b"LocalHost:8081", b"localhost.", b"front.example", b"FRONT.example.:8081"),
    ],
)
def test_addresses_localhost_and_its_own_name_are_ours(host: bytes) -> None:
    assert asked(host)


@pytest.mark.parametrize(
    "host",
    [
        *(b"evil.example", b"evil.example:8081", b"127.0.0.1.evil.example", b"localhost.evil.example", b"xlocalhost"),
        *(b"", b":80", b"localhost:x", b"localhost:80:80", b"[localhost]", b"[::1", b"::1", b"user@localhost"),
        *(b"localhost, evil.example", b"localhost evil.example", b"\xff", b"0x7f.1", b"2130706433", b"localhost.."),
    ],
)
def test_any_other_name_may_be_a_foreign_page_s(host: bytes) -> None:
    assert not asked(host)


def test_a_program_need_not_say_whom_it_asks() -> None:
    assert asked(None)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (b"localhost:8081", b"http://localhost:8081"),
        (b"LOCALHOST", b"HTTP://localhost"),
        (b"[::1]:8081", b"http://[::1]:8081"),
        (b"front.example", b"https://front.example"),
    ],
)
def test_our_own_page_may_ask(host: bytes, origin: bytes) -> None:
    assert asked(host, origin)


@pytest.mark.parametrize(
    "origin",
    [
        *(
            b"http://evil.example",
            b"null",
            b"",
            b"http://localhost",
            b"http://localhost:8082",
            b"http://127.0.0.1:8081",
        ),
        *(
            b"file://localhost:8081",
            b"http://localhost:8081/",
            b"localhost:8081",
            b"http://localhost:8081.evil.example",
        ),
    ],
)
def test_a_page_of_any_other_origin_may_not(origin: bytes) -> None:
    assert not asked(b"localhost:8081", origin)
    assert not asked(b"localhost:8081", b"http://localhost:8081", origin)


def test_where_no_host_is_named_no_page_may_ask() -> None:
    assert not asked(None, b"http://localhost:8081")
