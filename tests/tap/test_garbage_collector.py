"""Which objects Python's collector looks at: young ones often, and old ones seldom, but sooner or later all."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from rproxy.config.options import ProxyOptions
from rproxy.tap.garbage_collector import YOUNG, GarbageCollector
from rproxy.tap.proxy import makeService


class Knot:
    """A reference cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def collector(clock: Clock, free_objects: int) -> Iterator[GarbageCollector]:
    made = GarbageCollector(clock, free_objects)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def _seldom(clock: Clock) -> Iterator[GarbageCollector]:
    yield from collector(clock, 1 << 30)


@pytest.fixture
def _often(clock: Clock) -> Iterator[GarbageCollector]:
    yield from collector(clock, 5 * YOUNG)


def longest_collection(hold: int, knots: int) -> int:
    """Make knots that live for a while; returns the most objects that one collection of Python's own looked at."""
    kept: deque[Knot] = deque(maxlen=hold)
    seen = [0]

    def look(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(sum(len(gc.get_objects(each)) for each in range(info["generation"] + 1)))

    gc.callbacks.append(look)
    try:
        for _ in range(knots):
            kept.append(Knot())
    finally:
        gc.callbacks.remove(look)
    return max(seen)


@pytest.mark.usefixtures("_seldom")
def test_no_collection_looks_at_more_objects_than_have_just_been_made() -> None:
    """A Python of its own would look at all of them whenever a quarter more had been made."""
    assert longest_collection(hold=50 * YOUNG, knots=50 * YOUNG) <= 5 * YOUNG


@pytest.mark.usefixtures("_seldom")
def test_a_young_cycle_is_freed_and_an_old_object_without_one_too() -> None:
    young = weakref.ref(Knot())
    gc.collect(0)
    assert young() is None
    old = {Clock(): 1}
    gone = weakref.ref(next(iter(old)))
    gc.collect(1)
    del old
    assert gone() is None


@pytest.mark.usefixtures("_often")
def test_cycles_that_grow_old_are_freed_at_last_however_many_there_are(clock: Clock) -> None:
    alive: weakref.WeakSet[Knot] = weakref.WeakSet()
    kept: deque[Knot] = deque(maxlen=3 * YOUNG)
    most = 0
    for number in range(40 * YOUNG):
        knot = Knot()
        kept.append(knot)
        alive.add(knot)
        if not number % 100:
            clock.advance(0)
            most = max(most, len(alive))
    assert 5 * YOUNG < most < 20 * YOUNG


def test_stopped_it_leaves_no_timer_and_no_callback(clock: Clock) -> None:
    before = list(gc.callbacks)
    made = GarbageCollector(clock, 1)
    made.stop()
    made.start()
    for _ in range(4):
        gc.collect(1)
    assert clock.getDelayedCalls()
    made.stop()
    made.stop()
    assert (gc.callbacks, clock.getDelayedCalls()) == (before, [])


def test_a_program_that_the_proxy_is_a_part_of_keeps_its_own_settings() -> None:
    before = (gc.get_threshold(), list(gc.callbacks), gc.get_freeze_count())
    options = ProxyOptions()
    options.parseOptions(["--listen", "127.0.0.1:0", "--monitor", "127.0.0.1:0"])
    makeService(options)
    assert (gc.get_threshold(), list(gc.callbacks), gc.get_freeze_count()) == before
