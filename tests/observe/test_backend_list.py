"""The rows and services that operators ask for."""

from __future__ import annotations

import json

import pytest

from rproxy.observe.backend_list import BackendList
from rproxy.observe.parameters import BadParameter
from rproxy.observe.status_json import ROWS
from tests.fakes import registered
from tests.observe.test_status_json import view_with


def test_all_rows_are_those_of_status_json() -> None:
    view = view_with(ROWS + 1)
    pieces = list(BackendList(lambda: [view]).backends({}))
    assert json.loads(b"".join(pieces))["backends"] == view.rows(view.service.pool)
    assert len(pieces) == 2
    assert pieces[0].count(b'"address"') == ROWS


def test_they_are_chosen_by_state_and_service() -> None:
    view = view_with(2)
    registered(view.service.pool, "10.0.0.9")

    def addresses(**parameters: str) -> list[str]:
        rows = json.loads(b"".join(BackendList(lambda: [view]).backends(parameters)))["backends"]
        return [row["address"] for row in rows]

    assert addresses(state="registered", service="default") == ["10.0.0.9"]
    assert addresses(state="up") == ["10.0.0.1", "10.0.0.2"]
    assert addresses(state="down") == []


@pytest.mark.parametrize("parameters", [{"state": "dead"}, {"service": "web"}])
def test_what_there_is_not_is_said_before_anything(parameters: dict[str, str]) -> None:
    view = view_with(1)
    with pytest.raises(BadParameter):
        next(BackendList(lambda: [view]).backends(parameters))


def test_the_services_are_those_of_status_json() -> None:
    views = [view_with(1), view_with(2)]
    shown = json.loads(b"".join(BackendList(lambda: views).services({})))
    assert shown["services"] == [view.totals() for view in views]
    assert json.loads(b"".join(BackendList(list).services({}))) == {"services": []}
