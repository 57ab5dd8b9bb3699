"""Lines are written in the background, one call at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.task import Clock

from rproxy.tap import access_writer
from rproxy.tap.access_targets import Outcome, Target
from rproxy.tap.access_writer import STOP_S, AccessWriter
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.fakes import logged, texts
from tests.tap.services import ended

FULL = Outcome(2, "No space left on device")


class Place(Target):
    def __init__(self, name: str = "FILE") -> None:
        self.name = name
        self.lines: list[str] = []
        self.outcome = Outcome()
        self.next: Target | OSError = self
        self.closed = 0

    def write(self, lines: Sequence[str]) -> Outcome:
        if not self.outcome.lost:
            self.lines += lines
        return self.outcome

    def reopened(self) -> Target:
        if isinstance(self.next, OSError):
            raise self.next
        return self.next

    def close(self) -> int:
        self.closed += 1
        return 0


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.place = Place()
        self.pending: list[Callable[[], None]] = []
        """Calls that are under way in the background."""
        self.writer = AccessWriter(self.clock, self.place, self._in_background)

    def _in_background(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.pending.append(lambda: done(work()))

    def finish(self) -> None:
        """All calls come back, and those that follow."""
        while self.pending:
            self.pending.pop()()

    def put(self, *lines: str) -> None:
        self.writer.put(list(lines))
        self.finish()


def test_what_comes_meanwhile_is_written_by_the_next_call() -> None:
    bench = Bench()
    bench.writer.put(["a"])
    bench.writer.put(["b"])
    bench.writer.put(["c"])
    assert len(bench.pending) == 1
    bench.pending.pop()()
    assert (bench.place.lines, len(bench.pending)) == (["a"], 1)
    bench.finish()
    assert bench.place.lines == ["a", "b", "c"]


def test_lost_lines_are_counted_and_said_once_until_lines_are_written_again() -> None:
    bench = Bench()
    with logged() as events:
        bench.place.outcome = FULL
        for _ in range(3):
            bench.put("a", "b")
        bench.place.outcome = Outcome()
        bench.put("c")
        bench.put("d")
    assert texts(events) == [
        "access log FILE: No space left on device; sessions go on, and their records are lost until it can be written "
        "again",
        "access log FILE is written again; 6 record(s) are lost",
    ]
    assert (bench.writer.lost, bench.place.lines) == (6, ["c", "d"])


def test_a_target_that_fails_and_works_in_turn_is_logged_every_ten_seconds() -> None:
    bench = Bench()
    with logged() as events:
        for _ in range(20):
            bench.clock.advance(LOG_EVERY_S / 10)
            for bench.place.outcome in (FULL, Outcome()):
                bench.put("a", "b")
    assert len(texts(events)) == 4
    assert texts(events)[-1] == "access log FILE is written again; 20 record(s) are lost"
    assert bench.writer.lost == 40


def test_lines_that_wait_are_limited(monkeypatch: Any) -> None:
    monkeypatch.setattr(access_writer, "LINES_MAX", 3)
    bench = Bench()
    with logged() as events:
        for line in "abcdef":
            bench.writer.put([line])
    assert texts(events) == [
        "access log FILE: it is not written fast enough; sessions go on, and their records are lost until it can be "
        "written again"
    ]
    bench.finish()
    assert (bench.place.lines, bench.writer.lost) == (["a", "b", "c", "d"], 2)


def test_after_a_reopening_lines_go_to_the_new_file_and_the_old_one_is_closed() -> None:
    bench = Bench()
    bench.place.next = new = Place()
    bench.writer.put(["a"])
    bench.writer.reopen()
    bench.writer.put(["b"])
    bench.finish()
    assert (bench.place.lines, bench.place.closed) == (["a"], 1)
    assert (new.lines, new.closed) == (["b"], 0)


def test_a_target_without_a_name_is_not_closed_by_a_reopening() -> None:
    bench = Bench()
    bench.writer.reopen()
    bench.put("a")
    assert (bench.place.lines, bench.place.closed) == (["a"], 0)


def test_a_file_that_cannot_be_opened_again_is_written_on() -> None:
    bench = Bench()
    bench.place.next = OSError(13, "Permission denied")
    with logged() as events:
        bench.writer.reopen()
        bench.put("a")
    assert texts(events) == ["access log FILE cannot be opened again, and goes on where it was: Permission denied"]
    assert (bench.place.lines, bench.writer.lost) == (["a"], 0)


def test_another_target_takes_the_place_of_the_first() -> None:
    bench = Bench()
    other = Place("OTHER")
    bench.writer.put(["a"])
    bench.writer.replace(other)
    bench.finish()
    bench.put("b")
    assert (bench.place.lines, bench.place.closed, other.lines) == (["a"], 1, ["b"])


def test_a_stop_waits_for_the_last_lines() -> None:
    bench = Bench()
    bench.writer.put(["a"])
    bench.writer.put(["b"])
    stopped = ended(bench.writer.stop())
    assert stopped == []
    bench.finish()
    assert (stopped, bench.place.lines, bench.place.closed) == ([None], ["a", "b"], 1)
    assert bench.clock.getDelayedCalls() == []


def test_a_stop_without_lines_is_immediate() -> None:
    bench = Bench()
    assert ended(bench.writer.stop()) == [None]
    assert (bench.place.closed, bench.clock.getDelayedCalls()) == (1, [])


def test_a_stop_does_not_wait_for_a_disk_that_hangs() -> None:
    bench = Bench()
    bench.writer.put(["a"])
    bench.writer.put(["b", "c"])
    stopped = ended(bench.writer.stop())
    with logged() as events:
        bench.clock.advance(STOP_S)
    assert stopped == [None]
    assert texts(events) == ["access log FILE: the last records could not be written in time"]
    assert bench.writer.lost == 2
