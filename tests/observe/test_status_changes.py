"""What has changed since the last look."""

from __future__ import annotations

import json
from typing import Any

from rproxy.observe.status_changes import Look, StatusChanges
from rproxy.observe.status_json import ROWS, ServiceView
from rproxy.wire.pdu import Unregister
from tests.fakes import AGENT_PORT, registered
from tests.observe.test_status_json import view_with


class Bench:
    def __init__(self, up: int = 3) -> None:
        self.view: ServiceView = view_with(up)
        self.changes = StatusChanges(lambda: [self.view])

    def look(self, *, whole: bool = False) -> Look:
        *_, look = self.changes.look(whole=whole)
        assert look is not None
        return look

    def changed(self) -> dict[str, Any] | None:
        return read(self.look().changed)


def read(pieces: list[bytes]) -> dict[str, Any] | None:
    document: dict[str, Any] | None = json.loads(b"".join(pieces)) if pieces else None
    return document


def test_the_first_look_has_everything_both_ways() -> None:
    bench = Bench(ROWS + 1)
    look = bench.look(whole=True)
    view = bench.view
    whole = read(look.whole)
    assert whole == {"services": [view.totals()], "backends": view.rows(view.service.pool), "gone": []}
    assert read(look.changed) == whole
    assert len(look.whole) == 3
    assert b"\n" not in b"".join(look.whole)


def test_nothing_has_changed_is_said_with_nothing_although_all_grow_older() -> None:
    bench = Bench()
    bench.look()
    ages = [row["last_seen_s"] for row in bench.view.rows(bench.view.service.pool)]
    bench.view.service.seconds = lambda: 9.0
    assert ages != [row["last_seen_s"] for row in bench.view.rows(bench.view.service.pool)]
    assert bench.changed() is None


def test_a_row_that_has_changed_is_told_with_the_services() -> None:
    bench = Bench()
    bench.look()
    chosen = bench.view.service.pool.choose(3.0)
    assert chosen is not None
    changed = bench.changed()
    assert changed is not None
    assert [row["address"] for row in changed["backends"]] == [chosen.address]
    assert changed["backends"][0]["connections"] == 1
    assert changed["services"] == [bench.view.totals()]
    assert bench.changed() is None


def test_a_row_that_has_gone_or_come_is_told() -> None:
    bench = Bench()
    bench.look()
    pool = bench.view.service.pool
    pool.unregister(("10.0.0.2", AGENT_PORT), Unregister(80, 1), 0.0)
    registered(pool, "10.0.0.9")
    changed = bench.changed()
    assert changed is not None
    assert changed["gone"] == [{"service": "default", "address": "10.0.0.2", "port": 80}]
    assert "10.0.0.9" in [row["address"] for row in changed["backends"]]
    assert bench.look(whole=True).changed == []


def test_a_look_that_nobody_has_seen_the_end_of_does_not_count() -> None:
    bench = Bench(ROWS + 1)
    begun = bench.changes.look(whole=False)
    assert next(begun) is None
    begun.close()  # type: ignore[attr-defined]
    assert bench.changed() is not None
    bench.changes.forget()
    changed = bench.changed()
    assert changed is not None
    assert len(changed["backends"]) == ROWS + 1


def test_without_back_ends_there_is_still_something_to_see() -> None:
    bench = Bench(0)
    look = bench.look(whole=True)
    assert read(look.whole) == {"services": [bench.view.totals()], "backends": [], "gone": []}
