"""Whatever a policy does, clients get a back-end that may have them, and the process lives."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from rproxy.policies.guard import Guarded
from rproxy.pool.backend import Backend
from rproxy.pool.states import Administration
from rproxy.pool.table import Table
from tests.fakes import CountingPolicy, table_with

ERRORS = [ValueError(), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), BaseException(), StopIteration()]


class Strange(CountingPolicy):
    """Chooses `choice`, and raises `raised` wherever it is called, if that is given."""

    def __init__(self, choice: Any = None, raised: BaseException | None = None) -> None:
        super().__init__()
        self.choice = choice
        self.raised = raised

    def choose(self, table: Table, exclude: Collection[Backend]) -> Any:
        self._raise()
        return self.choice

    def _raise(self) -> None:
        if self.raised is not None:
            raise self.raised

    def opened(self, backend: Backend) -> None:
        self._raise()

    closed = failed = reported = opened


class Complaints:
    count = 0

    def __call__(self) -> None:
        self.count += 1


def guarded(policy: CountingPolicy) -> tuple[Guarded, Complaints]:
    complaints = Complaints()
    return Guarded(policy, complaints), complaints


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_somebody_is_chosen_and_nobody_else_hears_of_it(error: BaseException) -> None:
    table = table_with(3)
    policy, complaints = guarded(Strange(raised=error))
    chosen = policy.choose(table, ())
    assert chosen in table.eligible
    for tell in (policy.opened, policy.closed, policy.failed, policy.reported):
        tell(table.eligible[0])
    assert complaints.count == 5


def test_a_recursion_without_end_is_one_more_error() -> None:
    class Endless(CountingPolicy):
        def choose(self, table: Table, exclude: Collection[Backend]) -> Backend | None:
            return self.choose(table, exclude)

    table = table_with(1)
    policy, complaints = guarded(Endless())
    assert policy.choose(table, ()) is table.eligible[0]
    assert complaints.count == 1


def strange_choices(table: Table) -> list[Any]:
    """None of them may get a client of this table, where one back-end drains."""
    table.administer(table.eligible[0], Administration.DRAIN)
    draining = next(each for each in table if not each.eligible)
    elsewhere = table_with(2).eligible[1]

    class Alike:
        slot = 0
        name = "me"

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    return ["10.0.0.1:80", 0, object(), b"", [], ("10.0.0.2", 80), draining, elsewhere, Backend, Alike()]


@pytest.mark.parametrize("number", range(10))
def test_what_is_no_back_end_of_this_table_or_may_not_get_clients_is_not_used(number: int) -> None:
    table = table_with(3)
    policy, complaints = guarded(Strange(strange_choices(table)[number]))
    assert policy.choose(table, ()) in table.eligible
    assert complaints.count == 1


def test_one_that_has_been_tried_is_not_tried_again() -> None:
    table = table_with(3)
    tried = table.eligible[1]
    policy, complaints = guarded(Strange(tried))
    chosen = {policy.choose(table, (tried,)) for _ in range(10)}
    assert chosen == {table.eligible[0], table.eligible[2]}
    assert policy.choose(table, tuple(table.eligible)) is None
    assert complaints.count == 11


def test_nobody_is_a_choice() -> None:
    policy, complaints = guarded(Strange(None))
    assert policy.choose(table_with(3), ()) is None
    assert complaints.count == 0


def test_without_the_policy_back_ends_take_turns() -> None:
    table = table_with(4)
    policy, _ = guarded(Strange("nonsense"))
    assert [{policy.choose(table, ()) for _ in range(4)} for _ in range(3)] == [set(table.eligible)] * 3
    assert guarded(Strange("nonsense"))[0].choose(Table(), ()) is None


def test_a_good_choice_is_the_policys_own() -> None:
    table = table_with(3)
    for backend in table.eligible:
        policy, complaints = guarded(Strange(backend))
        assert policy.choose(table, ()) is backend
        assert complaints.count == 0
