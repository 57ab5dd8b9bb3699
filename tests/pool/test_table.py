"""Rules 1 to 6 of the monitoring protocol, and the states of a back-end, at the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import pytest

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend
from rproxy.pool.candidates import OUTSTANDING_MAX, RETRY_MAX_S, RETRY_MIN_S
from rproxy.pool.events import Events
from rproxy.pool.health import HOLD_MAX_S, HOLD_MIN_S, REFUSALS
from rproxy.pool.limits import Limits
from rproxy.pool.pool import Pool
from rproxy.pool.probes import RETIRED_MAX
from rproxy.pool.states import Administration, State
from rproxy.wire.pdu import UINT32_MAX, UINT64_MAX
from tests.fakes import UNLIMITED
from tests.pool.driving import AGENT, Answered, Driver, agent, transition_of

OTHER_PORT: Address = (AGENT[0], 5556)


@pytest.fixture
def driver() -> Driver:
    return Driver()


@contextmanager
def refused(pool: Pool, refusal: Refusal) -> Iterator[None]:
    """What runs inside is rejected for `refusal`, and leaves the pool as it was."""
    before = attrs.asdict(pool)
    with pytest.raises(Rejected) as caught:
        yield
    assert caught.value.refusal is refusal
    assert attrs.asdict(pool) == before


class TestWhatABackendIs:
    """Rule 1."""

    def test_it_is_the_source_address_and_the_service_port(self, driver: Driver) -> None:
        one = driver.register(("10.0.0.1", 5555), service_port=80)
        other_port = driver.register(("10.0.0.1", 5556), service_port=81)
        other_host = driver.register(("10.0.0.2", 5555), service_port=80)
        assert len({one, other_port, other_host}) == 3
        assert [(b.address, b.port) for b in driver.pool] == [("10.0.0.1", 80), ("10.0.0.1", 81), ("10.0.0.2", 80)]

    def test_registering_again_is_the_same_backend(self, driver: Driver) -> None:
        assert driver.register() is driver.register()
        assert len(driver.pool) == 1

    def test_it_is_probed_where_its_registration_came_from(self, driver: Driver) -> None:
        assert driver.register(("2001:db8::5", 40000)).registration.agent == ("2001:db8::5", 40000)

    def test_service_port_0_is_the_default_port(self) -> None:
        driver = Driver(default_port=8080)
        backend = driver.register(service_port=0)
        assert backend.port == 8080
        assert driver.register(service_port=8080) is backend
        assert driver.pool.get("10.0.0.1", 8080) is backend

    def test_it_may_unregister_with_service_port_0(self) -> None:
        driver = Driver(default_port=8080)
        driver.register(service_port=0)
        driver.unregister(port=0)
        assert driver.pool.get("10.0.0.1", 8080) is None

    def test_a_registration_updates_interval_and_weight(self, driver: Driver) -> None:
        backend = driver.up()
        driver.register(interval_ms=500, weight=300)
        assert (backend.registration.interval_s, backend.registration.weight) == (0.5, 300)


class TestTrafficIsEarned:
    """Rule 2."""

    def test_registering_however_often_earns_no_traffic(self, driver: Driver) -> None:
        for _ in range(10):
            backend = driver.register()
        assert backend.state is State.REGISTERED
        assert driver.pool.eligible == []

    def test_a_probe_without_an_answer_earns_no_traffic(self, driver: Driver) -> None:
        driver.probe(driver.register())
        assert driver.pool.eligible == []

    def test_the_first_valid_response_earns_it(self, driver: Driver) -> None:
        backend = driver.register()
        confirmed = driver.report(backend, after_s=0.25, cpu=17, memory=89, load=3, tcp=4)
        assert driver.pool.eligible == [backend]
        assert confirmed.transition is not None
        assert (confirmed.transition.before, confirmed.transition.after) == (State.REGISTERED, State.UP)

    def test_a_valid_response_tells_load_and_round_trip_time(self, driver: Driver) -> None:
        backend = driver.up()
        confirmed = driver.report(backend, after_s=0.25, cpu=17, memory=None, load=3, tcp=4)
        report = backend.report
        assert (report.cpu, report.memory, report.load, report.tcp) == (17, None, 3, 4)
        assert backend.rtt.last_ms == confirmed.sample_ms == pytest.approx(250)
        assert confirmed.transition is None


Answer = Callable[[Driver, Backend], Answered]


def _unasked(driver: Driver, backend: Backend) -> Answered:
    return driver.answer(driver.probe(backend), after_s=0, token=UINT32_MAX)


def _wrong_sequence(driver: Driver, backend: Backend) -> Answered:
    probe = driver.probe(backend)
    return driver.answer(probe, sequence=probe.request.sequence + 1)


def _sequence_of_another_probe(driver: Driver, backend: Backend) -> Answered:
    first, second = driver.probe(backend), driver.probe(backend)
    return driver.answer(first, sequence=second.request.sequence)


def _wrong_host(driver: Driver, backend: Backend) -> Answered:
    return driver.answer(driver.probe(backend), source=("10.0.0.9", 5555))


def _wrong_port(driver: Driver, backend: Backend) -> Answered:
    return driver.answer(driver.probe(backend), source=OTHER_PORT)


def _probe_of_another_backend(driver: Driver, backend: Backend) -> Answered:
    other = driver.register(("10.0.0.9", 5555))
    driver.probe(backend)
    return driver.answer(driver.probe(other), source=AGENT)


def _twice(driver: Driver, backend: Backend) -> Answered:
    probe = driver.probe(backend)
    driver.answer(probe)
    return driver.answer(probe)


def _after_its_loss(driver: Driver, backend: Backend) -> Answered:
    probe = driver.probe(backend)
    driver.lose(probe)
    return driver.answer(probe)


def _after_the_timeout_but_before_its_loss(driver: Driver, backend: Backend) -> Answered:
    return driver.answer(driver.probe(backend), after_s=0.501)


def _after_it_was_forgotten(driver: Driver, backend: Backend) -> Answered:
    probe = driver.probe(backend)
    driver.unregister()
    return driver.answer(probe)


class TestWhichResponseCounts:
    """Rule 3."""

    @pytest.mark.parametrize("confirmed_before", [False, True], ids=["registered", "up"])
    @pytest.mark.parametrize(
        ("answer", "refusal"),
        [
            (_unasked, Refusal.UNKNOWN),
            (_wrong_sequence, Refusal.UNKNOWN),
            (_sequence_of_another_probe, Refusal.UNKNOWN),
            (_wrong_host, Refusal.WRONG_SOURCE),
            (_wrong_port, Refusal.WRONG_SOURCE),
            (_probe_of_another_backend, Refusal.WRONG_SOURCE),
            (_twice, Refusal.DUPLICATE),
            (_after_its_loss, Refusal.LATE),
            (_after_the_timeout_but_before_its_loss, Refusal.LATE),
            (_after_it_was_forgotten, Refusal.UNKNOWN),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_any_other_changes_nothing(
        self, driver: Driver, monkeypatch: pytest.MonkeyPatch, answer: Answer, refusal: Refusal, confirmed_before: bool
    ) -> None:
        """The state is compared around the last response, the one that is refused."""
        backend = driver.up() if confirmed_before else driver.register()
        states = []
        respond = Pool.respond

        def watched(pool: Pool, *args: Any) -> Events:
            states.append(attrs.asdict(pool))
            return respond(pool, *args)

        monkeypatch.setattr(Pool, "respond", watched)
        with pytest.raises(Rejected) as caught:
            answer(driver, backend)
        assert caught.value.refusal is refusal
        assert attrs.asdict(driver.pool) == states[-1]

    def test_one_exactly_at_the_timeout_counts(self, driver: Driver) -> None:
        backend = driver.register()
        driver.report(backend, after_s=driver.pool.timeout_s)
        assert backend.eligible

    def test_responses_may_come_out_of_order(self, driver: Driver) -> None:
        backend = driver.register()
        first, second = driver.probe(backend), driver.probe(backend)
        driver.answer(second, cpu=2)
        driver.answer(first, cpu=1)
        assert backend.losses.rate == 0
        assert backend.outstanding == set()

    def test_a_refused_response_leaves_the_valid_one_its_effect(self, driver: Driver) -> None:
        backend = driver.register()
        probe = driver.probe(backend)
        with refused(driver.pool, Refusal.WRONG_SOURCE):
            driver.answer(probe, source=OTHER_PORT)
        driver.answer(probe)
        assert backend.eligible

    def test_a_late_response_does_not_take_its_loss_back(self, driver: Driver) -> None:
        backend = driver.up()
        probe = driver.probe(backend)
        driver.lose(probe)
        with refused(driver.pool, Refusal.LATE):
            driver.answer(probe)
        assert (backend.misses, backend.losses.rate) == (1, 0.5)

    def test_a_probe_is_lost_once(self, driver: Driver) -> None:
        backend = driver.up()
        probe = driver.probe(backend)
        driver.lose(probe)
        driver.lose(probe)
        assert (backend.misses, backend.losses.rate) == (1, 0.5)

    def test_an_answered_probe_cannot_be_lost(self, driver: Driver) -> None:
        backend = driver.up()
        probe = driver.probe(backend)
        driver.answer(probe)
        driver.lose(probe)
        assert (backend.misses, backend.losses.rate) == (0, 0.0)


class TestUnregistering:
    """Rule 4."""

    def test_the_registered_instance_takes_the_backend_away(self, driver: Driver) -> None:
        backend = driver.up()
        driver.probe(backend)
        transition = driver.unregister()
        assert transition is not None
        assert (transition.before, transition.after) == (State.UP, State.FORGOTTEN)
        assert (len(driver.pool), driver.pool.eligible, backend.outstanding) == (0, [], set())

    def test_another_instance_changes_nothing(self, driver: Driver) -> None:
        driver.up(instance=1)
        with refused(driver.pool, Refusal.WRONG_INSTANCE):
            driver.unregister(instance=2)

    @pytest.mark.parametrize(("source", "port"), [(("10.0.0.2", 5555), 80), (AGENT, 81)])
    def test_for_another_backend_it_changes_nothing(self, driver: Driver, source: Address, port: int) -> None:
        driver.up()
        with refused(driver.pool, Refusal.UNKNOWN):
            driver.unregister(source, port=port)

    def test_a_replayed_one_changes_nothing(self, driver: Driver) -> None:
        driver.up()
        driver.unregister()
        with refused(driver.pool, Refusal.UNKNOWN):
            driver.unregister()

    @pytest.mark.parametrize("source", [AGENT, OTHER_PORT])
    def test_its_instance_cannot_register_again(self, driver: Driver, source: Address) -> None:
        driver.up(instance=1)
        driver.unregister(instance=1)
        with refused(driver.pool, Refusal.RETIRED):
            driver.register(source, instance=1)

    def test_it_stays_retired_while_its_successor_serves(self, driver: Driver) -> None:
        driver.up(instance=1)
        driver.unregister(instance=1)
        driver.up(instance=2)
        with refused(driver.pool, Refusal.RETIRED):
            driver.register(instance=1)

    def test_a_new_instance_may_register_at_once(self, driver: Driver) -> None:
        driver.up(instance=1)
        driver.unregister(instance=1)
        assert driver.up(instance=2).eligible

    def test_it_retires_the_instance_of_its_own_backend_only(self, driver: Driver) -> None:
        driver.up(("10.0.0.1", 5555), instance=1)
        driver.unregister(("10.0.0.1", 5555), instance=1)
        assert driver.up(("10.0.0.2", 5555), instance=1).eligible

    def test_an_unconfirmed_backend_may_unregister(self, driver: Driver) -> None:
        driver.register()
        transition = driver.unregister()
        assert transition is not None
        assert transition.before is State.REGISTERED
        assert len(driver.pool) == 0


class TestSequenceNumbers:
    """Rule 6."""

    def test_they_start_at_0_and_count_up_by_1_for_each_backend(self, driver: Driver) -> None:
        one, other = driver.register(agent(1)), driver.register(agent(2))
        probed = [one, one, other, one, other]
        assert [driver.probe(backend).request.sequence for backend in probed] == [0, 1, 0, 2, 1]

    def test_a_lost_probe_uses_its_number_up(self, driver: Driver) -> None:
        backend = driver.up()
        driver.lose(driver.probe(backend))
        assert driver.probe(backend).request.sequence == 2

    @pytest.mark.parametrize("sequence", [2**16 - 1, 2**31 - 1, UINT32_MAX - 1])
    def test_they_use_all_32_bits(self, driver: Driver, sequence: int) -> None:
        backend = driver.up()
        backend.probing.next_sequence = sequence
        assert [driver.probe(backend).request.sequence for _ in range(2)] == [sequence, sequence + 1]

    def test_after_the_last_comes_0(self, driver: Driver) -> None:
        backend = driver.up()
        backend.probing.next_sequence = UINT32_MAX
        last, first = driver.probe(backend), driver.probe(backend)
        assert (last.request.sequence, first.request.sequence) == (UINT32_MAX, 0)
        driver.answer(last)
        driver.answer(first)
        assert backend.losses.rate == 0


@pytest.mark.parametrize(
    ("source", "instance"),
    [(AGENT, 2), (OTHER_PORT, 1), (OTHER_PORT, 2)],
    ids=["another instance", "another port", "another agent"],
)
class TestCandidate:
    """A registration that differs in the agent's port or instance waits for a probe."""

    def test_it_changes_nothing_before_it_is_confirmed(self, driver: Driver, source: Address, instance: int) -> None:
        backend = driver.up()
        before = attrs.asdict(backend)
        driver.now += 1
        driver.register(source, instance=instance, draining=True, weight=500, interval_ms=1)
        assert attrs.asdict(backend) == before
        assert driver.pool.eligible == [backend]

    def test_a_probe_it_answers_makes_it_the_agent(self, driver: Driver, source: Address, instance: int) -> None:
        backend = driver.up()
        driver.register(source, instance=instance, weight=500)
        candidate = driver.candidate(backend)
        driver.answer(driver.probe(backend, candidate))
        assert backend.registration == candidate
        assert (candidate.agent, candidate.instance, candidate.weight) == (source, instance, 500)
        assert driver.pool.eligible == [backend]

    def test_its_lost_probes_are_not_held_against_the_backend(
        self, driver: Driver, source: Address, instance: int
    ) -> None:
        backend = driver.up()
        for _ in range(5):
            driver.now += RETRY_MAX_S
            driver.register(source, instance=instance)
            assert driver.lose(driver.probe(backend, driver.candidate(backend))) is None
        assert (backend.state, backend.misses, backend.losses.rate) == (State.UP, 0, 0.0)

    def test_it_is_dropped_when_its_probe_is_lost(self, driver: Driver, source: Address, instance: int) -> None:
        backend = driver.up()
        before = attrs.asdict(backend.registration)
        driver.register(source, instance=instance)
        driver.lose(driver.probe(backend, driver.candidate(backend)))
        assert attrs.asdict(backend.registration) == before

    def test_it_may_try_again_after_a_lost_probe(self, driver: Driver, source: Address, instance: int) -> None:
        backend = driver.up()
        driver.register(source, instance=instance)
        driver.lose(driver.probe(backend, driver.candidate(backend)))
        driver.now += RETRY_MIN_S
        driver.register(source, instance=instance)
        driver.answer(driver.probe(backend, driver.candidate(backend)))
        assert (backend.registration.agent, backend.registration.instance) == (source, instance)

    def test_its_predecessors_lost_probes_are_not_held_against_it(
        self, driver: Driver, source: Address, instance: int
    ) -> None:
        backend = driver.up()
        to_predecessor = [driver.probe(backend) for _ in range(3)]
        driver.register(source, instance=instance)
        driver.answer(driver.probe(backend, driver.candidate(backend)))
        for probe in to_predecessor:
            driver.lose(probe)
        assert (backend.state, backend.misses, backend.losses.rate) == (State.UP, 0, 0.0)

    def test_an_answer_to_an_older_probe_does_not_bring_its_predecessor_back(
        self, driver: Driver, source: Address, instance: int
    ) -> None:
        backend = driver.up()
        to_predecessor = driver.probe(backend)
        driver.register(source, instance=instance)
        driver.answer(driver.probe(backend, driver.candidate(backend)))
        with refused(driver.pool, Refusal.UNKNOWN):
            driver.answer(to_predecessor)
        assert (backend.registration.agent, backend.registration.instance) == (source, instance)

    def test_of_two_that_answer_it_is_who_was_asked_last(self, driver: Driver, source: Address, instance: int) -> None:
        backend = driver.up()
        driver.register(source, instance=instance)
        older = driver.probe(backend, driver.candidate(backend))
        driver.register(("10.0.0.1", 5557), instance=9)
        newer = driver.probe(backend, driver.candidate(backend))
        driver.answer(newer)
        with refused(driver.pool, Refusal.UNKNOWN):
            driver.answer(older)
        assert transition_of(driver.pool.lost(older.request.token, driver.now)) is None
        assert (backend.registration.agent, backend.registration.instance) == (("10.0.0.1", 5557), 9)

    def test_it_brings_a_backend_that_is_down_up_as_its_predecessor_would(
        self, driver: Driver, source: Address, instance: int
    ) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.register(source, instance=instance)
        driver.now = backend.held_until
        driver.answer(driver.probe(backend, driver.candidate(backend)))
        assert driver.pool.eligible == []
        driver.report(backend)
        assert driver.pool.eligible == [backend]

    def test_it_outlives_news_of_the_present_agent(self, driver: Driver, source: Address, instance: int) -> None:
        backend = driver.up()
        driver.register(source, instance=instance)
        driver.register()
        driver.report(backend)
        assert (backend.registration.agent, backend.registration.instance) == (AGENT, 1)


class TestInstanceOfACandidate:
    def test_it_may_not_unregister_before_it_is_confirmed(self, driver: Driver) -> None:
        driver.up(instance=1)
        driver.register(instance=2)
        with refused(driver.pool, Refusal.WRONG_INSTANCE):
            driver.unregister(instance=2)

    def test_it_alone_may_unregister_once_confirmed(self, driver: Driver) -> None:
        backend = driver.up(instance=1)
        driver.register(instance=2)
        driver.answer(driver.probe(backend, driver.candidate(backend)))
        with refused(driver.pool, Refusal.WRONG_INSTANCE):
            driver.unregister(instance=1)
        driver.unregister(instance=2)
        assert driver.pool.eligible == []

    @pytest.mark.parametrize(("instance", "restarted"), [(1, False), (2, True)])
    def test_a_confirmed_answer_tells_of_a_new_instance(self, driver: Driver, instance: int, restarted: bool) -> None:
        backend = driver.up(instance=1)
        driver.register(OTHER_PORT, instance=instance)
        assert driver.answer(driver.probe(backend, driver.candidate(backend))).restarted is restarted

    def test_the_first_answer_of_all_is_no_restart(self, driver: Driver) -> None:
        assert not driver.report(driver.register()).restarted

    def test_of_a_backend_never_confirmed_whoever_answers_is_the_agent(self, driver: Driver) -> None:
        backend = driver.register(instance=1)
        to_replayed = driver.probe(backend)
        driver.register(instance=2)
        to_present = driver.probe(backend, driver.candidate(backend))
        assert driver.lose(to_replayed) is None
        assert backend.state is State.REGISTERED
        driver.now = to_present.sent_at
        driver.answer(to_present)
        assert (driver.pool.eligible, backend.registration.instance) == ([backend], 2)

    def test_it_is_forgotten_when_nobody_has_answered(self, driver: Driver) -> None:
        backend = driver.register(instance=1)
        probes = [driver.probe(backend)]
        driver.register(instance=2)
        probes.append(driver.probe(backend, driver.candidate(backend)))
        assert driver.lose(probes[0]) is None
        assert driver.lose(probes[1]) is not None
        assert (backend.state, len(driver.pool)) == (State.FORGOTTEN, 0)

    def test_a_replayed_good_bye_of_an_earlier_life_leaves_the_present_its_turn(self, driver: Driver) -> None:
        """After a restart of the proxy, when nothing is known of either."""
        backend = driver.register(instance=1)
        driver.probe(backend)
        driver.register(instance=2)
        to_present = driver.probe(backend, driver.candidate(backend))
        assert driver.unregister(instance=1) is None
        driver.answer(to_present)
        assert (driver.pool.eligible, backend.registration.instance) == ([backend], 2)
        with refused(driver.pool, Refusal.WRONG_INSTANCE):
            driver.unregister(instance=3)

    def test_who_has_said_good_bye_is_not_confirmed_any_more(self, driver: Driver) -> None:
        backend = driver.register(instance=1)
        probe = driver.probe(backend)
        driver.register(instance=2)
        driver.probe(backend, driver.candidate(backend))
        driver.unregister(instance=1)
        with refused(driver.pool, Refusal.RETIRED):
            driver.answer(probe)

    @pytest.mark.parametrize("instance", [1, 0xFFFF_FFFF_0000_0005, UINT64_MAX])
    def test_a_probe_bears_the_tag_of_the_instance_that_it_is_for(self, driver: Driver, instance: int) -> None:
        backend = driver.up(instance=7)
        driver.register(instance=instance)
        assert driver.probe(backend).request.instance_tag == 7
        assert driver.probe(backend, driver.candidate(backend)).request.instance_tag == instance & UINT32_MAX


class TestBounds:
    def test_unconfirmed_backends_are_limited(self) -> None:
        driver = Driver(limits=attrs.evolve(UNLIMITED, unconfirmed=3))
        for number in range(3):
            driver.register(agent(number))
        with refused(driver.pool, Refusal.TABLE_FULL):
            driver.register(agent(3))

    def test_a_full_table_still_hears_the_ones_it_knows(self) -> None:
        driver = Driver(limits=attrs.evolve(UNLIMITED, unconfirmed=1))
        backend = driver.register(agent(0))
        assert driver.register(agent(0), weight=300) is backend
        assert backend.registration.weight == 300

    @pytest.mark.parametrize("leave", ["confirmed", "unregistered", "never answered"])
    def test_an_unconfirmed_one_that_leaves_makes_room(self, leave: str) -> None:
        driver = Driver(limits=attrs.evolve(UNLIMITED, unconfirmed=1))
        backend = driver.register(agent(0))
        match leave:
            case "confirmed":
                driver.report(backend)
            case "unregistered":
                driver.unregister(agent(0))
            case _:
                driver.check(backend)
        assert driver.register(agent(1)).state is State.REGISTERED

    def test_confirmed_backends_are_limited(self) -> None:
        driver = Driver(limits=attrs.evolve(UNLIMITED, confirmed=2))
        for number in range(2):
            driver.up(agent(number))
        probe = driver.probe(driver.register(agent(2)))
        with refused(driver.pool, Refusal.TABLE_FULL):
            driver.answer(probe)

    def test_a_confirmed_one_that_leaves_makes_room(self) -> None:
        driver = Driver(limits=attrs.evolve(UNLIMITED, confirmed=1))
        driver.up(agent(0))
        waiting = driver.register(agent(1))
        driver.unregister(agent(0))
        driver.report(waiting)
        assert driver.pool.eligible == [waiting]

    def test_a_flood_of_registrations_leaves_the_confirmed_ones_alone(self) -> None:
        driver = Driver(limits=attrs.evolve(UNLIMITED, unconfirmed=4, confirmed=2))
        confirmed = [driver.up(agent(number)) for number in range(2)]
        for number in range(100, 1100):
            with suppress(Rejected):
                driver.register(agent(number))
        assert len(driver.pool) == 6
        assert driver.pool.eligible == confirmed
        driver.report(confirmed[0])

    def test_the_memory_of_retired_instances_is_bounded(self, driver: Driver) -> None:
        for instance in range(RETIRED_MAX + 10):
            driver.register(instance=instance)
            driver.unregister(instance=instance)
        assert len(driver.pool._probes.retired) == RETIRED_MAX
        with refused(driver.pool, Refusal.RETIRED):
            driver.register(instance=RETIRED_MAX + 9)

    def test_the_memory_of_ended_probes_is_bounded(self, driver: Driver) -> None:
        backend = driver.up()
        probes = [driver.probe(backend) for _ in range(1000)]
        for probe in probes:
            driver.lose(probe)
        assert len(driver.pool._probes._ended) <= 100
        with refused(driver.pool, Refusal.LATE):
            driver.answer(probes[-1])
        with refused(driver.pool, Refusal.UNKNOWN):
            driver.answer(probes[0])

    def test_nothing_of_a_forgotten_backends_probes_remains(self, driver: Driver) -> None:
        backend = driver.up()
        for _ in range(10):
            driver.probe(backend)
        driver.unregister()
        assert driver.pool._probes._open == {}


class TestProbesEarned:
    """How many probes registrations may cause, by `Pool.may_probe`."""

    def may_probe(self, driver: Driver, source: Address = AGENT, instance: int = 1) -> bool:
        backend = driver.register(source, instance=instance)
        return driver.pool.may_probe(
            backend, driver.candidate(backend) if instance != 1 or source != AGENT else backend.registration
        )

    def test_a_registration_earns_one(self, driver: Driver) -> None:
        assert self.may_probe(driver)

    def test_none_while_one_to_the_same_agent_is_under_way(self, driver: Driver) -> None:
        driver.probe(driver.register())
        assert not self.may_probe(driver)

    @pytest.mark.parametrize("end", ["answered", "lost"])
    def test_another_when_that_has_ended(self, driver: Driver, end: str) -> None:
        probe = driver.probe(driver.register())
        if end == "answered":
            driver.answer(probe)
        else:
            driver.lose(probe)
        assert self.may_probe(driver)

    @pytest.mark.parametrize(("source", "instance"), [(AGENT, 2), (OTHER_PORT, 1)])
    def test_a_candidate_earns_one_beside_the_agents(self, driver: Driver, source: Address, instance: int) -> None:
        driver.probe(driver.up())
        assert self.may_probe(driver, source, instance)

    def test_a_flood_of_candidates_earns_a_bounded_number(self, driver: Driver) -> None:
        backend = driver.up()
        for instance in range(100, 200):
            with suppress(Rejected):
                if self.may_probe(driver, instance=instance):
                    driver.probe(backend, driver.candidate(backend))
        assert len(backend.outstanding) == OUTSTANDING_MAX

    def test_a_flood_that_is_over_leaves_room_again(self, driver: Driver) -> None:
        backend = driver.up()
        probes = [driver.probe(backend) for _ in range(OUTSTANDING_MAX)]
        assert not self.may_probe(driver, instance=2)
        driver.answer(probes[0])
        assert self.may_probe(driver, instance=2)


class TestGoingDown:
    def test_the_third_probe_lost_in_a_row_takes_it_down(self, driver: Driver) -> None:
        backend = driver.up()
        suspected = driver.lose(driver.probe(backend))
        assert suspected is not None
        assert (suspected.before, suspected.after) == (State.UP, State.SUSPECT)
        assert driver.lose(driver.probe(backend)) is None
        assert driver.pool.eligible == [backend]
        transition = driver.lose(driver.probe(backend))
        assert transition is not None
        assert (transition.backend, transition.before, transition.after) == (backend, State.SUSPECT, State.DOWN)
        assert driver.pool.eligible == []

    def test_an_answer_in_between_starts_the_count_anew(self, driver: Driver) -> None:
        backend = driver.up()
        for lost in [True, True, False, True, True]:
            probe = driver.probe(backend)
            if lost:
                driver.lose(probe)
            else:
                driver.answer(probe)
        assert driver.pool.eligible == [backend]

    def test_more_losses_are_no_more_transitions(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        assert driver.lose(driver.probe(backend)) is None
        assert backend.state is State.DOWN

    def test_one_that_never_answered_is_forgotten_with_its_first_loss(self, driver: Driver) -> None:
        transition = driver.lose(driver.probe(driver.register()))
        assert transition is not None
        assert (transition.before, transition.after) == (State.REGISTERED, State.FORGOTTEN)
        assert len(driver.pool) == 0

    def test_registering_does_not_bring_it_up(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.register()
        assert backend.state is State.DOWN
        assert driver.pool.eligible == []

    def test_the_second_answer_in_a_row_brings_it_up(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.now = backend.held_until
        assert driver.report(backend).transition is None
        assert driver.pool.eligible == []
        transition = driver.report(backend).transition
        assert transition is not None
        assert (transition.before, transition.after) == (State.DOWN, State.UP)
        assert driver.pool.eligible == [backend]

    def test_a_loss_in_between_starts_the_count_of_answers_anew(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.now = backend.held_until
        driver.report(backend)
        driver.lose(driver.probe(backend))
        driver.report(backend)
        assert driver.pool.eligible == []
        driver.report(backend)
        assert driver.pool.eligible == [backend]

    def test_its_losses_are_cleared_when_it_recovers(self, driver: Driver) -> None:
        backend = driver.up()
        for _ in range(50):
            driver.lose(driver.probe(backend))
        driver.recover(backend)
        assert (backend.losses.rate, backend.misses) == (0.0, 0)

    def test_losses_that_did_not_take_it_down_stay_in_the_window(self, driver: Driver) -> None:
        backend = driver.up()
        driver.lose(driver.probe(backend))
        driver.report(backend)
        assert backend.losses.rate == pytest.approx(1 / 3)


class TestLivenessCheck:
    LIVENESS_S = 10.0

    def check(self, driver: Driver, backend: Backend) -> State | None:
        transition = driver.check(backend, self.LIVENESS_S)
        return None if transition is None else transition.after

    @pytest.mark.parametrize(("silent_s", "after"), [(0.0, None), (10.0, None), (10.5, State.DOWN)])
    def test_one_that_answered_nothing_since_the_last_check_goes_down(
        self, driver: Driver, silent_s: float, after: State | None
    ) -> None:
        backend = driver.up()
        driver.now += silent_s
        assert self.check(driver, backend) is after
        assert backend.eligible is (after is None)

    def test_registering_is_no_sign_of_life(self, driver: Driver) -> None:
        backend = driver.up()
        driver.now += 11
        driver.register()
        assert self.check(driver, backend) is State.DOWN

    def test_one_that_never_answered_is_forgotten(self, driver: Driver) -> None:
        backend = driver.register()
        assert self.check(driver, backend) is State.FORGOTTEN
        assert len(driver.pool) == 0

    @pytest.mark.parametrize("state", [State.UP, State.SUSPECT])
    @pytest.mark.parametrize(("interval_s", "patience_s"), [(0.5, 60.0), (20.0, 200.0), (7200.0, 72_000.0)])
    def test_one_that_answers_but_does_not_register_any_more_is_forgotten_after_ten_intervals(
        self, driver: Driver, interval_s: float, patience_s: float, state: State
    ) -> None:
        """Its agent was started again for another service: what answers is not what has registered."""
        backend = driver.up(interval_ms=round(interval_s * 1000))
        registered_at = driver.now
        driver.now = registered_at + patience_s - 1
        driver.report(backend, after_s=0)
        if state is State.SUSPECT:
            driver.lose(driver.probe(backend))
        assert (backend.state, self.check(driver, backend)) == (state, None)
        driver.now = registered_at + patience_s
        assert self.check(driver, backend) is State.FORGOTTEN

    def test_one_that_registers_as_it_said_is_kept(self, driver: Driver) -> None:
        backend = driver.up()
        for _ in range(100):
            driver.now += 20
            driver.register()
            driver.report(backend)
            assert self.check(driver, backend) is None

    def test_a_forgotten_one_is_left_alone(self, driver: Driver) -> None:
        backend = driver.register()
        driver.unregister()
        assert self.check(driver, backend) is None

    @pytest.mark.parametrize(
        ("interval_s", "patience_s"), [(0.5, 60.0), (20.0, 60.0), (30.0, 90.0), (86_400.0, 3600.0)]
    )
    def test_one_that_is_down_is_forgotten_after_lasting_silence(
        self, driver: Driver, interval_s: float, patience_s: float
    ) -> None:
        """Three of its intervals, but no less than a minute and no more than an hour."""
        backend = driver.up(interval_ms=round(interval_s * 1000))
        driver.down(backend)
        assert backend.answered_at is not None
        silent_since = backend.answered_at
        driver.now = silent_since + patience_s - 0.5
        assert self.check(driver, backend) is None
        driver.now = silent_since + patience_s
        assert self.check(driver, backend) is State.FORGOTTEN
        assert driver.pool.get(backend.address, backend.port) is None

    def test_one_that_is_down_is_forgotten_whoever_repeats_its_registration(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        transitions = []
        for _ in range(4):
            driver.now += 20
            driver.register()
            transitions.append(self.check(driver, backend))
        assert transitions == [None, None, State.FORGOTTEN, None]

    def test_a_forgotten_backend_may_come_back(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.now += 61
        self.check(driver, backend)
        again = driver.up()
        assert again is not backend
        assert driver.pool.eligible == [again]


class TestDraining:
    def test_one_that_registers_as_draining_is_asked_at_once(self, driver: Driver) -> None:
        """Anybody can send that REGISTER, now or again."""
        backend = driver.up()
        assert driver.take_in(draining=True).asks
        assert driver.pool.eligible == [backend]
        driver.report(backend, draining=True)
        assert not driver.take_in(draining=True).asks
        assert driver.take_in(draining=False).asks
        assert driver.pool.eligible == []

    def test_one_that_answers_as_draining_gets_no_client(self, driver: Driver) -> None:
        backend = driver.up()
        driver.report(backend, draining=True)
        assert (backend.state, driver.pool.eligible) == (State.UP, [])
        driver.report(backend, draining=False)
        assert driver.pool.eligible == [backend]

    def test_one_that_drains_at_its_first_answer_gets_no_client(self, driver: Driver) -> None:
        backend = driver.register()
        driver.report(backend, draining=True)
        assert driver.pool.eligible == []

    def test_its_sessions_are_still_counted(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 2)
        driver.report(backend, draining=True, tcp=2)
        driver.close(backend)
        assert (backend.connections, backend.tcp) == (1, 1)


class TestLiveConnections:
    """`Backend.tcp`: what the report said, and what we opened and closed since its probe left."""

    def test_sessions_opened_since_the_report_are_added(self, driver: Driver) -> None:
        backend = driver.up()
        driver.report(backend, tcp=7)
        driver.opened(backend, 3)
        assert backend.tcp == 10

    def test_sessions_established_when_the_probe_left_are_in_the_report(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        driver.report(backend, tcp=10)
        assert backend.tcp == 10

    def test_sessions_established_while_the_probe_was_under_way_are_added(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        probe = driver.probe(backend)
        driver.opened(backend, 2)
        driver.answer(probe, tcp=10)
        assert backend.tcp == 12

    def test_sessions_still_connecting_are_added_whatever_was_reported(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 2, connected=False)
        driver.report(backend, tcp=10)
        assert backend.tcp == 12
        driver.pool.connected(backend)
        assert backend.tcp == 12

    @pytest.mark.parametrize("connected", [True, False])
    def test_a_session_that_ends_is_subtracted(self, driver: Driver, connected: bool) -> None:
        backend = driver.up()
        driver.opened(backend, connected=connected)
        driver.close(backend, was_connected=connected)
        assert backend.tcp == 0

    def test_a_reported_session_that_ends_is_subtracted(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        driver.report(backend, tcp=10)
        driver.close(backend)
        assert backend.tcp == 9

    def test_a_new_report_replaces_what_was_added(self, driver: Driver) -> None:
        backend = driver.up()
        driver.report(backend, tcp=0)
        driver.opened(backend, 5)
        driver.report(backend, tcp=5)
        assert backend.tcp == 5

    def test_it_is_never_negative(self, driver: Driver) -> None:
        """The agent counted before our sessions reached it."""
        backend = driver.up()
        driver.opened(backend, 3)
        driver.report(backend, tcp=0)
        driver.close(backend)
        assert backend.tcp == 0

    def test_sessions_are_counted_by_what_they_are(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        driver.opened(backend, 2, connected=False)
        assert (backend.pending, backend.established, backend.connections, backend.total) == (2, 3, 5, 3)
        driver.close(backend)
        driver.close(backend, was_connected=False)
        assert (backend.pending, backend.established, backend.connections, backend.total) == (1, 2, 3, 3)


class TestHoldDown:
    def test_answers_do_not_bring_it_up_before_its_hold_down_is_over(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        for _ in range(5):
            driver.report(backend)
        assert backend.held_until - driver.now == pytest.approx(HOLD_MIN_S, abs=0.1)
        assert driver.pool.eligible == []
        driver.now = backend.held_until
        assert driver.report(backend).transition is not None

    def test_it_doubles_up_to_five_minutes(self, driver: Driver) -> None:
        backend = driver.up()
        holds = []
        for _ in range(7):
            driver.down(backend)
            holds.append(backend.hold_s)
            driver.now = backend.held_until
            driver.report(backend)
            driver.report(backend)
        assert holds == [10, 20, 40, 80, 160, 300, 300]

    def refuse(self, driver: Driver, backend: Backend) -> float:
        """It comes up when its hold-down is over, and all connects to it fail: its next hold-down."""
        driver.now = max(driver.now, backend.held_until)
        driver.report(backend)
        driver.report(backend)
        driver.fail_connects(backend, REFUSALS)
        return backend.hold_s

    def test_of_one_that_refuses_it_doubles_while_others_serve(self, driver: Driver) -> None:
        dead, well = driver.up(agent(2)), driver.up(agent(3))
        holds_s = []
        for _ in range(4):
            holds_s.append(self.refuse(driver, dead))
            driver.opened(well)
        assert holds_s == [10, 20, 40, 80]

    def test_it_stays_as_it_is_while_no_connect_to_anybody_succeeds(self, driver: Driver) -> None:
        """The network is at fault, or all of the service: as soon as that is well, so is the pool."""
        backends = [driver.up(agent(number)) for number in range(2, 6)]
        assert [self.refuse(driver, backend) for _ in range(5) for backend in backends] == [10] * 20
        driver.recover(backends[0])
        driver.opened(backends[0])
        assert [self.refuse(driver, backend) for _ in range(2) for backend in backends[1:]] == [20] * 6

    def test_of_one_that_is_silent_it_doubles_whoever_serves(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.now = backend.held_until
        driver.report(backend)
        driver.report(backend)
        driver.down(backend)
        assert backend.hold_s == 20

    def test_it_is_short_again_after_five_minutes_without_trouble(self, driver: Driver) -> None:
        backend = driver.up()
        holds = []
        for up_s in (0, HOLD_MAX_S, HOLD_MAX_S - 10):
            driver.now += up_s
            driver.down(backend)
            holds.append(backend.hold_s)
            driver.recover(backend)
        assert holds == [HOLD_MIN_S, HOLD_MIN_S, 2 * HOLD_MIN_S]

    def test_a_new_instance_does_not_end_it(self, driver: Driver) -> None:
        """An agent that crashes again and again is another instance each time."""
        backend = driver.up()
        driver.down(backend)
        driver.register(instance=2)
        driver.answer(driver.probe(backend, driver.candidate(backend)))
        driver.report(backend)
        assert backend.state is State.DOWN


class TestSlowStart:
    def test_its_share_grows_from_a_tenth_to_the_whole_in_ten_seconds(self) -> None:
        driver = Driver(limits=Limits())
        backend = driver.up(weight=200)
        shares = []
        for _ in range(11):
            driver.pool.tick(driver.now)
            shares.append((backend.share, driver.pool.is_ramping))
            driver.now += 1
        assert shares == [(0.1, True), *((tenths / 10, True) for tenths in range(1, 10)), (1.0, False)]
        assert backend.weight == 200

    def test_a_lost_probe_does_not_start_it_anew(self) -> None:
        driver = Driver(limits=Limits())
        backend = driver.up()
        driver.now += 20
        driver.pool.tick(driver.now)
        driver.lose(driver.probe(backend))
        assert backend.state is State.SUSPECT
        driver.report(backend)
        assert (backend.state, backend.share) == (State.UP, 1.0)

    def test_one_that_was_down_starts_slowly_again(self) -> None:
        driver = Driver(panic_below=0)
        backend = driver.up()
        driver.now += 20
        driver.pool.tick(driver.now)
        driver.down(backend)
        driver.recover(backend)
        assert backend.share == 0.1


class TestRefusedConnects:
    def test_the_third_in_a_row_takes_it_down(self, driver: Driver) -> None:
        backend = driver.up()
        assert driver.fail_connects(backend, 2) is None
        transition = driver.fail_connects(backend)
        assert transition is not None
        assert (transition.before, transition.after) == (State.UP, State.DOWN)
        assert driver.pool.eligible == []

    def test_one_that_succeeds_starts_the_count_anew(self, driver: Driver) -> None:
        backend = driver.up()
        driver.fail_connects(backend, 2)
        driver.opened(backend)
        driver.fail_connects(backend, 2)
        assert backend.state is State.UP

    def test_a_connect_alone_proves_nothing(self, driver: Driver) -> None:
        """Its end may be the failure."""
        backend = driver.up()
        for _ in range(REFUSALS):
            driver.lease(backend)
            driver.pool.connected(backend)
            transition = driver.fail_connects(backend)
        assert transition is not None
        assert backend.state is State.DOWN

    def test_one_that_answers_no_new_session_goes_down_at_once_and_comes_back_as_after_refusals(
        self, driver: Driver
    ) -> None:
        backend, other = driver.up(), driver.up(agent(2))
        transition = transition_of(driver.pool.mute(backend, 5, 10.4, driver.now))
        assert transition is not None
        assert (transition.after, transition.reason) == (State.DOWN, "5 new sessions got no byte for 10 s")
        assert driver.pool.eligible == [other]
        assert transition_of(driver.pool.mute(backend, 5, 10.4, driver.now)) is None
        driver.recover(backend)
        assert set(driver.pool.eligible) == {backend, other}

    def test_answered_probes_bring_it_up_after_its_hold_down_and_then_one_failure_is_enough(
        self, driver: Driver
    ) -> None:
        backend, other = driver.up(), driver.up(agent(2))
        driver.fail_connects(backend, REFUSALS)
        driver.report(backend)
        assert driver.pool.eligible == [other]
        driver.opened(other)
        driver.now = backend.held_until
        driver.report(backend)
        assert driver.pool.eligible == [other, backend]
        assert driver.fail_connects(backend) is not None
        assert (backend.state, backend.hold_s) == (State.DOWN, 20)

    def test_after_a_connect_that_succeeds_it_takes_three_again(self, driver: Driver) -> None:
        backend = driver.up()
        driver.fail_connects(backend, REFUSALS)
        driver.recover(backend)
        driver.opened(backend)
        assert driver.fail_connects(backend, REFUSALS - 1) is None

    @pytest.mark.parametrize("state", [State.REGISTERED, State.FORGOTTEN])
    def test_one_that_gets_no_client_is_left_alone(self, driver: Driver, state: State) -> None:
        backend = driver.register()
        if state is State.FORGOTTEN:
            driver.unregister()
        assert driver.fail_connects(backend, REFUSALS) is None
        assert backend.state is state


class TestPanic:
    def pool(self, size: int) -> tuple[Driver, list[Backend]]:
        driver = Driver(limits=UNLIMITED)
        return driver, [driver.up(agent(number)) for number in range(size)]

    @pytest.mark.parametrize(("size", "down", "panicking"), [(1, 1, True), (2, 1, False), (4, 2, False), (4, 3, True)])
    def test_it_begins_when_less_than_half_of_the_pool_is_up(self, size: int, down: int, panicking: bool) -> None:
        driver, backends = self.pool(size)
        for backend in backends[:down]:
            driver.down(backend)
        assert driver.pool.panicking is panicking
        assert set(driver.pool.eligible) == set(backends if panicking else backends[down:])

    def test_it_ends_when_half_is_up_again(self) -> None:
        driver, backends = self.pool(4)
        for backend in backends[:3]:
            driver.down(backend)
        driver.recover(backends[0])
        assert not driver.pool.panicking
        assert set(driver.pool.eligible) == {backends[0], backends[3]}

    def test_one_that_refuses_connects_is_not_used(self) -> None:
        driver, backends = self.pool(4)
        driver.fail_connects(backends[0], REFUSALS)
        for backend in backends[1:3]:
            driver.down(backend)
        assert driver.pool.panicking
        assert set(driver.pool.eligible) == set(backends[1:])

    def test_one_that_begins_to_refuse_is_tried_again_after_its_hold_down(self) -> None:
        driver, (backend,) = self.pool(1)
        driver.down(backend)
        assert driver.fail_connects(backend, REFUSALS) is None
        assert (driver.pool.eligible, backend.state) == ([], State.DOWN)
        driver.lose(driver.probe(backend))
        assert driver.pool.eligible == []
        driver.now = backend.held_until
        driver.lose(driver.probe(backend))
        assert driver.pool.eligible == [backend]
        driver.fail_connects(backend)
        assert driver.pool.eligible == []

    def test_one_that_is_to_be_drained_is_not_of_the_pool(self) -> None:
        driver, backends = self.pool(3)
        driver.down(backends[0])
        driver.down(backends[1])
        assert driver.pool.panicking
        driver.pool.administer(backends[0], Administration.DRAIN)
        assert not driver.pool.panicking
        assert driver.pool.eligible == [backends[2]]

    def test_an_unconfirmed_one_is_not_of_the_pool(self) -> None:
        driver, backends = self.pool(2)
        driver.down(backends[0])
        for number in range(5, 10):
            driver.register(agent(number))
        assert not driver.pool.panicking


class TestAdministration:
    def test_one_to_be_drained_gets_no_client_and_keeps_its_sessions(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        driver.pool.administer(backend, Administration.DRAIN)
        assert (driver.pool.eligible, backend.state, backend.established) == ([], State.UP, 3)
        driver.report(backend)
        assert driver.pool.eligible == []
        driver.pool.administer(backend, Administration.READY)
        assert driver.pool.eligible == [backend]

    def test_its_own_wish_to_drain_holds_beside_it(self, driver: Driver) -> None:
        backend = driver.up()
        driver.report(backend, draining=True)
        driver.pool.administer(backend, Administration.DRAIN)
        driver.report(backend, draining=False)
        assert driver.pool.eligible == []
