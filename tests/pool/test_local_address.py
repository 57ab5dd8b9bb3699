"""The address of ours that an agent registers at: it is probed from there, once that is known to work."""

from __future__ import annotations

import attrs

from rproxy.pool.backend import Backend
from rproxy.pool.events import Registered
from tests.pool.driving import AGENT, REGISTER, Driver

HERE, THERE = "10.1.1.10", "10.1.1.100"


def take_in(driver: Driver, local: str) -> Registered:
    """A REGISTER sent to `local`; whoever waits for a probe has its turn at once."""
    return driver.take_in(local=local)


def up(driver: Driver) -> Backend:
    backend = take_in(driver, HERE).backend
    driver.report(backend)
    return backend


def test_an_agent_is_probed_from_where_it_registered() -> None:
    driver = Driver()
    backend = up(driver)
    assert backend.registration.local == HERE
    assert not take_in(driver, HERE).changed
    assert not driver.pool._candidates


def test_another_address_counts_once_a_probe_from_there_is_answered() -> None:
    """A REGISTER that somebody sends again, to another address, must not keep the agent's proxy from it."""
    driver = Driver()
    backend = up(driver)
    take_in(driver, THERE)
    candidate = driver.candidate(backend)
    assert candidate == attrs.evolve(backend.registration, local=THERE)
    assert backend.registration.local == HERE
    confirmed = driver.answer(driver.probe(backend, candidate))
    assert backend.registration.local == THERE
    assert (confirmed.restarted, confirmed.transition) == (False, None)


def test_one_from_where_no_probe_is_answered_changes_nothing() -> None:
    driver = Driver()
    backend = up(driver)
    take_in(driver, THERE)
    driver.lose(driver.probe(backend, driver.candidate(backend)))
    assert [backend.registration.local, backend.health.misses] == [HERE, 0]
    driver.report(backend)
    assert backend.is_up


def test_what_is_sent_again_to_another_address_does_not_take_the_place_of_what_waits() -> None:
    driver = Driver()
    for local in (HERE, THERE, THERE):
        driver.pool.register(AGENT, REGISTER, driver.now, local)
    waiting = []
    while found := driver.pool._candidates.next(driver.now):
        waiting.append(found[1].local)
    assert sorted(waiting) == [HERE, THERE]
