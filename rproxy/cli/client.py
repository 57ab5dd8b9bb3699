"""A client of a proxy's HTTP listener, over TCP or a UNIX socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import attrs

from rproxy.cli.figures import printable
from rproxy.net.addresses import written

DEFAULT_URL: Final = "http://127.0.0.1:8404"
DEFAULT_PORT: Final = 8404
ANSWER_S: Final = 15.0
"""For a whole answer."""
ANSWER_MAX: Final = 1 << 28
"""Bytes. A row takes less than 1 KiB."""
UNIX: Final = "unix:"
_PATHS: Final = ("", "/status.json")
"""Those that a URL may have; the proxy's log shows the last one."""
Query = Mapping[str, object]
"""Parameters; those that are None are left out."""


class Failure(Exception):
    """A command cannot be done. The text is one line for the operator: what is wrong, and what to do."""


@attrs.frozen
class Place:
    """Where a proxy's HTTP listener is."""

    host: str = ""
    """Empty for a UNIX socket."""
    port: int = 0
    path: str = ""
    """Of a UNIX socket."""

    def __str__(self) -> str:
        return f"{UNIX}{self.path}" if self.path else f"http://{written((self.host, self.port))}"


def place_of(url: str) -> Place:
    """Of ``http://HOST[:PORT]``, ``HOST[:PORT]`` or ``unix:PATH``. Raises `Failure`."""
    if url.startswith(UNIX):
        path = url.removeprefix(UNIX)
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path or "\0" in path:
            raise Failure(f"{url!r} names no socket: give unix:PATH")
        return Place(path=path)
    try:
        split = urlsplit(url if "://" in url else f"//{url}", "http")
        host, port = split.hostname, split.port
    except ValueError as error:
        raise Failure(f"{url!r} is no URL: {error}") from None
    if split.scheme != "http":
        raise Failure(f"{url!r}: a proxy is asked at http://HOST:PORT or unix:PATH")
    is_printed = printable(url) == url and not any(map(str.isspace, url))
    if (
        not host
        or split.username is not None
        or split.path.rstrip("/") not in _PATHS
        or split.query
        or split.fragment
        or not is_printed
    ):
        raise Failure(f"{url!r} is no address of a proxy: give http://HOST:PORT or unix:PATH")
    return Place(host, DEFAULT_PORT if port is None else port)


class Client:
    """Asks one proxy. Each request has a connection of its own: there are few, and a proxy may be restarted between."""

    def __init__(self, place: Place, token: str | None = None, answer_s: float = ANSWER_S) -> None:
        self.place = place
        self._token = token
        self._answer_s = answer_s

    def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        """The JSON object at `path`. Raises `Failure`."""
        return self._object(self.text(path, query))

    def rows(self, path: str, key: str, query: Query | None = None) -> list[dict[str, Any]]:
        """The list of objects that the document at `path` has under `key`. Raises `Failure`."""
        return rows_of(self.get(path, query), key, self.place)

    def text(self, path: str, query: Query | None = None) -> bytes:
        """What is at `path`, as it was sent. Raises `Failure`."""
        return self._ask("GET", path, query or {})

    def post(self, path: str, query: Query | None = None) -> dict[str, Any]:
        """Have the proxy do something; what it answers. Raises `Failure`."""
        return self._object(self._ask("POST", path, query or {}))

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise Failure(f"{self.place}: no rproxy answers there: the answer is not JSON") from None
        if not isinstance(document, dict):
            raise Failure(f"{self.place}: no rproxy answers there: the answer is no JSON object")
        return document

    def _ask(self, method: str, path: str, query: Query) -> bytes:
        given = {name: value for name, value in query.items() if value is not None}
        target = quote(path, safe="/%") + (f"?{urlencode(given, quote_via=quote)}" if given else "")
        headers = {"Connection": "close"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = _connection(self.place, self._answer_s)
        try:
            connection.request(method, target, headers=headers)
            response = connection.getresponse()
            body = _body(response, time.monotonic() + self._answer_s)
        except TimeoutError:
            raise Failure(f"{self.place}: no answer within {self._answer_s:g} s") from None
        except OSError as error:
            raise Failure(_unreachable(self.place, error)) from None
        except (HTTPException, ValueError) as error:  # ValueError: a host that cannot be a name, or a broken header
            raise Failure(
                f"{self.place}: no HTTP is spoken there ({printable(error) or type(error).__name__})"
            ) from None
        finally:
            connection.close()
        if response.status != HTTPStatus.OK:
            raise Failure(self._refused(response, path, body))
        return body

    def _refused(self, response: HTTPResponse, path: str, body: bytes) -> str:
        """Why, in one line."""
        reason = _error(body)
        status = response.status
        if status == HTTPStatus.UNAUTHORIZED:
            do = "give --token-file FILE" if self._token is None else "the token of --token-file is not the proxy's"
            return f"{self.place}: it asks for a token; {do}"
        if reason:
            return reason
        if status == HTTPStatus.NOT_FOUND:
            return f"{self.place}: it has no {path}: is it an rproxy, and as new as this command?"
        if status == HTTPStatus.FORBIDDEN:
            return f"{self.place}: forbidden; name the proxy by its IP address, or as its --admin option does"
        return f"{self.place}: it answers {status} {printable(response.reason)}"


def rows_of(document: Mapping[str, Any], key: str, place: Place) -> list[dict[str, Any]]:
    """The list of objects under `key`. Raises `Failure` if there is none."""
    rows = document.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Failure(f"{place}: the answer has no list of {key}: is it an rproxy, and as new as this command?")
    return rows


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(place: Place, timeout_s: float) -> HTTPConnection:
    if place.path:
        return _UnixConnection(place.path, timeout_s)
    return HTTPConnection(place.host, place.port, timeout=timeout_s)


def _body(response: HTTPResponse, deadline: float) -> bytes:
    """The whole body. Raises `OSError` and `HTTPException`."""
    pieces, size = [], 0
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > ANSWER_MAX:
            raise HTTPException(f"more than {ANSWER_MAX >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:  # read1 ends without a word where the connection does
        raise HTTPException("the answer is cut off")
    return b"".join(pieces)


def _error(body: bytes) -> str:
    """The message of an error's document in one line; empty if it is none."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return printable(error) if isinstance(error, str) else ""


def _unreachable(place: Place, error: OSError) -> str:
    reason = printable(error.strerror or error)
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        other = "RPROXY_URL or --url names another place"
        return f"{place}: {reason}; does a proxy run there, with --admin? {other}"
    if isinstance(error, PermissionError) and place.path:
        return f"{place}: {reason}; its socket is for root and the proxy's user"
    return f"{place}: {reason}"
