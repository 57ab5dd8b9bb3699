from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.task import Clock

from rproxy.admin.snapshots import REUSED_S, Snapshot, Snapshots
from rproxy.timing.work_queue import WorkQueue
from tests.fakes import logged, run, texts, turn


class Bench:
    def __init__(self, pieces: int) -> None:
        self.clock = Clock()
        self.begun = 0
        self.rendered = 0
        self.pieces = pieces
        self.error: Exception | None = None
        self.answers: list[Snapshot | None] = []
        self.snapshots = Snapshots(self._render, WorkQueue(self.clock), self.clock.seconds)

    def _render(self) -> Iterator[bytes]:
        self.begun += 1
        for number in range(self.pieces):
            if self.error is not None:
                raise self.error
            self.rendered += 1
            yield b"%d" % number

    def ask(self) -> None:
        self.snapshots.request(self.answers.append)

    def turns(self, number: int) -> None:
        for _ in range(number):
            turn(self.clock)


def test_a_piece_is_rendered_in_each_turn_of_the_reactor() -> None:
    bench = Bench(3)
    bench.ask()
    assert bench.rendered == 0
    for number in (1, 2, 3):
        bench.turns(1)
        assert (bench.rendered, bench.answers) == (number, [])
    bench.turns(1)
    (snapshot,) = bench.answers
    assert snapshot is not None
    assert (snapshot.pieces, snapshot.size) == ((b"0", b"1", b"2"), 3)


def test_all_requests_during_rendering_share_the_snapshot() -> None:
    bench = Bench(3)
    bench.ask()
    bench.turns(2)
    bench.ask()
    run(bench.clock, 0)
    assert bench.begun == 1
    assert bench.answers[0] is bench.answers[1] is not None


def test_the_larger_it_is_the_longer_it_is_given_out_again() -> None:
    bench = Bench(3)
    bench.ask()
    run(bench.clock, 1.9 * REUSED_S)
    bench.ask()
    assert bench.begun == 1
    assert bench.answers[0] is bench.answers[1]
    run(bench.clock, 0.2 * REUSED_S)
    bench.ask()
    assert len(bench.answers) == 2
    run(bench.clock, 0)
    assert bench.begun == 2
    assert bench.answers[2] is not bench.answers[1]


def test_what_is_rendered_in_one_go_is_always_new() -> None:
    bench = Bench(1)
    for times in (1, 2, 3):
        bench.ask()
        run(bench.clock, 0)
        assert bench.begun == len(bench.answers) == times


def test_one_that_cannot_be_rendered_is_said_seldom_and_tried_again() -> None:
    bench = Bench(2)
    bench.error = ValueError("no figure")
    with logged() as events:
        for _ in range(3):
            bench.ask()
            run(bench.clock, 0)
    assert bench.answers == [None] * 3
    assert len(texts(events)) == 1
    bench.error = None
    bench.ask()
    run(bench.clock, 0)
    assert bench.answers[-1] is not None


def test_empty_pieces_take_their_turn_and_are_not_sent() -> None:
    bench = Bench(0)
    bench.snapshots = Snapshots(lambda: iter((b"", b"a", b"", b"b")), WorkQueue(bench.clock), bench.clock.seconds)
    bench.ask()
    bench.turns(4)
    assert bench.answers == []
    bench.turns(1)
    (snapshot,) = bench.answers
    assert snapshot is not None
    assert (snapshot.pieces, snapshot.size) == ((b"a", b"b"), 2)
    run(bench.clock, 2.9 * REUSED_S)
    bench.ask()
    assert bench.answers[1] is snapshot
