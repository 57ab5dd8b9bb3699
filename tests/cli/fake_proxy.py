"""A proxy's documents, and a small HTTP server that has them, for the operators' commands."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from rproxy.cli.client import Client, Place, Query

PLACE: Final = Place("127.0.0.1", 8404)
TOKEN: Final = "correct-horse"


def row(address: str = "10.1.1.1", port: int = 80, service: str = "default", **figures: Any) -> dict[str, Any]:
    """Of a back-end, as `/status.json` has it."""
    return {
        "address": address,
        "port": port,
        "state": "up",
        "passed_over": "",
        "score": 0.123456,
        "terms": {"rate": 1.0},
        "report_score": 12.5,
        "rtt_ms": 0.412,
        "srtt_ms": None,
        "loss": 0.0,
        "tcp": 31,
        "cpu": 12,
        "memory": 34,
        "load": None,
        "others": None,
        "weight": 100,
        "own_weight": 100,
        "share": 1.0,
        "interval_s": 20.0,
        "check": "agent",
        "said": "",
        "connections": 7,
        "max_connections": None,
        "total": 1234,
        "last_seen_s": 1.5,
        "bytes_up": 2048,
        "bytes_down": 3_500_000,
        "report_age": 1.5,
        "since": 3725.0,
        "eligible": True,
        "full": False,
        "administration": "ready",
        "service": service,
        **figures,
    }


def service(name: str = "default", **figures: Any) -> dict[str, Any]:
    """As `/status.json` has it."""
    return {
        "name": name,
        "leaving": False,
        "panic": False,
        "known": 2,
        "eligible": 1,
        "sessions": 7,
        "full": 0,
        "waiting": 0,
        "waiting_s": 0.0,
        "counters": {"sessions": {"closed": 40, "idle": 2}, "refused": {"deny": 3}, "bytes": {"up": 10, "down": 20}},
        **figures,
    }


def status(*rows: dict[str, Any], services: tuple[dict[str, Any], ...] = (), **figures: Any) -> dict[str, Any]:
    """`/status.json`."""
    return {
        "backends": list(rows),
        "services": list(services) or [service()],
        "connections": {"now": 7, "max": 9828},
        "version": "0.1.0",
        "pid": 4711,
        "doubts": [],
        **figures,
    }


class Canned(Client):
    """A client that gets these documents, by path. What it was asked is in `asked`."""

    def __init__(self, documents: Mapping[str, Any]) -> None:
        super().__init__(PLACE)
        self.documents = dict(documents)
        self.asked: list[tuple[str, str, dict[str, object]]] = []

    def text(self, path: str, query: Query | None = None) -> bytes:
        return self._answer("GET", path, query)

    def post(self, path: str, query: Query | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._answer("POST", path, query))
        return answer

    def _answer(self, method: str, path: str, query: Query | None) -> bytes:
        self.asked.append((method, path, dict(query or {})))
        found = self.documents[path]
        if isinstance(found, list):  # one after the other, the last one again and again
            found = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(found, Exception):
            raise found
        return json.dumps(found).encode()


class _Handler(BaseHTTPRequestHandler):
    server: FakeProxy

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class has it
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        split = urlsplit(self.path)
        path, query = unquote(split.path), dict(parse_qsl(split.query))
        self.server.asked.append((self.command, self.path))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        status, body = self.server.answer(self.command, path, query, self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class FakeProxy(HTTPServer):
    """Serves `documents` by path, each a JSON document, or a status and a body; changes ask for `TOKEN`."""

    daemon_threads = True

    def __init__(self, documents: Mapping[str, Any], host: str = "127.0.0.1", path: Path | None = None) -> None:
        self.documents = dict(documents)
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.address_family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__(str(path) if path else (host, 0), _Handler)  # type: ignore[arg-type]
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[Any, Any]:
        connection, _ = super().get_request()
        return connection, ("", 0)

    def answer(self, method: str, path: str, query: dict[str, str], token: str | None) -> tuple[int, bytes]:
        if method == "POST" and token != f"Bearer {TOKEN}":
            return 401, b'{"error": "changing anything needs the token"}'
        found = self.documents.get(path, (404, b'{"error": "there is no such thing"}'))
        if isinstance(found, tuple):
            return found
        return 200, json.dumps(found).encode()

    @property
    def url(self) -> str:
        if self.address_family == socket.AF_UNIX:
            return f"unix:{self.server_address!s}"
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
