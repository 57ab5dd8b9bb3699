"""What operators change over HTTP, and who may."""

from __future__ import annotations

import json
import os
from http import HTTPStatus
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from rproxy.admin.access import Access
from rproxy.admin.changes import Changes, ChangingBackends, ChangingSessions
from rproxy.admin.channel import Channel
from rproxy.admin.control import Refusal, Target, Unknown
from rproxy.admin.documents import Query
from rproxy.admin.http_server import AdminSite
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.admin.clients import ServerBench
from tests.admin.test_documents import error, parsed
from tests.fakes import logged, texts

TOKEN = "a-token-of-24-characters"
OTHER = b"another-token-for-a-while"
TOKENS = (TOKEN.encode(), OTHER)
BACKEND = "10.0.0.1:80"
DRAIN = f"/api/backends/default/{BACKEND}/drain"
ROW = {"address": "10.0.0.1", "connections": 3}


class FakeControl:
    """A `Control` that notes what it is told, and fails with `error`."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.pending: Deferred[Any] | None = None

    def _do(self, *told: Any, result: Any = None) -> Deferred[Any]:
        self.told.append(told)
        if self.error is not None:
            return fail(self.error)
        return succeed(result) if self.pending is None else self.pending

    def drain(self, target: Target) -> Deferred[None]:
        return self._do("drain", target)

    def maint(self, target: Target) -> Deferred[None]:
        return self._do("maint", target)

    def ready(self, target: Target) -> Deferred[None]:
        return self._do("ready", target)

    def weigh(self, target: Target, weight: int | None) -> Deferred[None]:
        return self._do("weigh", target, weight)

    def kill(self, session: int) -> Deferred[None]:
        return self._do("kill", session)

    def kill_all(self, target: Target) -> Deferred[int]:
        return self._do("kill_all", target, result=7)

    def shed(self, target: Target, per_s: float) -> Deferred[int]:
        return self._do("shed", target, per_s, result=5)


class Bench(ServerBench):
    """`uid` is that of the client, if it has come by a Unix socket."""

    def __init__(
        self, *, tokens: tuple[bytes, ...] | None = (TOKEN.encode(), OTHER), reads_openly: bool = True
    ) -> None:
        super().__init__()
        self.control = FakeControl()
        self.uid: int | None = None
        self.access = Access(tokens, self.clock.seconds, reads_openly=reads_openly)
        changes = Changes(self.control, lambda target: ROW if target.backend == BACKEND else None)
        listing = Query(("service",), lambda _: iter([b"{}"]), self.work)
        api = type(self.root)()
        api.putChild(b"backends", ChangingBackends(listing, changes, self.access, self.work))
        api.putChild(b"sessions", ChangingSessions(listing, changes, self.access, self.work))
        self.root.putChild(b"api", api)
        self.server = AdminSite(self.root, self.clock, self.work, access=self.access)
        self.server.protocol = self._channel  # type: ignore[assignment]

    def _channel(self) -> Channel:
        channel = Channel()
        channel.peer_uid = lambda: self.uid  # type: ignore[method-assign]
        return channel

    def send(
        self, path: str, *fields: str, method: str = "POST", token: str | None = TOKEN, sent: str = ""
    ) -> tuple[int, Any, bytes]:
        """With `sent` as the body."""
        given = [] if token is None else [f"Authorization: Bearer {token}"]
        given += [f"Content-Length: {len(sent)}"] if sent else []
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *given, *fields, "", sent]
        return parsed(self.client().ask("\r\n".join(lines).encode("latin-1")))

    def post(self, path: str, *fields: str, **options: Any) -> tuple[int, dict[str, Any]]:
        status, _, body = self.send(path, *fields, **options)
        document: dict[str, Any] = json.loads(body)
        return status, document


HERE = Target("default", BACKEND)


@pytest.mark.parametrize(
    ("path", "told", "done", "sessions"),
    [
        ("drain", ("drain", HERE), "10.0.0.1:80 of default gets no new sessions; it has 3 session(s)", 3),
        ("maint", ("maint", HERE), "10.0.0.1:80 of default is in maintenance and gets no new sessions", 3),
        ("ready", ("ready", HERE), "10.0.0.1:80 of default may get sessions again", 3),
        ("weight?value=50", ("weigh", HERE, 50), "10.0.0.1:80 of default has weight 50", 3),
        ("weight", ("weigh", HERE, None), "10.0.0.1:80 of default has its own weight again", 3),
        ("shed?rate=2.5", ("shed", HERE, 2.5), "10.0.0.1:80 of default loses up to 2.5 session(s) a second, of 5", 5),
        ("shed?rate=0", ("shed", HERE, 0.0), "10.0.0.1:80 of default keeps its sessions, of which there are 5", 5),
        ("kill", ("kill_all", HERE), "7 session(s) on 10.0.0.1:80 of default ended", 7),
    ],
)
def test_a_back_end_is_changed(path: str, told: tuple[Any, ...], done: str, sessions: int) -> None:
    bench = Bench()
    with logged() as events:
        status, document = bench.post(f"/api/backends/default/{BACKEND}/{path}")
    assert (status, document["backend"], document["sessions"]) == (HTTPStatus.OK, ROW, sessions)
    assert document["done"].startswith(done)
    assert bench.control.told == [told]
    assert texts(events) == [f"{document['done']}, as 192.168.1.1:54321 has asked"]


@pytest.mark.parametrize("sent", ["value=50", '{"value": 50}', " "])
def test_a_weight_that_is_sent_as_a_body_is_not_taken_for_none(sent: str) -> None:
    bench = Bench()
    status, document = bench.post(f"/api/backends/default/{BACKEND}/weight", sent=sent)
    assert (status, document["error"], bench.control.told) == (
        HTTPStatus.BAD_REQUEST,
        "value must be in the query (weight?value=5): a body is not read",
        [],
    )
    for path in ("weight?value=5", "drain"):
        assert bench.post(f"/api/backends/default/{BACKEND}/{path}", sent=sent)[0] == HTTPStatus.OK


def test_a_session_is_ended() -> None:
    bench = Bench()
    assert bench.post("/api/sessions/77/kill") == (
        HTTPStatus.OK,
        {"done": "session 77 ended", "backend": None, "sessions": 1},
    )
    assert bench.control.told == [("kill", 77)]


@pytest.mark.parametrize(
    ("service", "backend", "target"),
    [
        ("web%2Fmail%20%C3%A9", "10.0.0.1:80", Target("web/mail é", "10.0.0.1:80")),
        ("a+b", "[2001:db8::1]:80", Target("a+b", "[2001:db8::1]:80")),
        ("a", "%5B2001:DB8:0::1%5D%3A80", Target("a", "[2001:db8::1]:80")),
    ],
)
def test_names_may_be_percent_encoded_and_addresses_have_several_forms(
    service: str, backend: str, target: Target
) -> None:
    bench = Bench()
    status, document = bench.post(f"/api/backends/{service}/{backend}/drain")
    assert (status, bench.control.told) == (HTTPStatus.OK, [("drain", target)])
    assert document["done"].endswith(f"it has {3 if target.backend == BACKEND else 0} session(s)")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"backends/a/{BACKEND}/weight?value=0", "value must be a whole number from 1 to 65535"),
        (f"backends/a/{BACKEND}/weight?value=65536", "value must be a whole number from 1 to 65535"),
        (f"backends/a/{BACKEND}/weight?value=", "value must be a whole number from 1 to 65535"),
        (f"backends/a/{BACKEND}/weight?valu=1", "'valu' is no parameter of this: there is value"),
        (f"backends/a/{BACKEND}/drain?now=1", "'now' is no parameter of this: there are none"),
        (f"backends/a/{BACKEND}/shed", "rate must be a number from 0 to 10000"),
        (f"backends/a/{BACKEND}/shed?rate=-1", "rate must be a number from 0 to 10000"),
        (f"backends/a/{BACKEND}/shed?rate=nan", "rate must be a number from 0 to 10000"),
        (f"backends/a/{BACKEND}/shed?rate=1e3", "rate must be a number from 0 to 10000"),
        ("backends/a/host:80/drain", "a back-end must be ADDRESS:PORT, an IPv6 address in brackets"),
        ("backends/a//drain", "a back-end must be ADDRESS:PORT, an IPv6 address in brackets"),
        ("backends/%ff/10.0.0.1:80/drain", "what is asked for is no text in UTF-8"),
        ("sessions/x/kill", "a session must be a whole number from 1 to 1000000000000000"),
        ("sessions/0/kill", "a session must be a whole number from 1 to 1000000000000000"),
        ("sessions/%ff/kill", "what is asked for is no text in UTF-8"),
        ("sessions/1/kill?all=1", "'all' is no parameter of this: there are none"),
    ],
)
def test_what_makes_no_sense_is_said_and_not_done(path: str, said: str) -> None:
    bench = Bench()
    assert bench.post(f"/api/{path}") == (HTTPStatus.BAD_REQUEST, {"error": said})
    assert bench.control.told == []


@pytest.mark.parametrize(
    ("raised", "status"),
    [(Unknown("there is none"), HTTPStatus.NOT_FOUND), (Refusal("not now"), HTTPStatus.CONFLICT)],
)
def test_what_cannot_be_done_is_said(raised: Exception, status: HTTPStatus) -> None:
    bench = Bench()
    bench.control.error = raised
    with logged() as events:
        assert bench.post(DRAIN) == (status, {"error": str(raised)})
    assert list(events) == []


def test_what_fails_is_our_own_error_and_logged() -> None:
    bench = Bench()
    bench.control.error = ValueError("so")
    with logged() as events:
        status, document = bench.post(DRAIN)
    assert (status, list(document)) == (HTTPStatus.INTERNAL_SERVER_ERROR, ["error"])
    assert len(list(events)) == 1


@pytest.mark.parametrize(
    "path",
    [
        *("backends/", "backends/a", f"backends/a/{BACKEND}", f"backends/a/{BACKEND}/", f"backends/a/{BACKEND}/x"),
        *(f"backends/a/b/{BACKEND}/drain", f"backends/a/{BACKEND}/drain/", f"backends/a/{BACKEND}/Drain"),
        *("sessions/", "sessions/1", "sessions/1/drain", "sessions/1/kill/", "sessions/1/2/kill", "services/a"),
    ],
)
def test_other_paths_lead_to_nothing(path: str) -> None:
    assert Bench().post(f"/api/{path}")[0] == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_only_post_changes_anything(method: str) -> None:
    bench = Bench()
    status, headers, _ = bench.send(DRAIN, method=method)
    assert (status, headers.getRawHeaders("allow")) == (HTTPStatus.METHOD_NOT_ALLOWED, ["POST"])
    assert bench.control.told == []


def test_a_post_to_what_is_only_read_is_told_so() -> None:
    status, headers, _ = Bench().send("/api/backends")
    assert (status, headers.getRawHeaders("allow")) == (HTTPStatus.METHOD_NOT_ALLOWED, ["GET, HEAD"])


def test_the_lists_are_served_as_before() -> None:
    assert Bench().send("/api/backends?service=a", method="GET")[::2] == (HTTPStatus.OK, b"{}")


@pytest.mark.parametrize(
    "field",
    [
        *(f"Authorization: Bearer {TOKEN}", f"authorization: bearer   {TOKEN}  ", f"Authorization: BEARER {TOKEN}"),
        f"Authorization: Bearer {OTHER.decode()}",
    ],
)
def test_any_of_the_tokens_is_right(field: str) -> None:
    assert Bench().post(DRAIN, field, token=None)[0] == HTTPStatus.OK


@pytest.mark.parametrize(
    "fields",
    [
        [f"Authorization: Bearer {TOKEN}x"],
        [f"Authorization: Bearer {TOKEN[:-1]}"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        ["Authorization:"],
        [f"Authorization: Basic {TOKEN}"],
        [f"Authorization: {TOKEN}"],
        [f"Authorization: Bearer {TOKEN} {TOKEN}"],
        ["Authorization: Bearer \xff\xfe\x80"],
        [f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {TOKEN}"],
        [f"Authorization: Bearer {TOKEN}, Bearer {TOKEN}"],
        ["Authorization: Bearer " + "x" * 8000],
    ],
)
def test_another_one_is_wrong(fields: list[str]) -> None:
    bench = Bench()
    status, headers, body = bench.send(DRAIN, *fields, token=None)
    assert status == HTTPStatus.UNAUTHORIZED
    assert headers.getRawHeaders("www-authenticate") == ['Bearer realm="rproxy", error="invalid_token"']
    assert error(body) == "this is not the token"
    assert bench.control.told == []


def test_without_a_token_it_is_asked_for() -> None:
    status, headers, body = Bench().send(DRAIN, token=None)
    assert (status, headers.getRawHeaders("www-authenticate")) == (401, ['Bearer realm="rproxy"'])
    assert "Authorization: Bearer" in error(body)
    status, _, _ = Bench().send(DRAIN, f"Cookie: token={TOKEN}", token=None)
    assert status == HTTPStatus.UNAUTHORIZED


def test_where_there_is_no_token_nothing_can_be_changed() -> None:
    bench = Bench(tokens=None)
    status, headers, body = bench.send(DRAIN)
    assert (status, headers.hasHeader("www-authenticate")) == (HTTPStatus.FORBIDDEN, False)
    assert "--admin-token-file" in error(body)
    assert bench.control.told == []


def test_wrong_tokens_are_logged_now_and_then() -> None:
    bench = Bench()
    with logged() as events:
        for _ in range(50):
            bench.post(DRAIN, token="wrong")
        bench.wait(LOG_EVERY_S)
        bench.post(DRAIN, token="wrong")
    (first, _) = texts(events)
    assert first == "a wrong token from 192.168.1.1:54321; more in the next 10 s are not logged"


@pytest.mark.parametrize(("uid", "may"), [(0, True), (os.geteuid(), True), (65534, False)])
@pytest.mark.parametrize("tokens", [None, (OTHER,)])
def test_by_a_unix_socket_roots_and_our_own_users_word_is_enough(
    uid: int, may: bool, tokens: tuple[bytes, ...] | None
) -> None:
    bench = Bench(tokens=tokens)
    bench.uid = uid
    with logged() as events:
        status, _ = bench.post(DRAIN, token=None)
    refused = HTTPStatus.FORBIDDEN if tokens is None else HTTPStatus.UNAUTHORIZED
    assert status == (HTTPStatus.OK if may else refused)
    assert [f"as user {uid} has asked" in text for text in texts(events)] == ([True] if may else [])


def test_where_reading_is_not_open_everything_but_health_asks_for_the_token() -> None:
    bench = Bench(reads_openly=False)
    bench.root.putChild(b"healthz", Query((), lambda _: iter([b"ok"]), bench.work))
    for path in ("/api/backends", "/status.json", "/nothing", "/healthz/x", "/api/sessions/1/kill"):
        status, headers, _ = bench.send(path, method="GET", token=None)
        assert (status, headers.hasHeader("www-authenticate")) == (HTTPStatus.UNAUTHORIZED, True), path
        assert bench.send(path, method="GET")[0] != HTTPStatus.UNAUTHORIZED
    assert bench.send("/healthz", method="GET", token=None)[0] == HTTPStatus.OK
    assert bench.post(DRAIN, token=None)[0] == HTTPStatus.UNAUTHORIZED
    assert bench.post(DRAIN)[0] == HTTPStatus.OK


@pytest.mark.parametrize("field", ["Origin: http://evil.example", "Host: evil.example"])
def test_a_page_of_another_site_changes_nothing_even_with_the_token(field: str) -> None:
    bench = Bench()
    assert bench.post(DRAIN, field)[0] == HTTPStatus.FORBIDDEN
    bench.uid = 0
    assert bench.post(DRAIN, field)[0] == HTTPStatus.FORBIDDEN
    assert bench.control.told == []


def test_the_body_is_ignored_whatever_it_claims_to_be() -> None:
    bench = Bench()
    body = b"value=7"
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=x"):
        lines = f"POST /api/backends/default/{BACKEND}/weight?value=5 HTTP/1.1\r\nHost: localhost\r\n"
        lines += f"Authorization: Bearer {TOKEN}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        assert parsed(bench.client().ask(lines.encode() + body))[0] == HTTPStatus.OK
    assert bench.control.told == [("weigh", HERE, 5)] * 3


def test_who_leaves_before_it_is_done_is_not_answered_and_it_is_logged() -> None:
    bench = Bench()
    pending: Deferred[None] = Deferred()
    bench.control.pending = pending
    client = bench.client()
    client.send(f"POST {DRAIN} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    client.reset()
    with logged() as events:
        pending.callback(None)
    assert [text.endswith("as somebody who has left has asked") for text in texts(events)] == [True]


def test_tokens_may_be_replaced() -> None:
    bench = Bench()
    bench.access.tokens = (b"new-token-of-24-characters",)
    assert bench.post(DRAIN)[0] == HTTPStatus.UNAUTHORIZED
    assert bench.post(DRAIN, token="new-token-of-24-characters")[0] == HTTPStatus.OK
