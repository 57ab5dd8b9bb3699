"""The share of a back-end that has come up."""

from __future__ import annotations

from rproxy.pool.limits import Limits
from rproxy.pool.states import State
from tests.pool.driving import Driver


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
