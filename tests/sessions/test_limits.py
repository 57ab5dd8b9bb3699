"""Sessions where back-ends have limits: who waits, for how long, and how it ends for those that are not served."""

from __future__ import annotations

import pytest

from rproxy.pool.backend import Backend
from rproxy.pool.states import Administration, State
from rproxy.sessions.endings import Ending, Phase
from rproxy.sessions.service import ServiceTerms
from rproxy.sessions.session import CONNECT_TIMEOUT_S, TRIES_MAX, Session
from tests.fakes import logged, run, texts
from tests.sessions.opening import Bench, taken

TERMS = ServiceTerms(wait_s=3, queue=2, queue_timeout_s=5)


def limited(up: int = 1, most: int = 1, terms: ServiceTerms = TERMS) -> Bench:
    bench = Bench(up, terms=terms)
    bench.pool.limit_each(most, 0.0)
    return bench


class Client:
    """A session whose carrier does what it says: chooses, waits, and gives up."""

    def __init__(self, bench: Bench) -> None:
        self.session = bench.open()
        self.times: list[float] = []
        self._bench = bench
        self.go_on()

    def go_on(self) -> None:
        """As a carrier without a back-end."""
        self.times.append(self._bench.clock.seconds())
        if self.session.choose_backend() is None and not self.session.wait_for_backend(self.go_on):
            self.session.give_up()

    def fail(self) -> None:
        self.session.connect_failed()
        self.go_on()

    @property
    def backend(self) -> Backend | None:
        return self.session.backend


def held(bench: Bench, many: int = 1) -> list[Session]:
    return [bench.connected() for _ in range(many)]


def test_clients_wait_while_all_are_full_and_get_the_place_of_the_one_that_leaves() -> None:
    bench = limited()
    (inside,) = held(bench)
    first, second = Client(bench), Client(bench)
    assert [each.session.phase for each in (first, second)] == [Phase.WAITING] * 2
    run(bench.clock, 1)
    inside.ended(Ending.CLOSED)
    run(bench.clock, 0.1)
    assert first.session.phase is Phase.CONNECTING
    assert second.session.phase is Phase.WAITING
    assert first.session.queue_s == pytest.approx(1, abs=0.1)
    assert first.session.connect_timeout_s() == pytest.approx(CONNECT_TIMEOUT_S, abs=0.2)


def test_one_that_comes_meanwhile_does_not_take_the_place() -> None:
    bench = limited()
    (inside,) = held(bench)
    first = Client(bench)
    inside.ended(Ending.CLOSED)
    late = Client(bench)
    assert late.session.phase is Phase.WAITING
    bench.clock.advance(0)
    assert first.session.phase is Phase.CONNECTING


def test_beyond_the_queue_clients_are_turned_away_at_once_and_the_log_says_why() -> None:
    bench = limited()
    held(bench)
    waiting = [Client(bench) for _ in range(2)]
    with logged() as events:
        late = Client(bench)
    assert late.session.ending is Ending.QUEUE_FULL
    assert texts(events) == [
        "1 client(s) turned away: all back-ends are full, and so is the queue; 0 of 1 back-ends may be used"
    ]
    assert [each.session.phase for each in waiting] == [Phase.WAITING] * 2


def test_one_whose_time_is_over_is_turned_away() -> None:
    bench = limited()
    held(bench)
    client = Client(bench)
    run(bench.clock, 10)
    assert client.session.ending is Ending.QUEUE_TIMEOUT
    assert client.times == [0, pytest.approx(5, abs=0.1)]
    assert bench.clock.getDelayedCalls() == []


def test_if_the_full_ones_go_down_the_wait_is_that_for_a_back_end() -> None:
    bench = limited()
    held(bench)
    client = Client(bench)
    bench.service.publish(bench.pool.administer(next(iter(bench.pool)), Administration.DRAIN, 0.0))
    run(bench.clock, 10)
    assert client.session.ending is Ending.NO_BACKEND
    assert client.times[-1] == pytest.approx(3, abs=0.1)


def test_a_client_that_leaves_while_it_waits_is_forgotten() -> None:
    bench = limited()
    (inside,) = held(bench)
    client, other = Client(bench), Client(bench)
    client.session.ended(Ending.CLIENT_GONE)
    assert bench.service.wait_queue.waiting == 1
    inside.ended(Ending.CLOSED)
    bench.clock.advance(0)
    assert other.session.phase is Phase.CONNECTING
    assert len(client.times) == 1


def test_one_whose_connect_failed_waits_for_a_full_one_without_its_time_for_connecting() -> None:
    bench = limited(2)
    (inside,) = held(bench)
    full = inside.backend
    client = Client(bench)
    failed = client.backend
    assert failed is not full
    run(bench.clock, 1.5)
    client.fail()
    assert client.session.phase is Phase.WAITING
    run(bench.clock, 4)
    inside.ended(Ending.CLOSED)
    run(bench.clock, 0.1)
    assert client.backend is full
    assert client.session.connect_timeout_s() == pytest.approx(CONNECT_TIMEOUT_S, abs=0.1)


def test_it_gives_up_when_it_has_waited_as_long_as_it_may_in_all() -> None:
    bench = limited(2)
    first_in, _ = held(bench, 2)
    client = Client(bench)
    run(bench.clock, 2)
    first_in.ended(Ending.CLOSED)
    run(bench.clock, 0.1)
    assert client.backend is not None
    client.fail()
    assert client.session.phase is Phase.WAITING
    run(bench.clock, 10)
    assert client.session.ending is Ending.QUEUE_TIMEOUT
    assert client.session.queue_s == pytest.approx(5, abs=0.1)


def test_a_client_whose_tries_are_over_takes_no_place_in_the_queue() -> None:
    bench = limited(TRIES_MAX + 1)
    held(bench)
    client = Client(bench)
    for _ in range(TRIES_MAX):
        assert client.backend is not None
        client.fail()
    assert client.session.ending is Ending.UNREACHABLE
    assert bench.service.wait_queue.waiting == 0


def test_nor_does_one_whose_tries_are_over_while_none_is_up() -> None:
    bench = Bench(TRIES_MAX, terms=TERMS)
    client = Client(bench)
    for _ in range(TRIES_MAX - 1):
        client.fail()
    for backend in list(bench.pool):
        bench.pool.administer(backend, Administration.DRAIN, 0.0)
    client.fail()
    assert client.session.ending is Ending.UNREACHABLE


def test_the_limit_holds_for_the_clients_of_back_ends_that_fail() -> None:
    bench = limited(3, most=2)
    for _ in range(20):
        client = Client(bench)
        if client.backend is not None and client.backend.address == "10.0.0.1":
            client.fail()
        assert all(backend.connections <= 2 for backend in bench.pool)


def test_a_service_that_ends_connections_at_once_goes_down_though_the_others_are_full() -> None:
    """Else it would take every client that has no place elsewhere, and none of them would be served."""
    bench = limited(2)
    (inside,) = held(bench)
    for _ in range(3):
        session = bench.open()
        backend = taken(session)
        assert backend is not inside.backend
        session.connected()
        assert session.try_redispatch(0, reset=True)
        assert session.choose_backend() is None
        assert session.wait_for_backend(lambda: None)
        session.ended(Ending.CLIENT_GONE)
    assert backend.state is State.DOWN


def test_to_the_only_back_end_that_ends_connections_at_once_a_full_queue_makes_no_difference() -> None:
    bench = limited(1)
    session = bench.open()
    taken(session)
    session.connected()
    assert not session.try_redispatch(0, reset=True)


def test_when_the_listeners_are_closed_clients_wait_on_for_full_back_ends() -> None:
    bench = limited()
    (inside,) = held(bench)
    client = Client(bench)
    bench.service.stop_waiting()
    late = Client(bench)
    assert [each.session.phase for each in (client, late)] == [Phase.WAITING] * 2
    inside.ended(Ending.CLOSED)
    bench.clock.advance(0)
    assert client.session.phase is Phase.CONNECTING
    run(bench.clock, 10)
    assert late.session.ending is Ending.QUEUE_TIMEOUT


def test_but_not_for_one_that_may_come_up() -> None:
    bench = limited(0)
    client = Client(bench)
    assert client.session.phase is Phase.WAITING
    bench.service.stop_waiting()
    assert client.session.ending is Ending.NO_BACKEND
    assert Client(bench).session.ending is Ending.NO_BACKEND


def test_those_that_come_in_the_turn_in_which_a_session_ends_do_not_get_past_the_bound() -> None:
    bench = limited()
    (inside,) = held(bench)
    waiting = [Client(bench) for _ in range(2)]
    inside.ended(Ending.CLOSED)
    assert {Client(bench).session.ending for _ in range(20)} == {Ending.QUEUE_FULL}
    bench.clock.advance(0)
    assert [each.session.phase for each in waiting] == [Phase.CONNECTING, Phase.WAITING]


def test_one_that_waits_for_another_back_end_keeps_nobody_from_one_with_room() -> None:
    """Not even where no more may wait."""
    bench = limited(2, terms=ServiceTerms(queue=1))
    refused = Client(bench)
    (other,) = held(bench)
    failed = refused.backend
    refused.fail()
    assert refused.session.phase is Phase.WAITING
    late = Client(bench)
    assert (late.session.phase, late.backend) == (Phase.CONNECTING, failed)
    other.ended(Ending.CLOSED)
    bench.clock.advance(0)
    assert refused.backend not in (None, failed)
