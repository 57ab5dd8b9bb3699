"""Records become lines a batch at a time, and are handed on ten times a second."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock

from rproxy.observe.access_log import BATCH, FLUSH_S, AccessLog
from rproxy.sessions.record import SessionRecord
from tests.observe.records import record


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.batches: list[int] = []
        self.offsets: list[float] = []
        self.written: list[list[str]] = []
        self.log = AccessLog(self.clock, lambda: 5000.0 + self.clock.seconds(), self._lines, self.written.append)

    def _lines(self, records: Sequence[SessionRecord], offset_s: float) -> list[str]:
        self.batches.append(len(records))
        self.offsets.append(offset_s)
        return [each.service for each in records]

    def end(self, *names: str) -> None:
        for name in names:
            self.log.session_ended(record(service=name))


def test_a_line_waits_for_others_for_a_tenth_of_a_second() -> None:
    bench = Bench()
    bench.end("a")
    bench.clock.advance(FLUSH_S / 2)
    bench.end("b")
    assert bench.written == []
    bench.clock.advance(FLUSH_S * 0.6)
    assert bench.written == [["a", "b"]]
    assert bench.offsets == [5000.0]
    assert bench.clock.getDelayedCalls() == []


def test_the_records_of_many_sessions_are_not_kept_until_then() -> None:
    bench = Bench()
    names = [f"{number}" for number in range(2 * BATCH + 3)]
    bench.end(*names)
    assert bench.batches == [BATCH, BATCH]
    bench.clock.advance(FLUSH_S)
    assert bench.written == [names]


def test_a_flush_leaves_no_timer_and_may_be_repeated() -> None:
    bench = Bench()
    bench.log.flush()
    bench.end("a")
    bench.log.flush()
    bench.log.flush()
    assert (bench.written, bench.clock.getDelayedCalls()) == ([["a"]], [])
    bench.end("b")
    bench.clock.advance(FLUSH_S)
    assert bench.written == [["a"], ["b"]]
