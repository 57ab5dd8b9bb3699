"""Observers get the events of the kinds that they asked for, in their order, whatever one of them raises."""

from __future__ import annotations

from functools import partial

from rproxy.observe.publisher import Publisher
from rproxy.pool.events import NOTHING, EligibilityChanged, PanicChanged, PoolEvent, Transitioned
from rproxy.pool.states import Event, State
from tests.fakes import logged, pool_with

BEGINS, ENDS = PanicChanged(True), PanicChanged(False)


def test_every_observer_is_called_for_every_event_of_its_kinds() -> None:
    (backend,) = pool_with(1)
    up, eligible = Transitioned(backend, State.DOWN, State.UP, Event.RISEN, "so"), EligibilityChanged(backend, True)
    publish = Publisher()
    first: list[PoolEvent] = []
    second: list[PoolEvent] = []
    publish.subscribe({PanicChanged: first.append, Transitioned: first.append})
    publish.subscribe({PanicChanged: second.append})
    publish((up, eligible, BEGINS))
    assert (first, second) == ([up, BEGINS], [BEGINS])


def test_an_event_goes_to_all_in_the_order_of_their_subscriptions_before_the_next_one() -> None:
    publish = Publisher()
    seen: list[tuple[str, PoolEvent]] = []

    def note(name: str, event: PoolEvent) -> None:
        seen.append((name, event))

    for name in ("timers", "log", "others"):
        publish.subscribe({PanicChanged: partial(note, name)})
    publish((BEGINS, ENDS))
    assert seen == [(name, event) for event in (BEGINS, ENDS) for name in ("timers", "log", "others")]


def test_what_one_raises_is_logged_and_the_others_still_see_it() -> None:
    publish = Publisher()
    seen: list[PoolEvent] = []

    def fail(event: PoolEvent) -> None:
        raise ValueError(event)

    publish.subscribe({PanicChanged: fail})
    publish.subscribe({PanicChanged: seen.append})
    with logged() as events:
        publish((BEGINS, ENDS))
    assert seen == [BEGINS, ENDS]
    assert [event["log_failure"].type for event in events] == [ValueError, ValueError]


def test_without_observers_nothing_happens() -> None:
    with logged() as events:
        Publisher()((BEGINS,))
        Publisher()(NOTHING)
    assert list(events) == []
