"""Which back-ends are found unresponsive: after which silence, for how long, and compared with which others."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service, ServiceTerms
from rproxy.sessions.session import Session
from tests.fakes import FakeLink, pool_with, run

LIMIT_S = 10.0


class Bench:
    """Sessions on chosen back-ends, carrying what the test says."""

    def __init__(self, up: int = 2) -> None:
        self.clock = Clock()
        self.pool = pool_with(up)
        pool = self.pool
        self.service = Service(pool, self.clock, ServiceTerms(first_byte_s=LIMIT_S))
        self.backends = list(self.pool)
        self.sessions: list[Session] = []
        self.service.start()

    def open(self, backend: Backend, *, up: int = 0, down: int = 0) -> Session:
        link = FakeLink()
        session = Session(self.service, link)
        session._failed = tuple(each for each in self.backends if each is not backend)
        session._failed = session._failed[:1]
        if session.choose_backend() is not backend:
            raise AssertionError("another was chosen")
        session._failed = ()
        session.connected()
        session.up, session.down = link.up, link.down = up, down
        self.sessions.append(session)
        return session

    def answered(self, backend: Backend) -> None:
        self.open(backend, up=1, down=1).ended(Ending.CLOSED)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def state_after_silence(
    bench: Bench, clients: int = 3, *, up: int = 1, seconds: float = LIMIT_S + 1, other: bool = True
) -> State:
    """The state of the first back-end after its clients have waited, while the other one answers."""
    first, second = bench.backends
    for _ in range(clients):
        bench.open(first, up=up)
    for _ in range(int(seconds)):
        run(bench.clock, 1)
        if other:
            bench.answered(second)
    run(bench.clock, 1)
    return first.state


def test_three_that_asked_and_got_nothing_take_it_down(bench: Bench) -> None:
    assert state_after_silence(bench) is State.DOWN
    assert bench.backends[1].state is State.UP


@pytest.mark.parametrize(
    "how",
    [
        {"clients": 2},
        {"up": 0},
        {"seconds": LIMIT_S - 2},
        {"other": False},
    ],
    ids=["too few", "no client asked", "too soon", "the other says nothing either"],
)
def test_otherwise_it_stays(bench: Bench, how: dict[str, object]) -> None:
    assert state_after_silence(bench, **how) is State.UP  # type: ignore[arg-type]


def test_one_byte_to_any_client_is_an_answer(bench: Bench) -> None:
    first, second = bench.backends
    for _ in range(5):
        bench.open(first, up=1)
    for second_s in range(20):
        run(bench.clock, 1)
        bench.answered(second)
        if second_s % 8 == 7:
            bench.open(first, up=1, down=1)
            for _ in range(3):
                bench.open(first, up=1)
    assert first.state is State.UP


def test_clients_that_give_up_before_the_limit_count_as_well(bench: Bench) -> None:
    first, second = bench.backends
    for _ in range(5):
        session = bench.open(first, up=1)
        run(bench.clock, 2)
        session.ended(Ending.CLIENT_RESET)
        bench.answered(second)
    run(bench.clock, 1)
    assert first.state is State.DOWN


def test_clients_that_leave_at_once_do_not(bench: Bench) -> None:
    first, second = bench.backends
    for _ in range(100):
        session = bench.open(first, up=1)
        run(bench.clock, 0.2)
        session.ended(Ending.CLIENT_RESET)
        bench.answered(second)
    assert first.state is State.UP


def test_where_other_back_ends_speak_first_clients_need_not_have_sent_anything(bench: Bench) -> None:
    first, second = bench.backends
    for _ in range(3):
        bench.open(first)
    for _ in range(12):
        run(bench.clock, 1)
        bench.open(second, down=1).ended(Ending.CLOSED)
    assert first.state is State.DOWN


def test_a_long_poll_beside_new_clients_is_no_silence(bench: Bench) -> None:
    first, second = bench.backends
    bench.open(first, up=1)
    run(bench.clock, LIMIT_S - 1)
    bench.answered(second)
    for _ in range(5):
        bench.open(first, up=1)
    run(bench.clock, 2)
    bench.answered(second)
    run(bench.clock, 1)
    assert first.state is State.UP


def test_an_early_end_is_no_silence_and_another_back_ends_bytes_are_no_answer(bench: Bench) -> None:
    first, second = bench.backends
    waiting = [bench.open(first, up=1) for _ in range(3)]
    elsewhere = bench.open(first)
    assert elsewhere.try_redispatch(0, reset=True)
    assert elsewhere.choose_backend() is second
    for _ in range(int(LIMIT_S) + 2):
        run(bench.clock, 1)
        bench.answered(second)
    assert waiting[0].backend is first
    elsewhere.connect_failed()
    elsewhere.give_up()
    assert first.state is State.DOWN


def test_what_has_ended_leaves_nothing_behind(bench: Bench) -> None:
    state_after_silence(bench)
    for session in bench.sessions:
        session.ended(Ending.CLOSED)
    run(bench.clock, 2)
    bench.service.stop()
    watching = bench.service.first_byte
    assert watching is not None
    assert all(not watch.unanswered for watch in watching._watches.values())
    assert bench.clock.getDelayedCalls() == []
