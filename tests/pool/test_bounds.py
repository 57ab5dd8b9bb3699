"""What a pool holds, remembers and probes is bounded, whatever is sent."""

from __future__ import annotations

from contextlib import suppress

import attrs
import pytest

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.candidates import OUTSTANDING_MAX
from rproxy.pool.probes import ENDED_EACH, ENDED_MIN, RETIRED_MAX
from rproxy.pool.states import State
from tests.fakes import UNLIMITED
from tests.pool.driving import AGENT, Driver, agent, refused

OTHER_PORT: Address = (AGENT[0], 5556)


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
        probes = [driver.probe(backend) for _ in range(2 * ENDED_MIN)]
        for probe in probes:
            driver.lose(probe)
        assert len(driver.pool._probes._ended) == ENDED_MIN + ENDED_EACH
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
        assert len(backend.probing.outstanding) == OUTSTANDING_MAX

    def test_a_flood_that_is_over_leaves_room_again(self, driver: Driver) -> None:
        backend = driver.up()
        probes = [driver.probe(backend) for _ in range(OUTSTANDING_MAX)]
        assert not self.may_probe(driver, instance=2)
        driver.answer(probes[0])
        assert self.may_probe(driver, instance=2)
