"""The share of a back-end that has come up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rproxy.pool.limits import Limits
from rproxy.pool.states import State
from tests.pool.driving import Driver, agent


class TestSlowStart:
    def test_its_share_grows_from_a_tenth_to_the_whole_in_ten_seconds(self) -> None:
        driver = Driver(limits=Limits())
        backend = driver.up(weight=200)
        shares = []
        for _ in range(11):
            driver.pool.tick(driver.now)
            shares.append((backend.share, driver.pool.tick_due is not None))
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

    def test_each_has_its_steps_a_second_apart_from_when_it_came_up(self) -> None:
        driver = Driver(limits=Limits())
        first = driver.up(agent(1))
        driver.now = first.health.up_since + 0.5
        second = driver.up(agent(2))
        dues: list[float] = []
        shares: list[tuple[float, float]] = []
        while (due := driver.pool.tick_due) is not None and len(shares) < 4:
            driver.pool.tick(due)
            dues.append(due - first.health.up_since)
            shares.append((first.share, second.share))
        later = second.health.up_since - first.health.up_since
        assert dues == pytest.approx([1.0, later + 1.0, 2.0, later + 2.0])
        assert shares == [(0.1, 0.1), (0.1, 0.1), (0.2, 0.1), (0.2, 0.2)]

    def test_a_tick_that_comes_late_grants_what_is_due_by_then_and_keeps_the_steps(self) -> None:
        driver = Driver(limits=Limits())
        backend = driver.up()
        risen = backend.health.up_since
        driver.pool.tick(risen + 3.25)
        assert backend.share == 0.3
        assert driver.pool.tick_due == pytest.approx(risen + 4.0)

    @pytest.mark.parametrize("leave", [Driver.unregister, lambda driver: driver.down(driver.pool.get("10.0.0.1", 80))])
    def test_one_that_goes_or_goes_down_gets_no_more_steps(self, leave: Callable[[Driver], object]) -> None:
        driver = Driver(limits=Limits())
        driver.up()
        leave(driver)
        assert driver.pool.tick_due is None
