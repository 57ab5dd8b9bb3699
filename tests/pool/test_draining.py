"""A back-end that drains, by its agent's wish or an operator's."""

from __future__ import annotations

from rproxy.pool.states import Administration, State
from tests.pool.driving import Driver


class TestDraining:
    def test_one_that_registers_as_draining_is_asked_at_once(self, driver: Driver) -> None:
        """Anybody can send that REGISTER, now or again."""
        backend = driver.up()
        assert driver.take_in(draining=True).probe_now
        assert driver.pool.eligible == [backend]
        driver.report(backend, draining=True)
        assert driver.take_in(draining=True).probe_now  # the agent may wait to hear how many sessions are left
        assert driver.take_in(draining=False).probe_now
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


class TestAdministration:
    def test_one_to_be_drained_gets_no_client_and_keeps_its_sessions(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        driver.pool.administer(backend, Administration.DRAIN, driver.now)
        assert (driver.pool.eligible, backend.state, backend.counts.established) == ([], State.UP, 3)
        driver.report(backend)
        assert driver.pool.eligible == []
        driver.pool.administer(backend, Administration.READY, driver.now)
        assert driver.pool.eligible == [backend]

    def test_its_own_wish_to_drain_holds_beside_it(self, driver: Driver) -> None:
        backend = driver.up()
        driver.report(backend, draining=True)
        driver.pool.administer(backend, Administration.DRAIN, driver.now)
        driver.report(backend, draining=False)
        assert driver.pool.eligible == []
