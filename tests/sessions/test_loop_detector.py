"""When a full proxy is taken to be in a loop: on sessions in memory, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from twisted.internet.task import Clock

from rproxy.pool.backend import Backend
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.loop_detector import AGAIN_S, COLLAPSE_S, SILENT_S, LoopDetector
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from tests.fakes import FakeLink, pool_with, run

PLACES = 20


class Sessions:
    """Sessions that carry what the test says, and which in a loop end with each other."""

    def __init__(self, clock: Clock) -> None:
        self.service = Service(pool_with(1), clock)
        self.all: list[Session] = []
        self.links: list[FakeLink] = []
        self.cuts: list[Session] = []
        self.on_cut: Callable[[Session], None] = lambda session: None

    def open(self, host: str) -> Session:
        link = FakeLink(f"{host}:1234")
        session = Session(self.service, link)
        link.on_cut = partial(self._cut, session)
        assert session.choose_backend() is not None
        session.connected()
        self.all.append(session)
        self.links.append(link)
        return session

    def connected(self) -> list[Session]:
        return [session for session in self.all if session.is_connected]

    def slices(self) -> Iterator[list[Session]]:
        yield self.connected()

    def _cut(self, session: Session, ending: Ending) -> None:
        self.cuts.append(session)
        session.ended(ending)
        self.on_cut(session)


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.sessions = Sessions(self.clock)
        self.capacity = Capacity(PLACES, self.clock.seconds)
        self.found: list[Backend] = []
        self.detector = LoopDetector(self.clock, self.sessions.slices, self.capacity, self.found.append)
        (self.backend,) = self.sessions.service.pool

    def fill(self, returning: int) -> None:
        for number in range(PLACES):
            self.sessions.open(self.backend.address if number < returning else "192.0.2.1")
            self.capacity.enter()

    def collapse(self, _: Session) -> None:
        for session in self.sessions.connected():
            session.ended(Ending.BACKEND_RESET)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_loop_ends_with_one_of_its_sessions(bench: Bench) -> None:
    bench.fill(PLACES)
    bench.sessions.on_cut = bench.collapse
    run(bench.clock, 2 * SILENT_S + COLLAPSE_S)
    assert bench.found == [bench.backend]
    assert bench.clock.getDelayedCalls() == []


def test_the_remaining_sessions_of_a_loop_are_ended(bench: Bench) -> None:
    """As when the other proxy is full, too, and keeps its connections open."""
    bench.fill(PLACES)

    def half(_: Session) -> None:
        for session in bench.sessions.connected()[: PLACES // 2]:
            session.ended(Ending.BACKEND_RESET)

    bench.sessions.on_cut = half
    run(bench.clock, 2 * SILENT_S + COLLAPSE_S - 0.1)
    bench.sessions.on_cut = lambda session: None
    run(bench.clock, 0.2)
    assert (bench.found, bench.sessions.connected()) == ([bench.backend], [])


def test_idle_clients_on_the_host_of_their_back_end_lose_one_a_minute_and_nothing_more(bench: Bench) -> None:
    bench.fill(PLACES)
    run(bench.clock, 2 * SILENT_S + COLLAPSE_S + AGAIN_S)
    assert (bench.found, len(bench.sessions.cuts)) == ([], 1)


@pytest.mark.parametrize("why", ["few", "busy", "not full"])
def test_without_a_loop_no_session_is_ended(why: str, bench: Bench) -> None:
    bench.fill(PLACES // 2 - 1 if why == "few" else PLACES)
    if why == "not full":
        bench.capacity.leave()
    for _ in range(20):
        run(bench.clock, SILENT_S / 10 if why == "busy" else AGAIN_S)
        for link in bench.sessions.links if why == "busy" else ():
            link.up += 1
    assert (bench.found, bench.sessions.cuts) == ([], [])


def test_a_stop_leaves_no_timer(bench: Bench) -> None:
    bench.fill(PLACES)
    bench.detector.stop()
    bench.detector.stop()
    assert list(bench.clock.getDelayedCalls()) == []
