"""Heads of HTTP requests (RFC 9112), as far as operators' programs need them: there are no bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import attrs

HEAD_MAX: Final = 16384
"""Bytes."""
FIELDS_MAX: Final = 100

_END: Final = re.compile(rb"\r?\n\r?\n")
_END_MAX: Final = 4
_LINE: Final = re.compile(rb"\r?\n")
_TOKEN: Final = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)"
_REQUEST: Final = re.compile(_TOKEN + rb" (\S+) HTTP/([0-9])\.([0-9])")
_FIELD: Final = re.compile(_TOKEN + rb":([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)


class Refused(Exception):
    """A request that is not to be answered with what it asks for, but with this status."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@attrs.frozen
class Request:
    """One request's head. `host` is whom it names, None where it names nobody, as HTTP/1.0 may."""

    method: bytes
    path: bytes
    host: bytes | None
    origins: tuple[bytes, ...]
    persistent: bool
    """Whether the connection is to stay open."""
    is_old: bool
    """Whether it is HTTP/1.0, whose clients must be told that it does."""


def head_end(received: bytes, searched: int = 0) -> int:
    """Where the head that `received` begins with ends, or 0 if it goes on. `searched` bytes are known to lack its end.

    Raises `Refused` where no head begins so, or if it is too long.
    """
    if received and not received[:1].isalpha():
        raise Refused(HTTPStatus.BAD_REQUEST)  # as what begins a TLS session
    found = _END.search(received, max(0, searched - _END_MAX + 1))
    end = found.end() if found else 0
    if (end or len(received)) > HEAD_MAX:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    return end


def parse(head: bytes) -> Request:
    """Raises `Refused` where it is malformed, or announces a body."""
    line, *lines = _LINE.split(head.rstrip(b"\r\n"))
    request = _REQUEST.fullmatch(line)
    if request is None:
        raise Refused(HTTPStatus.BAD_REQUEST)
    method, target, major, minor = request.groups()
    if major != b"1":
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    fields = _fields(lines)
    is_old = minor == b"0"
    hosts = fields.get(b"host", [])
    if len(hosts) > 1 or not (hosts or is_old):
        raise Refused(HTTPStatus.BAD_REQUEST)
    _demand_no_body(fields)
    host = hosts[0] if hosts else None
    if absolute := _ABSOLUTE.fullmatch(target):  # which names whom it is for, whatever Host says
        host, target = absolute[1], absolute[2] or b"/"
    options = {word.strip().lower() for value in fields.get(b"connection", []) for word in value.split(b",")}
    persistent = b"close" not in options and (not is_old or b"keep-alive" in options)
    return Request(method, target.partition(b"?")[0], host, tuple(fields.get(b"origin", [])), persistent, is_old)


def _fields(lines: list[bytes]) -> Mapping[bytes, list[bytes]]:
    """By name in small letters."""
    if len(lines) > FIELDS_MAX:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise Refused(HTTPStatus.BAD_REQUEST)
        fields.setdefault(field[1].lower(), []).append(field[2].strip(b" \t"))
    return fields


def _demand_no_body(fields: Mapping[bytes, list[bytes]]) -> None:
    lengths = fields.get(b"content-length", [])
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise Refused(HTTPStatus.BAD_REQUEST)
    if b"transfer-encoding" in fields or any(length.strip(b"0") for length in lengths):
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
