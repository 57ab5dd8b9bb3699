"""Whatever a policy does, clients get a back-end that may have them, and the process lives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.pool import Pool
from rproxy.pool.states import Administration
from tests.fakes import UNLIMITED, CountingPolicy, confirm, registered

ERRORS = [ValueError(), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), BaseException(), StopIteration()]


class Strange(CountingPolicy):
    """Chooses `choice`, and raises `raised` wherever it is called, if that is given."""

    def __init__(self, choice: Any = None, raised: BaseException | None = None) -> None:
        super().__init__()
        self.choice = choice
        self.raised = raised

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Any:
        self._raise()
        return self.choice

    def _raise(self) -> None:
        if self.raised is not None:
            raise self.raised

    def opened(self, backend: Backend, now: float) -> None:
        self._raise()

    failed = opened

    def reported(self, backend: Backend, now: float) -> None:
        self._raise()

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        self._raise()


class Complaints:
    count = 0

    def __call__(self) -> None:
        self.count += 1


def guarded(policy: CountingPolicy, up: int = 3) -> tuple[Pool, Complaints]:
    """A pool with so many back-ends up, which has not complained yet."""
    complaints = Complaints()
    pool = Pool(policy, complaints, limits=UNLIMITED)
    for number in range(1, up + 1):
        confirm(pool, registered(pool, f"10.0.0.{number}"), token=number)
    complaints.count = 0
    return pool, complaints


def calls(pool: Pool) -> list[Callable[[Backend], object]]:
    """What has the pool call each of the policy's methods but `choose`, once."""
    return [
        lambda backend: pool.closed(backend, 0.0, was_connected=False, served_s=None),
        lambda backend: pool.refused(backend, 0.0),
        lambda backend: pool.administer(backend, Administration.READY, 0.0),
    ]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_is_raised_somebody_is_chosen_and_nobody_else_hears_of_it(error: BaseException) -> None:
    pool, complaints = guarded(Strange(raised=error))
    chosen = pool.choose(0.0)
    assert chosen in pool.eligible
    assert complaints.count == 2, "choose and opened"
    for call in calls(pool):
        call(pool.eligible[0])
    assert complaints.count == 5


def test_a_recursion_without_end_is_one_more_error() -> None:
    class Endless(CountingPolicy):
        def choose(
            self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
        ) -> Backend | None:
            return self.choose(eligible, client, exclude, now)

    pool, complaints = guarded(Endless(), 1)
    assert pool.would_choose(0.0) is pool.eligible[0]
    assert complaints.count == 1


def strange_choices(pool: Pool) -> list[Any]:
    """None of them may get a client of this pool, where one back-end drains."""
    pool.administer(pool.eligible[0], Administration.DRAIN, 0.0)
    draining = next(each for each in pool if not each.eligible)
    elsewhere = guarded(CountingPolicy(), 2)[0].eligible[1]

    class Alike:
        slot = 0
        name = "me"

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    return ["10.0.0.1:80", 0, object(), b"", [], ("10.0.0.2", 80), draining, elsewhere, Backend, Alike()]


@pytest.mark.parametrize("number", range(10))
def test_what_is_no_back_end_of_this_pool_or_may_not_get_clients_is_not_used(number: int) -> None:
    policy = Strange()
    pool, complaints = guarded(policy)
    policy.choice = strange_choices(pool)[number]
    assert pool.would_choose(0.0) in pool.eligible
    assert complaints.count == 1


def test_one_that_has_been_tried_is_not_tried_again() -> None:
    policy = Strange()
    pool, complaints = guarded(policy)
    tried = policy.choice = pool.eligible[1]
    chosen = {pool.would_choose(0.0, (tried,)) for _ in range(10)}
    assert chosen == {pool.eligible[0], pool.eligible[2]}
    assert pool.would_choose(0.0, tuple(pool.eligible)) is None
    assert complaints.count == 11


def test_nobody_is_a_choice() -> None:
    pool, complaints = guarded(Strange(None))
    assert pool.would_choose(0.0) is None
    assert complaints.count == 0


def test_without_the_policy_back_ends_take_turns() -> None:
    pool, _ = guarded(Strange("nonsense"), 4)
    assert [{pool.would_choose(0.0) for _ in range(4)} for _ in range(3)] == [set(pool.eligible)] * 3
    assert guarded(Strange("nonsense"), 0)[0].would_choose(0.0) is None


def test_a_good_choice_is_the_policys_own() -> None:
    policy = Strange()
    pool, complaints = guarded(policy)
    for backend in pool.eligible:
        policy.choice = backend
        assert pool.would_choose(0.0) is backend
        assert complaints.count == 0


class Telling(CountingPolicy):
    """Says `said` of every value."""

    def __init__(self, said: Any) -> None:
        super().__init__()
        self.said = said

    def value(self, backend: Backend, now: float) -> Any:
        if isinstance(self.said, BaseException):
            raise self.said
        return self.said


@pytest.mark.parametrize(
    ("told", "noted", "complaints"),
    [
        (3, 3.0, 0),
        ("2.5", 2.5, 0),
        (float("nan"), None, 0),
        (float("inf"), None, 0),
        ("much", None, 1),
        (KeyError(), None, 1),
    ],
)
def test_a_value_that_is_no_number_is_not_noted(told: Any, noted: float | None, complaints: int) -> None:
    pool, complained = guarded(Telling(told))
    pool.notes_values = True
    assert pool.choose(0.0) is not None
    assert (pool.chosen_value, complained.count) == (noted, complaints)


def test_the_value_of_a_policy_that_has_none_of_its_own_is_the_one_explained() -> None:
    pool, _ = guarded(CountingPolicy())
    pool.notes_values = True
    backend = pool.choose(0.0)
    assert backend is not None
    assert pool.chosen_value == pool.explain(backend, 0.0).value == 0.0


def test_without_the_wish_for_it_no_value_is_noted() -> None:
    pool, complained = guarded(Telling(KeyError()))
    assert pool.choose(0.0) is not None
    assert (pool.chosen_value, complained.count) == (None, 0)


def test_a_policy_that_tells_no_comparison_is_asked_to_explain_the_first_candidates() -> None:
    pool, _ = guarded(CountingPolicy(), up=5)
    first = pool.eligible[0]
    comparison = pool.compare(pool.eligible, None, (first,), 0.0, 3)
    assert comparison is not None
    assert [backend.name for backend in comparison.candidates] == ["10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]
    assert list(comparison.keys) == [(1.0,), (2.0,), (3.0,)]
    assert (comparison.more, comparison.winner()) == (1, None)
