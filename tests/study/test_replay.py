from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import attrs
import pytest

from rproxy.observe.access_formats import json_lines
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Policy
from rproxy.study.agents import address_of
from rproxy.study.hosts import Host
from rproxy.study.reference import Uninformed
from rproxy.study.replay import Entry, Log, as_logged, read_log, scenario_of, speeds, works
from rproxy.study.world import World
from tests.observe.records import REFUSED, record


def line(**fields: Any) -> str:
    return json.dumps({"time": 5, "duration": 1.5, "backend": "a", **fields})


def test_a_log_is_read_in_the_order_of_its_times() -> None:
    log = read_log([line(time=7), "", line(client="10.0.0.1", bytes=[1, 2]), line(time=6.5, backend="b")])
    assert log == Log((Entry(3.5, 1.5, "a"), Entry(5.0, 1.5, "b"), Entry(5.5, 1.5, "a")), {})


def test_the_programs_own_log_is_read_as_it_was() -> None:
    """Its times are those of the ends; what got no back-end is left out."""
    started = (record(started_at=20.0, duration_s=9.0), record(started_at=25.0, duration_s=0.5), record(**REFUSED))
    log = read_log(json_lines(started, 0.0))
    assert log.flaws == {3: "backend is missing, or no text"}
    assert [(entry.duration_s, entry.service) for entry in log.entries] == [(9.0, "web"), (0.5, "web")]
    assert log.entries[1].time_s - log.entries[0].time_s == pytest.approx(5.0, abs=0.002)
    assert log.services == ["web"]


def test_times_may_be_iso_8601_and_the_back_end_may_be_hyphenated() -> None:
    log = read_log(
        ['{"time": "2026-11-26T00:00:11.5Z", "duration": 1.5, "back-end": "a"}', line(time="2026-11-26T00:00:01.5Z")]
    )
    assert log.flaws == {}
    assert log.entries[1].time_s - log.entries[0].time_s == 10


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("nonsense", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("\ufffd\x00", "no JSON"),
        ("[1, 2]", "no JSON object"),
        ("null", "no JSON object"),
        ("{}", "time is missing, or no number"),
        (line(time=True), "time is missing, or no number"),
        (line(time="noon"), "time is neither seconds nor ISO 8601"),
        (line(duration=None), "duration is missing, or no number"),
        (line(duration=-0.1), "duration is below 0"),
        (line(duration=float("nan")), "duration is not finite"),
        (line(time=10**400), "time is not finite"),
        (line(backend=None), "backend is missing, or no text"),
        (line(backend=""), "backend is missing, or no text"),
        (line(backend=3), "backend is missing, or no text"),
    ],
)
def test_a_malformed_line_is_told_by_its_number(text: str, flaw: str) -> None:
    log = read_log([line(), text, line()])
    assert log.flaws == {2: flaw}
    assert len(log.entries) == 2


def test_sessions_share_their_back_end() -> None:
    entries = [Entry(0, 4, "a"), Entry(1, 2, "a"), Entry(0, 3, "b"), Entry(9, 1, "a")]
    assert works(entries) == pytest.approx([1 + 1 + 1, 1, 3, 1])


def test_a_back_end_that_takes_longer_is_slower() -> None:
    entries = [Entry(2 * number, 1 if number % 2 else 0.5, "ab"[number % 2]) for number in range(2000)]
    found = speeds(entries, works(entries))
    assert found["a"] / found["b"] == pytest.approx(2, rel=0.02)


def test_few_sessions_say_little_of_a_back_end() -> None:
    entries = [*(Entry(2 * number, 1.0, "a") for number in range(1000)), Entry(5000, 100.0, "b")]
    assert speeds(entries, works(entries))["b"] > 0.05


class AsLogged(Uninformed):
    """Gives every client the back-end that it had."""

    def __init__(self, order: list[str]) -> None:
        self._order = order
        self._next = 0

    def choose(self, eligible: Any, client: Any, exclude: Any, now: float) -> Backend:
        (found,) = [backend for backend in eligible if backend.address == self._order[self._next]]
        self._next += 1
        assert isinstance(found, Backend)
        return found


def test_with_the_logs_own_choices_sessions_last_as_long_as_logged() -> None:
    rng = Random(1)
    entries = sorted(
        (Entry(rng.uniform(0, 60), rng.expovariate(1), rng.choice("abc")) for _ in range(300)),
        key=lambda each: each.time_s,
    )
    log = Log(tuple(entries), {})
    scenario = scenario_of(log, "log")
    addresses = {name: address_of(number) for number, name in enumerate("abc")}

    def make(_: Mapping[str, Host], __: Random) -> Policy:
        return AsLogged([addresses[entry.backend] for entry in entries])

    result, logged = World(scenario, make, 1).run(), as_logged(log)
    same = ("mean", "p50", "p99", "p999", "count", "chosen")
    assert [getattr(result, each) for each in same] == [pytest.approx(getattr(logged, each), rel=1e-3) for each in same]


def test_a_replay_goes_on_until_all_sessions_have_ended() -> None:
    entries = [Entry(0.1 * number, 5.0, "a" if number % 10 else "b") for number in range(50)]
    scenario = attrs.evolve(scenario_of(Log(tuple(entries), {}), "log"))

    class Crowding(Uninformed):
        def choose(self, eligible: Any, client: Any, exclude: Any, now: float) -> Backend:
            return min(eligible, key=lambda backend: str(backend.address))  # type: ignore[no-any-return]

    def make(_: Mapping[str, Host], __: Random) -> Policy:
        return Crowding()

    assert World(scenario, make, 1).run().count == 50
