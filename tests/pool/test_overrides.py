"""What operators say of back-ends: whatever becomes of the rows, it lasts until they say otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from rproxy.pool import overrides
from rproxy.pool.backend import Backend, StaticTerms
from rproxy.pool.events import NOTHING, Administered, Weighed
from rproxy.pool.states import NO_OVERRIDE, Administration, Override, State
from rproxy.wire.agent_check import read
from tests.fakes import UNLIMITED
from tests.pool.driving import Driver

KEY = ("10.0.0.1", 80)
READY, DRAIN, MAINT = Administration


def administered(driver: Driver, administration: Administration, at: float = 0.0) -> None:
    driver.pool.overrides.administer(KEY, administration, driver.now, at)


def restart(driver: Driver, backend: Backend, **fields: Any) -> None:
    """Another instance of its agent registers, and answers a probe."""
    driver.register(instance=2, **fields)
    driver.answer(driver.probe(backend, driver.candidate(backend)))


@pytest.mark.parametrize("administration", [DRAIN, MAINT])
class TestTheRow:
    def test_another_instance_of_its_agent_changes_nothing(
        self, driver: Driver, administration: Administration
    ) -> None:
        backend = driver.up()
        administered(driver, administration)
        restart(driver, backend)
        assert (backend.registration.instance, backend.administration) == (2, administration)
        assert driver.pool.eligible == []

    def test_nor_does_it_if_the_row_went_meanwhile(self, driver: Driver, administration: Administration) -> None:
        driver.up()
        administered(driver, administration)
        driver.unregister()
        assert driver.pool.get(*KEY) is None
        backend = driver.up(instance=2)
        assert (backend.state, backend.administration, driver.pool.eligible) == (State.UP, administration, [])
        administered(driver, READY)
        assert driver.pool.eligible == [backend]

    def test_a_word_may_come_before_the_row(self, driver: Driver, administration: Administration) -> None:
        assert driver.pool.overrides.administer(KEY, administration, driver.now) == NOTHING
        assert list(driver.pool.overrides) == [KEY]
        driver.up()
        assert driver.pool.eligible == []

    def test_ready_may_come_while_there_is_no_row(self, driver: Driver, administration: Administration) -> None:
        driver.up()
        administered(driver, administration)
        driver.unregister()
        administered(driver, READY)
        assert driver.pool.eligible == [driver.up(instance=2)]
        assert len(driver.pool.overrides) == 0

    def test_one_that_is_configured_keeps_it_as_well(self, driver: Driver, administration: Administration) -> None:
        static = driver.pool.static
        static.put(KEY, StaticTerms(100, "a"), driver.now)
        administered(driver, administration)
        (backend,) = driver.pool
        static.remove(backend, "test", driver.now)
        static.put(KEY, StaticTerms(100, "a"), driver.now)
        (backend,) = driver.pool
        static.checked(backend, driver.now, rtt_ms=1.0)
        assert (backend.state, driver.pool.eligible) == (State.UP, [])

    def test_its_sessions_go_on_and_it_is_probed(self, driver: Driver, administration: Administration) -> None:
        backend = driver.up()
        driver.opened(backend, 2)
        administered(driver, administration)
        driver.report(backend, cpu=7)
        assert (backend.connections, backend.report.cpu) == (2, 7)


def test_what_an_operator_says_is_told_with_the_time_since_when(driver: Driver) -> None:
    backend = driver.up()
    said = driver.pool.overrides
    assert said.administer(KEY, DRAIN, driver.now, 17.0)[0] == Administered(backend, DRAIN)
    assert said.administer(KEY, DRAIN, driver.now, 18.0)[0] == Administered(backend, DRAIN)
    assert said.weigh(KEY, 7, driver.now)[0] == Weighed(backend, 7)
    assert said.of(KEY) == backend.override == Override(DRAIN, 7, since=17.0)
    assert said.administer(KEY, READY, driver.now, 19.0)[0] == Administered(backend, READY)
    assert said.weigh(KEY, None, driver.now)[0] == Weighed(backend, None)
    assert said.of(KEY) == backend.override == NO_OVERRIDE
    assert list(said) == []


class TestWeight:
    def test_the_operators_counts_and_then_its_own_again(self, driver: Driver) -> None:
        backend = driver.up(weight=300)
        driver.pool.overrides.weigh(KEY, 5, driver.now)
        assert (backend.weight, backend.registration.weight) == (5, 300)
        driver.pool.overrides.weigh(KEY, None, driver.now)
        assert backend.weight == 300

    def test_what_its_agent_registers_meanwhile_counts_later(self, driver: Driver) -> None:
        backend = driver.up(weight=300)
        driver.pool.overrides.weigh(KEY, 5, driver.now)
        driver.register(weight=200)
        assert (backend.weight, backend.registration.weight) == (5, 200)
        restart(driver, backend, weight=50)
        assert (backend.weight, backend.registration.weight) == (5, 50)
        driver.pool.overrides.weigh(KEY, None, driver.now)
        assert backend.weight == 50

    def test_slow_start_grants_a_share_of_it(self) -> None:
        driver = Driver(limits=UNLIMITED, slow_start_s=10)
        driver.pool.overrides.weigh(KEY, 1000, driver.now)
        assert driver.up().weight == 100

    def test_an_agent_check_that_says_none_does_not_keep_clients_away_from_one_of_the_operators_weight(
        self, driver: Driver
    ) -> None:
        static = driver.pool.static
        static.put(KEY, StaticTerms(100, "a"), driver.now)
        (backend,) = driver.pool
        static.checked(backend, driver.now, rtt_ms=1.0)
        static.said(backend, read("0%"), driver.now)
        assert driver.pool.eligible == []
        driver.pool.overrides.weigh(KEY, 5, driver.now)
        assert (driver.pool.eligible, backend.weight) == ([backend], 5)
        static.said(backend, read("drain"), driver.now)
        assert driver.pool.eligible == []
        static.said(backend, read("ready"), driver.now)
        assert driver.pool.eligible == [backend]
        driver.pool.overrides.weigh(KEY, None, driver.now)
        assert driver.pool.eligible == []


class TestMaint:
    def test_one_that_is_down_meanwhile_is_no_reason_to_panic(self) -> None:
        driver = Driver(limits=UNLIMITED, slow_start_s=0)
        backends = [driver.up((f"10.0.0.{number}", 5555)) for number in range(1, 4)]
        for backend in backends[:2]:
            driver.pool.administer(backend, MAINT, driver.now)
        for backend in backends[:2]:
            driver.down(backend)
        assert (backends[0].state, driver.pool.panicking) == (State.DOWN, False)
        driver.pool.administer(backends[0], READY, driver.now)
        driver.pool.administer(backends[1], READY, driver.now)
        assert driver.pool.panicking

    def test_one_that_was_in_maintenance_starts_slowly_and_one_that_was_drained_does_not(self) -> None:
        driver = Driver(limits=UNLIMITED, slow_start_s=10)
        backend = driver.up()
        driver.now += 10
        driver.pool.tick(driver.now)
        assert backend.share == 1
        for administration, share in ((DRAIN, 1.0), (MAINT, 0.1)):
            administered(driver, administration)
            administered(driver, READY)
            assert backend.share == share
        due = driver.pool.tick_due
        assert due == driver.now + 1
        driver.pool.tick(due)
        assert backend.share == 0.1
        driver.pool.tick(driver.now + 5)
        assert backend.share == 0.5

    def test_one_that_starts_slowly_and_is_in_maintenance_for_a_moment_begins_anew(self) -> None:
        driver = Driver(limits=UNLIMITED, slow_start_s=10)
        backends = [driver.up((f"10.0.0.{number}", 5555)) for number in (1, 2)]
        driver.now += 5
        driver.pool.tick(driver.now)
        administered(driver, MAINT)
        administered(driver, READY)
        driver.now += 5
        driver.pool.tick(driver.now)
        assert [backend.share for backend in backends] == [0.5, 1.0]
        driver.now += 5
        driver.pool.tick(driver.now)
        assert (backends[0].share, driver.pool.tick_due) == (1.0, None)

    def test_one_that_is_down_when_it_is_ready_again_is_down(self, driver: Driver) -> None:
        backend = driver.up()
        administered(driver, MAINT)
        driver.down(backend)
        administered(driver, READY)
        assert (backend.state, driver.pool.eligible) == (State.DOWN, [])


def test_words_are_bounded_and_those_of_back_ends_that_are_there_are_kept(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overrides, "OVERRIDES_MAX", 3)
    driver.up()
    administered(driver, DRAIN)
    said = driver.pool.overrides
    for number in range(2, 6):
        said.administer((f"10.0.0.{number}", 80), DRAIN, driver.now)
    assert list(said) == [KEY, ("10.0.0.4", 80), ("10.0.0.5", 80)]
    said.administer(KEY, MAINT, driver.now)
    said.administer(("10.0.0.6", 80), DRAIN, driver.now)
    assert list(said) == [("10.0.0.5", 80), KEY, ("10.0.0.6", 80)]
