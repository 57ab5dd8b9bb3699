"""Where most of the pool is down, what is down is used as well."""

from __future__ import annotations

import pytest

from rproxy.pool.backend import Backend
from rproxy.pool.health import REFUSALS
from rproxy.pool.states import Administration, State
from tests.fakes import UNLIMITED
from tests.pool.driving import Driver, agent


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
        driver.now = backend.health.held_until
        driver.lose(driver.probe(backend))
        assert driver.pool.eligible == [backend]
        driver.fail_connects(backend)
        assert driver.pool.eligible == []

    def test_one_that_is_to_be_drained_is_not_of_the_pool(self) -> None:
        driver, backends = self.pool(3)
        driver.down(backends[0])
        driver.down(backends[1])
        assert driver.pool.panicking
        driver.pool.administer(backends[0], Administration.DRAIN, driver.now)
        assert not driver.pool.panicking
        assert driver.pool.eligible == [backends[2]]

    def test_an_unconfirmed_one_is_not_of_the_pool(self) -> None:
        driver, backends = self.pool(2)
        driver.down(backends[0])
        for number in range(5, 10):
            driver.register(agent(number))
        assert not driver.pool.panicking
