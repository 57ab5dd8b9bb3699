"""Limits of our sessions on each back-end: one that is full gets no client, and is as healthy as before."""

from __future__ import annotations

from math import inf
from typing import Any

import attrs
import pytest

from rproxy.pool.backend import Backend, Registration, StaticTerms
from rproxy.pool.events import EligibilityChanged, Events, PanicChanged
from rproxy.pool.health import HOLD_MAX_S, RISE
from rproxy.pool.states import Administration, State
from rproxy.wire.agent_check import read
from tests.fakes import UNLIMITED
from tests.pool.driving import AGENT, Driver, agent


def fill(driver: Driver, backend: Backend, sessions: int) -> None:
    driver.opened(backend, sessions)


def close(driver: Driver, backend: Backend) -> Events:
    return driver.pool.closed(backend, driver.now, was_connected=True, served_s=1.0)


@pytest.mark.parametrize("connected", [True, False])
def test_a_full_back_end_gets_no_client_until_a_session_ends(connected: bool) -> None:
    driver = Driver()
    backend = driver.up(max_connections=2)
    driver.opened(backend, 2, connected=connected)
    assert (backend.eligible, backend.usable, driver.pool.full) == (False, True, 1)
    assert driver.pool.choose(driver.now) is None
    events = driver.pool.closed(backend, driver.now, was_connected=connected, served_s=None)
    assert events == (EligibilityChanged(backend, True),)
    assert (backend.eligible, driver.pool.full) == (True, 0)
    assert driver.pool.choose(driver.now) is backend


def test_the_limit_is_the_back_ends_own_or_else_that_of_the_service() -> None:
    driver = Driver()
    own, other = driver.up(agent(1), max_connections=3), driver.up(agent(2))
    driver.pool.limit_each(2, driver.now)
    for _ in range(5):
        assert driver.pool.choose(driver.now) is not None
    assert driver.pool.choose(driver.now) is None
    assert (own.connections, other.connections) == (3, 2)


def test_without_a_limit_nothing_is_ever_full() -> None:
    driver = Driver()
    backend = driver.up()
    driver.opened(backend, 1000)
    assert backend.eligible
    assert driver.pool.full == 0


def test_sessions_above_a_lowered_limit_go_on_and_no_others_come_until_there_are_fewer() -> None:
    driver = Driver()
    backend = driver.up()
    fill(driver, backend, 3)
    assert driver.pool.limit_each(2, driver.now) == ()
    assert (backend.eligible, backend.connections, driver.pool.full) == (False, 3, 1)
    assert close(driver, backend) == ()
    assert not backend.eligible
    assert close(driver, backend) == (EligibilityChanged(backend, True),)


@pytest.mark.parametrize("most", [None, 5])
def test_a_limit_that_is_raised_or_lifted_frees_at_once(most: int | None) -> None:
    driver = Driver()
    backend = driver.up()
    driver.pool.limit_each(1, driver.now)
    fill(driver, backend, 1)
    assert driver.pool.limit_each(most, driver.now) == (EligibilityChanged(backend, True),)
    assert driver.pool.choose(driver.now) is backend


def test_the_agent_may_change_its_limit_with_every_registration() -> None:
    driver = Driver()
    backend = driver.up(max_connections=1)
    fill(driver, backend, 1)
    driver.register(max_connections=2)
    assert backend.eligible
    driver.register(max_connections=1)
    assert not backend.eligible
    driver.register(max_connections=None)
    assert backend.eligible


def test_an_agent_that_was_started_again_brings_its_limit_along() -> None:
    driver = Driver()
    backend = driver.up()
    fill(driver, backend, 2)
    driver.register(instance=2, max_connections=2)
    driver.answer(driver.probe(backend, driver.candidate(backend)))
    assert backend.registration.instance == 2
    assert not backend.eligible


def test_the_limit_of_an_earlier_run_holds_from_the_first_answer() -> None:
    driver = Driver()
    backend = driver.pool.restore(Registration(AGENT, 1, 20.0, 100, "", 1), 80)
    assert backend is not None
    driver.report(backend)
    fill(driver, backend, 1)
    assert not backend.eligible


def test_full_back_ends_are_no_reason_to_panic() -> None:
    driver = Driver(limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
    backends = [driver.up(agent(number), max_connections=1) for number in range(3)]
    for backend in backends:
        fill(driver, backend, 1)
    driver.down(backends[0])
    assert not driver.pool.panicking
    assert driver.pool.full == 2
    assert driver.pool.choose(driver.now) is None


def test_in_a_panic_the_limit_holds_too() -> None:
    driver = Driver(limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
    backends = [driver.up(agent(number), max_connections=1) for number in range(3)]
    fill(driver, backends[0], 1)
    for backend in backends[:2]:
        driver.down(backend)
    assert driver.pool.panicking
    assert set(driver.pool.eligible) == set(backends[1:])
    assert driver.pool.full == 1
    assert close(driver, backends[0]) == (EligibilityChanged(backends[0], True),)


def test_the_end_of_a_panic_takes_the_full_ones_that_are_down_out() -> None:
    driver = Driver(limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
    backends = [driver.up(agent(number), max_connections=1) for number in range(3)]
    for backend in backends[:2]:
        driver.down(backend)
    fill(driver, backends[0], 1)
    assert driver.pool.full == 1
    driver.now += HOLD_MAX_S
    driver.report(backends[1])
    answered = driver.report(backends[1])
    assert PanicChanged(False) in answered.events
    assert EligibilityChanged(backends[0], False) in answered.events
    assert (driver.pool.full, backends[0].usable) == (0, False)
    assert close(driver, backends[0]) == ()
    assert not backends[0].eligible


@pytest.mark.parametrize("way", ["administration", "agent", "down"])
def test_the_end_of_a_session_does_not_free_one_that_may_get_no_clients(way: str) -> None:
    driver = Driver()
    backend = driver.up(max_connections=1)
    fill(driver, backend, 1)
    match way:
        case "administration":
            events = driver.pool.administer(backend, Administration.DRAIN, driver.now)
        case "agent":
            events = driver.report(backend, draining=True).events
        case _:
            driver.down(backend)
            events = (EligibilityChanged(backend, False),)
    assert EligibilityChanged(backend, False) in events
    assert driver.pool.full == 0
    assert close(driver, backend) == ()
    assert not backend.eligible


def test_one_that_comes_up_with_as_many_sessions_as_it_may_have_is_full() -> None:
    driver = Driver()
    backend = driver.up(max_connections=1)
    fill(driver, backend, 1)
    driver.down(backend)
    driver.recover(backend)
    assert (backend.state, backend.eligible, driver.pool.full) == (State.UP, False, 1)
    close(driver, backend)
    assert backend.eligible


def test_connects_that_fail_on_a_full_one_take_it_down_as_on_any_other() -> None:
    driver = Driver()
    backend = driver.up(max_connections=1)
    driver.fail_connects(backend, 3)
    assert backend.state is State.DOWN
    assert driver.pool.full == 0


def test_a_full_one_that_unregisters_is_kept_until_its_sessions_have_ended() -> None:
    driver = Driver()
    backend = driver.up(max_connections=1)
    fill(driver, backend, 1)
    driver.unregister()
    assert (backend.state, driver.pool.full) == (State.DEPARTED, 0)
    close(driver, backend)
    assert (backend.state, len(driver.pool)) == (State.FORGOTTEN, 0)


def starting(**fields: Any) -> tuple[Driver, Backend]:
    driver = Driver(limits=UNLIMITED, slow_start_s=10, panic_below=0)
    return driver, driver.up(**fields)


def test_what_has_just_been_started_has_its_whole_limit() -> None:
    driver, backend = starting(max_connections=20)
    assert backend.share == 0.1
    fill(driver, backend, 20)
    assert not backend.eligible


def test_after_it_was_down_its_limit_grows_as_its_share_does() -> None:
    driver, backend = starting(max_connections=20)
    driver.down(backend)
    driver.now += HOLD_MAX_S
    for _ in range(RISE):
        driver.report(backend)
    fill(driver, backend, 2)
    assert (backend.share, backend.eligible) == (0.1, False)
    driver.now += 1
    assert driver.pool.tick(driver.now) == ()
    driver.now += 1
    assert driver.pool.tick(driver.now) == (EligibilityChanged(backend, True),)
    fill(driver, backend, 2)
    assert not backend.eligible
    driver.now += 10
    driver.pool.tick(driver.now)
    fill(driver, backend, 16)
    assert (backend.share, backend.eligible) == (1, False)


def test_at_least_one_session_fits_however_small_the_share() -> None:
    driver, backend = starting(max_connections=3)
    driver.down(backend)
    driver.now += HOLD_MAX_S
    for _ in range(RISE):
        driver.report(backend)
    assert driver.pool.choose(driver.now) is backend
    assert driver.pool.choose(driver.now) is None


def test_probes_say_that_the_waiting_will_come_each_full_one_its_part_of_them() -> None:
    driver = Driver()
    full = [driver.up(agent(number), max_connections=2) for number in range(3)]
    free = driver.up(agent(9))
    for backend in full:
        fill(driver, backend, 2)
    driver.pool.clients_wait(7)
    assert [driver.probe(backend).request.sessions for backend in full] == [5, 5, 5]
    assert driver.probe(free).request.sessions == 0
    driver.pool.clients_wait(0)
    assert [driver.probe(backend).request.sessions for backend in full] == [2, 2, 2]


def test_while_none_is_up_nobody_waits_for_one_in_particular() -> None:
    driver = Driver()
    backend = driver.up(max_connections=1)
    driver.down(backend)
    driver.pool.clients_wait(5)
    assert driver.probe(backend).request.sessions == 0


def test_the_policy_hears_of_a_full_one_as_of_any_other() -> None:
    """By `opened` and `closed`: a `reported` would make up for failures."""
    driver = Driver()
    policy = driver.pool._policy
    backend = driver.up(max_connections=1)
    told = {event: dict(counts) for event, counts in policy.told.items()}  # type: ignore[attr-defined]
    fill(driver, backend, 1)
    close(driver, backend)
    after = {event: dict(counts) for event, counts in policy.told.items()}  # type: ignore[attr-defined]
    assert after["reported"] == told["reported"]
    assert (after["opened"], after["closed"]) == ({backend: 1}, {backend: 1})


def test_a_static_one_has_its_own_limit_and_its_agent_check_may_set_another() -> None:
    driver = Driver()
    driver.pool.limit_each(1, driver.now)
    driver.pool.static.put(("10.0.0.9", 80), StaticTerms(100, "agent-check:9000", 2), driver.now)
    backend = driver.pool.get("10.0.0.9", 80)
    assert backend is not None
    driver.pool.static.checked(backend, driver.now)
    fill(driver, backend, 2)
    assert not backend.eligible
    limits = []
    for line in ("maxconn:3", "maxconn:1", "maxconn:0"):
        driver.pool.static.said(backend, read(line), driver.now)
        limits.append((backend.limit, backend.eligible))
    assert limits == [(3, True), (1, False), (inf, True)]


def test_the_registration_has_the_limit() -> None:
    backend = Driver().register(max_connections=7)
    assert backend.registration == attrs.evolve(backend.registration, max_connections=7)
    assert backend.max_connections == 7
