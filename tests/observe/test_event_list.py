"""The events that operators ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.observe.event_list import ROWS, EventList
from rproxy.observe.history import KEPT, History
from rproxy.observe.parameters import BadParameter


def history_of(number: int) -> History:
    history = History(Clock().seconds)
    for each in range(number):
        history.note("web" if each % 2 else "mail", f"10.0.0.{each % 4}:80", "up", "answered a probe")
    return history


def shown(history: History, **parameters: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(b"".join(EventList(history).rendered(parameters)))
    return document


def test_events_are_listed_from_the_oldest_on() -> None:
    document = shown(history_of(3))
    assert document["events"][0] == {
        "id": 1,
        "time": 0.0,
        "service": "mail",
        "backend": "10.0.0.0:80",
        "kind": "up",
        "text": "answered a probe",
    }
    assert ([each["id"] for each in document["events"]], document["last"]) == ([1, 2, 3], 3)


def test_of_too_many_the_latest_are_listed_and_the_last_one_is_told_whatever_is_asked_for() -> None:
    history = history_of(8)
    for parameters, expected in [
        ({"limit": "2"}, [7, 8]),
        ({"limit": "0"}, []),
        ({"after": "6"}, [7, 8]),
        ({"after": "600"}, []),
        ({"service": "web"}, [2, 4, 6, 8]),
        ({"backend": "10.0.0.1:80"}, [2, 6]),
        ({"service": "mail", "backend": "10.0.0.1:80"}, []),
    ]:
        document = shown(history, **parameters)
        assert ([each["id"] for each in document["events"]], document["last"]) == (expected, 8), parameters


def test_many_come_in_pieces() -> None:
    pieces = list(EventList(history_of(2 * ROWS + 1)).rendered({}))
    assert [piece.count(b'"id"') for piece in pieces] == [ROWS, ROWS, 1]


@pytest.mark.parametrize("parameters", [{"after": "-1"}, {"limit": str(KEPT + 1)}, {"backend": "x"}])
def test_what_makes_no_sense_is_said_before_anything(parameters: dict[str, str]) -> None:
    with pytest.raises(BadParameter):
        next(EventList(history_of(1)).rendered(parameters))
