"""Who is connected to what: the sessions that operators see."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.observe.parameters import BadParameter
from rproxy.observe.session_list import LIMIT_MAX, ROWS, SessionList
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service, ServiceTerms
from rproxy.sessions.session import Session
from tests.fakes import LinkedSessions, pool_of, pool_with


class Bench:
    """Two services: `web` with two back-ends up, `mail` with none."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.web = Service(pool_with(2), self.clock, name="web")
        self.mail = Service(pool_of(), self.clock, ServiceTerms(wait_s=5.0), name="mail")
        self.linked = LinkedSessions(self.web)
        self.mails = LinkedSessions(self.mail)
        self.list = SessionList(
            lambda: iter([*self.linked.slices(), *self.mails.slices()]),
            lambda: ["web", "mail"],
            lambda: 1000.0 + self.clock.seconds(),
        )

    def open(self, client: str = "192.0.2.1:1234") -> Session:
        session = self.linked.open()
        self.linked.links[session].address = client
        session.choose_backend()
        session.connected()
        return session

    def shown(self, **parameters: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(b"".join(self.list.rendered(parameters)))
        return document

    def ids(self, **parameters: str) -> list[int]:
        return [each["id"] for each in self.shown(**parameters)["sessions"]]


def test_a_session_is_shown_with_who_to_what_how_long_and_how_much() -> None:
    bench = Bench()
    session = bench.open()
    link = bench.linked.links[session]
    link.up, link.down = 3, 70
    bench.clock.advance(2.5)
    assert bench.shown() == {
        "sessions": [
            {
                "id": session.id,
                "service": "web",
                "listener": "",
                "client": "192.0.2.1:1234",
                "backend": "10.0.0.1:80",
                "state": "connected",
                "started": 1000.0,
                "age": 2.5,
                "up": 3,
                "down": 70,
            }
        ],
        "total": 1,
        "shown": 1,
    }


def test_what_a_client_has_sent_before_it_is_connected_is_not_carried() -> None:
    bench = Bench()
    session = bench.linked.open(connected=False)
    bench.linked.links[session].up = 3
    shown = [bench.shown()["sessions"][0]["up"]]
    session.choose_backend()
    shown.append(bench.shown()["sessions"][0]["up"])
    session.connected()
    shown.append(bench.shown()["sessions"][0]["up"])
    assert shown == [0, 0, 3]


def test_each_phase_has_its_word() -> None:
    bench = Bench()
    accepted, connecting, connected, half = (bench.linked.open(connected=False) for _ in range(4))
    for session in (connecting, connected, half):
        session.choose_backend()
    for session in (connected, half):
        session.connected()
    half.half_close()
    waiting = bench.mails.open()
    assert waiting.wait_for_backend(lambda: None)
    words = {each["id"]: (each["state"], each["backend"] is None) for each in bench.shown()["sessions"]}
    assert words == {
        accepted.id: ("accepted", True),
        connecting.id: ("connecting", False),
        connected.id: ("connected", False),
        half.id: ("half-closed", False),
        waiting.id: ("waiting", True),
    }


def test_one_that_has_ended_is_not_there_any_more() -> None:
    bench = Bench()
    ended, other = bench.open(), bench.open()
    ended.ended(Ending.CLOSED)
    assert bench.ids() == [other.id]


def test_those_that_are_asked_for_are_shown() -> None:
    bench = Bench()
    first, second, third = bench.open(), bench.open("192.0.2.77:1"), bench.open("[2001:db8::5]:7")
    waiting = bench.mails.open()
    assert bench.ids(client="192.0.2.0/24", service="web") == [first.id, second.id]
    assert bench.ids(client="2001:db8::5") == [third.id]
    assert second.backend is not None
    assert second.id in bench.ids(backend=second.backend.name)
    assert bench.ids(backend="10.9.9.9:80") == []
    assert bench.ids(service="mail") == [waiting.id]


def test_of_many_the_longest_are_shown_and_all_are_counted() -> None:
    bench = Bench()
    sessions = [bench.open() for _ in range(3 * ROWS)]
    shown = bench.shown(limit="7")
    assert [each["id"] for each in shown["sessions"]] == [each.id for each in sessions[:7]]
    assert (shown["total"], shown["shown"]) == (3 * ROWS, 7)
    assert bench.shown(limit="0")["sessions"] == []


def test_a_client_without_an_address_is_in_no_network() -> None:
    bench = Bench()
    session = bench.open("UNIX")
    assert bench.ids() == [session.id]
    assert bench.ids(client="0.0.0.0/0") == []


def test_little_is_done_at_once_and_those_that_end_meanwhile_are_left_out() -> None:
    bench = Bench()
    sessions = [bench.open() for _ in range(2 * ROWS + 1)]
    pieces = bench.list.rendered({})
    slices = ROWS + 1
    assert [next(pieces) for _ in range(slices)] == [b""] * slices
    first = next(pieces)
    assert first.count(b'"id"') == ROWS
    for session in sessions:
        session.ended(Ending.CLOSED)
    rest = b"".join(pieces)
    assert json.loads(first + rest)["shown"] == ROWS
    assert len(rest) < 1000


@pytest.mark.parametrize(
    "parameters", [{"client": "x"}, {"backend": "x"}, {"service": "x"}, {"limit": str(LIMIT_MAX + 1)}]
)
def test_what_makes_no_sense_is_said_before_anything(parameters: dict[str, str]) -> None:
    with pytest.raises(BadParameter):
        next(Bench().list.rendered(parameters))
