"""`/api/choices`: newest first, filtered, in small pieces."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from math import inf
from typing import Any

import pytest

from rproxy.net.addresses import Address
from rproxy.observe.choice_list import LOOKED, UNKNOWN_RULE, ChoiceList
from rproxy.observe.choices import ChoiceBook
from rproxy.observe.parameters import BadParameter, Missing
from rproxy.policies.affinity import Affinity
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import Comparison, Key, Seen
from rproxy.pool.policy import Policy
from rproxy.timing.cpu_budget import CpuBudget
from tests.fakes import CountingPolicy, FakeLink, RaisingPolicy, logged, pool_with, texts
from tests.policies.balancing import policy


def books(**services: int) -> ChoiceBook:
    """So many choices of each service, one after the other; clients differ in their ports."""
    book = ChoiceBook(lambda: 1234.5, lambda: 0.0, CpuBudget(1e9, 1e9))
    logs = {name: book.add(name, pool_with(2, policy("least-connections"))) for name in services}
    left = dict(services)
    number = 0
    while any(left.values()):
        for name in services:
            if left[name]:
                left[name] -= 1
                number += 1
                logs[name].choose(number, FakeLink(f"192.0.{number % 2}.1:{number}"), 1000.0, (), None)
    return book


def document(book: ChoiceBook, **query: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(b"".join(ChoiceList(book).rendered(query)))
    return read


def ids(book: ChoiceBook, **query: str) -> list[int]:
    return [choice["id"] for choice in document(book, **query)["choices"]]


def one(chooses: Policy) -> dict[str, Any]:
    book = ChoiceBook(lambda: 1234.5, lambda: 0.0)
    book.add("default", pool_with(3, chooses)).choose(7, FakeLink(), 1000.0, (), ("192.0.2.1", 1234))
    (choice,) = document(book)["choices"]
    assert isinstance(choice, dict)
    return choice


def test_the_newest_of_all_services_come_first_fifty_unless_told_otherwise() -> None:
    book = books(a=40, b=30)
    assert ids(book) == list(range(70, 20, -1))
    assert ids(book, limit="3") == [70, 69, 68]
    assert ids(book, limit="1000") == list(range(70, 0, -1))
    assert ids(book, limit="0") == []


def test_those_of_a_service() -> None:
    book = books(a=3, b=3)
    assert ids(book, service="b") == [6, 4, 2]
    with pytest.raises(Missing, match="there are a, b"):
        ids(book, service="c")
    assert document(book, service="b")["services"] == {"b": {"kept": 3, "unrecorded": 0}}


@pytest.mark.parametrize(
    ("client", "found"), [("192.0.1.1", [5, 3, 1]), ("192.0.0.0/24", [4, 2]), ("2001:db8::/32", [])]
)
def test_those_of_a_client_or_a_network(client: str, found: list[int]) -> None:
    assert ids(books(a=5), client=client) == found


def test_those_in_which_a_back_end_took_part() -> None:
    assert ids(books(a=2), backend="10.0.0.2:80") == [2, 1]
    assert ids(books(a=2), backend="10.0.0.9:80") == []


@pytest.mark.parametrize("query", [{"client": "somebody"}, {"limit": "-1"}, {"limit": "many"}, {"backend": "10.0.0.1"}])
def test_a_query_that_cannot_be_is_refused_before_the_first_piece(query: dict[str, str]) -> None:
    with pytest.raises(BadParameter, match="must be"):
        next(ChoiceList(books(a=1)).rendered(query))


def test_what_one_choice_says() -> None:
    choice = one(policy("least-connections"))
    assert {name: choice[name] for name in ("id", "time", "service", "session", "client", "chosen", "recomputed")} == {
        "id": 1,
        "time": 1234.5,
        "service": "default",
        "session": 7,
        "client": "192.0.2.1:1234",
        "chosen": "10.0.0.1:80",
        "recomputed": "10.0.0.1:80",
    }
    assert choice["rule"] == "lowest"
    assert choice["why"].startswith("its value, 0, is as low as that of 10.0.0.2:80")
    assert choice["left_out"] == {"tried": [], "full": 0, "ineligible": 0, "others": 0}
    assert choice["candidates"][1] == {
        "backend": "10.0.0.2:80",
        "value": 0,
        "terms": {"sessions": 0, "weight": 10},
        "report_age": 1000,
        "key": {"failed": 0, "rank": 0, "then by": 0, "last chosen": choice["candidates"][1]["key"]["last chosen"]},
    }


def test_one_that_was_drawn_says_by_what_number() -> None:
    choice = one(policy("random"))
    assert (choice["rule"], choice["given"]["of"]) == ("drawn", 300)
    assert 0 <= choice["given"]["point"] < 300


def test_with_affinity_the_comparison_that_decided_comes_first() -> None:
    choice = one(Affinity(policy("least-connections")))
    assert (choice["rule"], choice["before"]) == ("affinity", [])
    assert choice["left_out"]["others"] == 3 - len(choice["candidates"])


def test_numbers_that_json_does_not_have_are_null() -> None:
    class Infinite(CountingPolicy):
        def explain(self, *_: object) -> Any:
            return type("", (), {"value": float("inf"), "terms": {"a": float("nan")}})

    choice = one(Infinite())
    assert choice["candidates"][0]["value"] is None
    assert choice["candidates"][0]["terms"] == {"a": None}
    assert choice["rule"] == "own"


def test_one_whose_comparison_failed_has_no_candidates() -> None:
    choice = one(RaisingPolicy("explain"))
    assert (choice["rule"], choice["candidates"], choice["chosen"]) == ("unknown", [], "10.0.0.1:80")


def test_a_piece_has_one_choice_and_a_search_in_vain_is_in_pieces_too() -> None:
    book = books(a=3 * LOOKED)
    pieces = list(ChoiceList(book).rendered({"limit": "1000"}))
    assert len(pieces) == 3 * LOOKED
    in_vain = list(ChoiceList(book).rendered({"client": "10.1.1.1"}))
    assert len(in_vain) >= 3
    assert json.loads(b"".join(in_vain))["choices"] == []


class Faulty(CountingPolicy):
    """A `Rule` of its own, which raises what it is told for its second choice in `pick`, for its third one in `say`."""

    name, parts, given = "faulty", ("value",), ("number",)

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.raised = error
        self.number = 0

    def compare(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float, most: int
    ) -> Comparison[Backend]:
        self.number += 1
        return Comparison(self, list(eligible), [(0.0,)] * len(eligible), (self.number,), floor=(inf,))

    def pick(self, keys: Sequence[Key], numbers: Key) -> int | None:
        if numbers == (2,):
            raise self.raised
        return 0

    def say(self, seen: Seen, numbers: Key, picked: int) -> str:
        if numbers == (3,):
            raise self.raised
        return "why not"


@pytest.mark.parametrize("error", [ValueError(), SystemExit()])
def test_a_rule_that_raises_costs_what_it_compared_for_that_choice_and_is_logged_once(error: BaseException) -> None:
    book, pool = ChoiceBook(lambda: 1234.5, lambda: 0.0, CpuBudget(1e9, 1e9)), pool_with(1, Faulty(error))
    log = book.add("web", pool)
    for number in range(4):
        log.choose(number, FakeLink(), 1000.0, (), None)
    with logged() as events:
        for _ in range(2):
            fourth, *failed, first = document(book)["choices"]
    assert [(row["why"], row["rule"], row["others_from"]) for row in (fourth, first)] == [
        ("why not", "faulty", [None])
    ] * 2
    lost: tuple[object, ...] = ("not known: the policy failed to tell what it compares", UNKNOWN_RULE, None, [])
    assert [(row["why"], row["rule"], row["recomputed"], row["candidates"]) for row in failed] == [lost] * 2
    assert [row["chosen"] for row in failed] == ["10.0.0.1:80"] * 2
    assert (len(texts(events)), pool.guard.failures) == (1, 2)


class FailsToDescribe(Faulty):
    """What it calls the numbers of its keys raises."""

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        raise self.raised


def test_a_rule_that_cannot_even_be_recorded_costs_no_client() -> None:
    told = one(FailsToDescribe(SystemExit()))
    assert (told["chosen"], told["rule"]) == ("10.0.0.1:80", UNKNOWN_RULE)
