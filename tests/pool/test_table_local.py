"""The address of ours that an agent registers at: it is probed from there, once that is known to work."""

from __future__ import annotations

import attrs

from rproxy.pool.backend import Backend
from tests.pool.driving import AGENT, REGISTER, Driver

HERE, THERE = "10.1.1.10", "10.1.1.100"


def register(driver: Driver, local: str) -> Backend:
    return driver.table.register(AGENT, REGISTER, driver.now, local).backend


def up(driver: Driver) -> Backend:
    backend = register(driver, HERE)
    driver.report(backend)
    return backend


def test_an_agent_is_probed_from_where_it_registered() -> None:
    driver = Driver()
    assert up(driver).registration.local == HERE
    registered = driver.table.register(AGENT, REGISTER, driver.now, HERE)
    assert (registered.unproven, registered.backend.candidate) == (None, None)


def test_another_address_counts_once_a_probe_from_there_is_answered() -> None:
    """A REGISTER that somebody sends again, to another address, must not keep the agent's proxy from it."""
    driver = Driver()
    backend = up(driver)
    registered = driver.table.register(AGENT, REGISTER, driver.now, THERE)
    assert registered.unproven == attrs.evolve(backend.registration, local=THERE) == backend.candidate
    assert backend.registration.local == HERE
    confirmed = driver.answer(driver.probe(backend, registered.unproven))
    assert [backend.registration.local, backend.candidate] == [THERE, None]
    assert (confirmed.restarted, confirmed.transition) == (False, None)


def test_one_from_where_no_probe_is_answered_changes_nothing() -> None:
    driver = Driver()
    backend = up(driver)
    register(driver, THERE)
    driver.lose(driver.probe(backend, backend.candidate))
    assert [backend.registration.local, backend.candidate, backend.misses] == [HERE, None, 0]
    driver.report(backend)
    assert backend.is_up
