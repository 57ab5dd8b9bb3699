"""Several checks in a row decide, and one that takes too long has failed."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rproxy.agent.check_loop import INTERVAL_S, TIMEOUT_S, CheckFailed, CheckLoop, Health
from tests.fakes import logged, run


@pytest.mark.parametrize(
    ("outcomes", "well"),
    [
        ("+", "+"),
        ("-", "-"),
        ("+--", "+++"),
        ("+---", "+++-"),
        ("+--+--+--", "+++++++++"),
        ("+---+", "+++--"),
        ("+---++", "+++--+"),
        ("+---+-+-+", "+++------"),
        ("-+", "--"),
        ("-++", "--+"),
        ("-+-++", "----+"),
        ("+---++---", "+++--+++-"),
    ],
)
def test_the_first_check_decides_and_then_three_failures_or_two_successes_in_a_row(outcomes: str, well: str) -> None:
    health = Health()
    seen = ""
    for outcome in outcomes:
        before = health.is_healthy
        changed = health.update(outcome == "+")
        assert changed is (health.is_healthy is not before)
        seen += "+" if health.is_healthy else "-"
    assert seen == well


class Scripted:
    """A check that ends as the test says, at once or later."""

    timeout_reason = "no answer"

    def __init__(self) -> None:
        self.outcome: Exception | None = None
        self.hangs = False
        self.begun: list[Deferred[None]] = []
        self.times: list[float] = []
        self.stopped = 0
        self.clock = Clock()
        self.changes: list[tuple[float, bool, str]] = []
        self.service = CheckLoop(
            self, self.clock, lambda well, why: self.changes.append((self.clock.seconds(), well, why))
        )
        self.service.start()

    async def run(self) -> None:
        self.times.append(self.clock.seconds())
        if self.hangs:
            self.begun.append(Deferred())
            await self.begun[-1]
        elif self.outcome is not None:
            raise self.outcome

    def stop(self) -> None:
        self.stopped += 1


def test_a_service_is_checked_at_once_and_every_2_seconds_and_only_changes_are_told() -> None:
    check = Scripted()
    run(check.clock, 9)
    assert check.times == [0, 2, 4, 6, 8]
    check.outcome = CheckFailed("refused")
    run(check.clock, 10)
    check.outcome = None
    run(check.clock, 10)
    assert check.changes == [(0, True, ""), (14, False, "refused"), (22, True, "")]


def test_a_check_that_takes_longer_than_a_second_is_ended_and_has_failed() -> None:
    check = Scripted()
    check.hangs = True
    run(check.clock, 3 * INTERVAL_S - 0.5)
    assert [each.called for each in check.begun] == [True, True]
    assert check.changes == [(0, True, ""), (INTERVAL_S + 2 * INTERVAL_S + TIMEOUT_S, False, "")][:1]
    run(check.clock, 2)
    assert check.changes[-1] == (3 * INTERVAL_S + TIMEOUT_S, False, "no answer (within 1 s)")


def test_an_answer_in_the_last_moment_counts_and_leaves_no_timer() -> None:
    check = Scripted()
    check.hangs = True
    run(check.clock, INTERVAL_S + TIMEOUT_S - 0.1)
    check.begun[0].callback(None)
    assert len(check.clock.getDelayedCalls()) == 1
    run(check.clock, 0.5)
    assert [well for _, well, _ in check.changes] == [True]


def test_a_check_that_raises_has_failed() -> None:
    check = Scripted()
    check.outcome = RuntimeError()
    run(check.clock, 3 * INTERVAL_S)
    assert check.changes[-1] == (3 * INTERVAL_S, False, "RuntimeError")


@pytest.mark.parametrize("hangs", [False, True])
def test_a_stop_ends_what_runs_and_leaves_no_timer(hangs: bool) -> None:
    check = Scripted()
    check.hangs = hangs
    run(check.clock, INTERVAL_S + 0.5)
    with logged() as events:
        check.service.stop()
        run(check.clock, 10)
    assert check.clock.getDelayedCalls() == []
    assert check.stopped == 1
    assert [well for _, well, _ in check.changes] == [True]
    assert list(events) == []
