"""Registrations of another agent or instance count once a probe of theirs is answered."""

from __future__ import annotations

import attrs
import pytest

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal
from rproxy.pool.candidates import RETRY_MAX_S, RETRY_MIN_S
from rproxy.pool.health import REFUSALS
from rproxy.pool.states import State
from rproxy.wire.pdu import UINT32_MAX, UINT64_MAX
from tests.pool.driving import AGENT, REGISTER, Driver, refused, transition_of

OTHER_PORT: Address = (AGENT[0], 5556)


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
        assert (backend.state, backend.health.misses, backend.losses.rate) == (State.UP, 0, 0.0)

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
        assert (backend.state, backend.health.misses, backend.losses.rate) == (State.UP, 0, 0.0)

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
        driver.now = backend.health.held_until
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

    def test_an_answer_while_it_is_up_ends_the_wait_of_a_candidate_that_was_not_answered(self, driver: Driver) -> None:
        """It came up by another probe than the one that its registration caused."""
        backend = driver.up()
        driver.down(backend)
        driver.now = backend.health.held_until
        driver.report(backend)
        driver.pool.register(AGENT, REGISTER, driver.now)
        driver.report(backend)
        assert backend.state is State.UP
        found = driver.pool.next_candidate(driver.now)
        assert found is not None
        driver.answer(driver.probe(*found))
        transition = driver.fail_connects(backend, REFUSALS)
        assert transition is not None
        assert transition.after is State.DOWN
        driver.pool.register(AGENT, REGISTER, driver.now)
        assert driver.pool.has_candidates
