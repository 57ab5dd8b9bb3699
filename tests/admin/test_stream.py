"""Server-sent events: made once for all who listen, and nobody makes others wait or memory grow."""

from __future__ import annotations

import json
import socket
from http import HTTPStatus
from typing import Any

import attrs
import pytest
from twisted.internet.error import ConnectionAborted

from rproxy.admin import stream
from rproxy.admin.channel import ANSWER_S, LINGER_BYTES, VANISHED_S
from rproxy.admin.stream import BEHIND_MAX, EVERY_S, KEEP_ALIVE_S, STALLED_S, Stream, Streams
from rproxy.observe.event_list import ROWS as EVENTS
from rproxy.observe.history import KEPT, History
from rproxy.observe.status_json import ROWS
from rproxy.pool.backend import Backend
from rproxy.pool.pool import Pool
from tests.admin.clients import Client, ServerBench
from tests.admin.test_documents import get, parsed
from tests.fakes import logged, turn
from tests.observe.test_status_json import view_with

GET = get("/stream")
MOST = 4


class StreamBench(ServerBench):
    def __init__(self, up: int = 3) -> None:
        super().__init__()
        self.view = view_with(up)
        self.looks = 0
        self.history = History(self.clock.seconds)
        self.streams = Streams(self._views, self.history, self.work, self.clock, most=MOST, began="abc")
        self.root.putChild(b"stream", Stream(self.streams))

    def _views(self) -> list[Any]:
        self.looks += 1
        return [self.view]

    @property
    def pool(self) -> Pool:
        return self.view.service.pool

    def listen(self, request: bytes = GET) -> Client:
        client = self.client()
        client.send(request)
        return client

    def note(self, number: int = 1) -> None:
        for _ in range(number):
            self.history.note("default", "10.0.0.1:80", "down", "so")


def events(client: Client) -> list[tuple[str, Any]]:
    """What has come since the last time."""
    client.settle()
    data = client.take()
    if data.startswith(b"HTTP/"):
        data = data.partition(b"\r\n\r\n")[2]
    body = parsed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)[2]
    found = []
    for block in filter(None, body.decode().split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def kinds(client: Client) -> list[str]:
    return [kind for kind, _ in events(client)]


def test_a_listener_gets_everything_first_and_then_what_changes() -> None:
    bench = StreamBench()
    client = bench.listen()
    ((kind, status),) = events(client)
    assert kind == "status"
    assert [row["address"] for row in status["backends"]] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert status["services"] == [bench.view.totals()]
    bench.wait(5 * EVERY_S)
    assert events(client) == []
    chosen = bench.pool.choose(3.0)
    assert chosen is not None
    bench.wait(EVERY_S)
    ((kind, status),) = events(client)
    assert [row["address"] for row in status["backends"]] == [chosen.address]


def test_the_head_is_that_of_a_stream() -> None:
    bench = StreamBench()
    client = bench.listen()
    status, headers, body = parsed(client.take())
    assert (status, headers.getRawHeaders("content-type")) == (HTTPStatus.OK, ["text/event-stream"])
    assert headers.getRawHeaders("cache-control") == ["no-store"]
    assert headers.getRawHeaders("x-accel-buffering") == ["no"]
    assert body.startswith(b"retry: 2000\n\nevent: status\ndata: {")
    head = bench.client().ask(get("/stream", method="HEAD"))
    assert parsed(head)[1].getRawHeaders("content-type") == ["text/event-stream"]
    assert parsed(bench.client().ask(get("/stream", method="POST")))[0] == HTTPStatus.METHOD_NOT_ALLOWED
    assert parsed(bench.client().ask(get("/stream?service=web")))[0] == HTTPStatus.BAD_REQUEST


def test_status_comes_at_most_once_a_second_however_much_changes_and_whoever_comes() -> None:
    bench = StreamBench()
    client = bench.listen()
    events(client)
    for number in range(40):
        bench.pool.choose(3.0)
        if number == 20:
            assert kinds(bench.listen()) == []
        bench.wait(0.1)
    assert kinds(client) == ["status"] * 4


def test_one_who_comes_later_gets_everything_and_the_others_only_what_is_new() -> None:
    bench = StreamBench()
    first = bench.listen()
    events(first)
    second = bench.listen()
    bench.wait(EVERY_S)
    assert [len(status["backends"]) for _, status in events(second)] == [3]
    assert events(first) == []
    bench.pool.choose(3.0)
    bench.wait(EVERY_S)
    assert events(first) == events(second) != []


def test_what_happens_is_told_at_once() -> None:
    bench = StreamBench()
    bench.note()
    client = bench.listen()
    events(client)
    bench.note(2)
    assert [(kind, each["id"]) for kind, each in events(client)] == [("happening", 2), ("happening", 3)]


def test_a_flood_of_it_is_told_in_portions_and_in_order() -> None:
    bench = StreamBench()
    client = bench.listen()
    events(client)
    bench.note(3 * EVENTS)
    assert [each["id"] for _, each in events(client)] == list(range(1, 3 * EVENTS + 1))
    bench.note(KEPT + 10)
    assert events(client)[-1][1]["id"] == 3 * EVENTS + KEPT + 10
    bench.note()
    assert len(events(client)) == 1


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        *(("abc-1", [2, 3]), ("abc-0", [1, 2, 3]), ("abc-3", []), ("abd-1", []), ("abc-x", []), ("abc-99", [])),
        *(("1", []), ("\xff-1", []), ("abc-\xb2", []), ("abc-" + "9" * 5000, []), ("", [])),
    ],
)
def test_one_who_comes_again_gets_what_was_missed_in_this_run_of_the_process(last: str, expected: list[int]) -> None:
    bench = StreamBench()
    bench.note(3)
    client = bench.listen(GET[:-2] + f"Last-Event-ID: {last}\r\n\r\n".encode("latin-1"))
    assert [each["id"] for kind, each in events(client) if kind == "happening"] == expected
    bench.note()
    assert [each["id"] for _, each in events(client)] == [4]


def test_the_number_of_each_is_what_to_come_again_with() -> None:
    bench = StreamBench()
    client = bench.listen()
    client.take()
    bench.note()
    client.settle()
    assert b"event: happening\nid: abc-1\ndata: {" in client.take()


def test_who_hears_nothing_gets_a_comment_now_and_then_and_no_end_of_time() -> None:
    bench = StreamBench()
    client = bench.listen()
    events(client)
    bench.wait(KEEP_ALIVE_S + EVERY_S)
    client.settle()
    assert client.take() == b"3\r\n:\n\n\r\n"
    bench.wait(3 * ANSWER_S)
    assert client.ended is None


def test_there_are_only_so_many() -> None:
    bench = StreamBench()
    clients = [bench.listen() for _ in range(MOST)]
    status, headers, body = parsed(bench.client().ask(GET))
    assert (status, headers.getRawHeaders("retry-after")) == (HTTPStatus.SERVICE_UNAVAILABLE, ["10"])
    assert json.loads(body)["error"] == f"{MOST} others listen already"
    clients[0].reset()
    bench.wait(0)
    assert parsed(bench.listen().take())[0] == HTTPStatus.OK


@pytest.mark.parametrize("how", ["reset", "receive_end"])
def test_who_leaves_is_noticed_and_without_anybody_nothing_is_looked_at(how: str) -> None:
    bench = StreamBench()
    client = bench.listen()
    getattr(client, how)()
    bench.wait(0)
    assert not bench.clock.getDelayedCalls()
    assert bench.history.followers == []
    looks = bench.looks
    bench.wait(10)
    assert bench.looks == looks


def test_who_takes_nothing_is_dropped_and_the_others_are_not_held_up() -> None:
    bench = StreamBench()
    slow, other = bench.listen(), bench.listen()
    events(other)
    slow.stalled = True
    for _ in range(round(STALLED_S) + 2):
        bench.pool.choose(3.0)
        bench.wait(EVERY_S)
    assert slow.ended is ConnectionAborted
    assert len(kinds(other)) == round(STALLED_S) + 2
    assert not bench.streams.is_full


def test_who_is_too_far_behind_is_dropped() -> None:
    bench = StreamBench()
    slow = bench.listen()
    events(slow)
    slow.stalled = True
    for _ in range(BEHIND_MAX + 2):
        bench.note()
        slow.settle()
    bench.wait(0)
    assert slow.ended is ConnectionAborted
    assert slow.held < 1000


def test_one_piece_is_looked_at_and_written_in_each_turn() -> None:
    bench = StreamBench(4 * ROWS)
    shown = 0

    def score(_: Backend) -> float:
        nonlocal shown
        shown += 1
        return 1.0

    bench.view = attrs.evolve(bench.view, report_score=score)
    clients = [bench.client() for _ in range(3)]
    for client in clients:
        client.receive(GET)
    for _ in range(100):
        before, held = shown, sum(client.held > 0 for client in clients)
        turn(bench.clock)
        written = sum(client.held > 0 for client in clients) - held
        assert (shown - before) // ROWS + max(written, 0) <= 1
    bench.wait(EVERY_S)  # the others have come after the first look had begun
    assert shown == 2 * 4 * ROWS
    assert [len(events(client)[0][1]["backends"]) for client in clients] == [4 * ROWS] * 3


def test_one_that_vanishes_is_noticed_by_the_kernel() -> None:
    option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(VANISHED_S * 1000))
    assert StreamBench().listen().socket_options[-1] == option


def test_what_it_sends_is_discarded_up_to_a_limit() -> None:
    bench = StreamBench()
    client = bench.listen()
    client.send(GET)
    assert kinds(client) == ["status"]
    client.receive(bytes(LINGER_BYTES))
    bench.wait(0)
    assert client.ended is ConnectionAborted


def test_a_look_that_fails_is_logged_and_the_next_one_tells_everything() -> None:
    bench = StreamBench()
    client = bench.listen()
    events(client)
    totals, bench.view.service.pool = bench.view.service.pool, None  # type: ignore[assignment]
    with logged() as log:
        bench.wait(EVERY_S)
    assert len(list(log)) == 1
    bench.view.service.pool = totals
    bench.wait(EVERY_S)
    ((_, status),) = events(client)
    assert len(status["backends"]) == 3


def test_large_pools_are_looked_at_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REUSED_S", EVERY_S)  # for each of three pieces
    bench = StreamBench(ROWS + 1)
    client = bench.listen()
    events(client)
    bench.pool.choose(3.0)
    bench.wait(2 * EVERY_S)
    assert events(client) == []
    bench.wait(2 * EVERY_S)
    assert kinds(client) == ["status"]


def test_an_old_client_listens_as_well() -> None:
    bench = StreamBench()
    client = bench.listen(get("/stream", version="1.0"))
    client.settle()
    assert b"\r\n\r\nretry: 2000\n\nevent: status\ndata: {" in client.take()
    assert not client.write_ended


def test_a_stop_ends_them() -> None:
    bench = StreamBench()
    client = bench.listen()
    bench.server.stop()
    bench.wait(0)
    assert client.ended is ConnectionAborted
    assert not bench.clock.getDelayedCalls()
