"""What operators are told of the last hour."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.observe.history import KEPT, KEPT_S, Happening, History
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import AgentRestarted, DrainingChanged, PanicChanged, PassedOver, Transitioned
from rproxy.pool.states import Event, State


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.history = History(self.clock.seconds)
        self.publish = Publisher()
        self.publish.subscribe(self.history.observers("web"))
        self.backend = Backend("10.0.0.1", 80, Registration(("10.0.0.1", 5556), 1, 20.0, 100))

    def change(self, before: State, after: State, event: Event = Event.ANSWERED) -> None:
        self.publish((Transitioned(self.backend, before, after, event, "so"),))

    def kinds(self) -> list[str]:
        return [each.kind for each in self.history.after(0)]


def test_a_back_end_that_goes_down_is_told_with_the_reason() -> None:
    bench = Bench()
    bench.clock.advance(5)
    bench.change(State.SUSPECT, State.DOWN)
    assert list(bench.history.after(0)) == [Happening(1, 5.0, "web", "10.0.0.1:80", "down", "so")]


@pytest.mark.parametrize(
    ("before", "after"),
    [(State.UP, State.SUSPECT), (State.SUSPECT, State.UP), (State.REGISTERED, State.FORGOTTEN)],
)
def test_one_lost_probe_and_a_host_that_never_answered_are_not_told(before: State, after: State) -> None:
    bench = Bench()
    bench.change(before, after)
    assert bench.kinds() == []


def test_each_kind_has_its_word() -> None:
    bench = Bench()
    bench.publish((PanicChanged(True), PanicChanged(False), AgentRestarted(bench.backend)))
    bench.publish((PassedOver(bench.backend, "CPU from 95 %"), PassedOver(bench.backend, "")))
    bench.backend.draining = True
    bench.publish((DrainingChanged(bench.backend),))
    assert bench.kinds() == ["panic", "calm", "restarted", "passed-over", "considered", "drain"]


def test_those_of_an_hour_are_kept_and_no_more_than_a_fixed_number() -> None:
    bench = Bench()
    bench.change(State.UP, State.DOWN)
    bench.clock.advance(KEPT_S + 1)
    assert bench.kinds() == []
    for _ in range(KEPT + 7):
        bench.change(State.UP, State.DOWN)
    kept = list(bench.history.after(0))
    assert (len(kept), kept[0].id) == (KEPT, 9)
    assert [each.id for each in bench.history.after(KEPT + 6)] == [KEPT + 7, KEPT + 8]


def test_followers_get_each_new_one() -> None:
    bench, got = Bench(), list[Happening]()
    bench.history.followers.append(got.append)
    bench.change(State.UP, State.DOWN)
    assert got == list(bench.history.after(0))


def test_the_newest_of_a_back_end_and_a_kind_is_found() -> None:
    bench = Bench()
    bench.change(State.UP, State.DOWN)
    bench.clock.advance(5)
    bench.change(State.DOWN, State.UP)
    bench.publish((AgentRestarted(bench.backend),))
    name, latest = bench.backend.name, bench.history.latest
    found = latest("web", name, ("up", "down"))
    assert found is not None
    assert (found.kind, found.at) == ("up", 5.0)
    down = latest("web", name, ("down",))
    assert down is not None
    assert down.at == 0.0
    assert (
        latest("web", name, ("drain",))
        is latest("other", name, ("up",))
        is latest("web", "10.9.9.9:80", ("up",))
        is None
    )
    bench.clock.advance(KEPT_S)
    assert latest("web", name, ("down",)) is None
    assert latest("web", name, ("up",)) is found
