"""Pieces of work, one in each turn of the reactor."""

from __future__ import annotations

from twisted.internet.task import Clock

from rproxy.timing.work_queue import WorkQueue
from tests.fakes import logged, turn


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.work = WorkQueue(self.clock)
        self.done: list[str] = []

    def add(self, name: str) -> None:
        self.work.add(lambda: self.done.append(name))


def test_one_piece_is_done_in_each_turn_in_the_order_of_adding() -> None:
    bench = Bench()
    for name in "abc":
        bench.add(name)
    done = [list(bench.done)]
    for _ in range(3):
        turn(bench.clock)
        done.append(list(bench.done))
    assert done == [[], ["a"], ["a", "b"], ["a", "b", "c"]]
    assert bench.clock.getDelayedCalls() == []


def test_a_piece_may_add_the_next_which_waits_for_another_turn() -> None:
    bench = Bench()
    bench.work.add(lambda: bench.add("next"))
    turn(bench.clock)
    assert bench.done == []
    turn(bench.clock)
    assert bench.done == ["next"]


def test_what_a_piece_raises_is_logged_and_costs_no_other_its_turn() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    bench = Bench()
    bench.work.add(broken)
    bench.add("sound")
    with logged() as events:
        turn(bench.clock)
        turn(bench.clock)
    assert [event["log_failure"].type for event in events] == [ZeroDivisionError]
    assert bench.done == ["sound"]


def test_a_stop_drops_what_waits_and_may_come_twice() -> None:
    bench = Bench()
    bench.add("dropped")
    for _ in range(2):
        bench.work.stop()
        assert bench.clock.getDelayedCalls() == []
    bench.add("after")
    turn(bench.clock)
    assert bench.done == ["after"]
