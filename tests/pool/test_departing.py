"""A back-end goes while sessions are on it: its row stays as long as they do."""

from __future__ import annotations

import attrs
import pytest

from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend
from rproxy.pool.states import Administration, State
from tests.fakes import UNLIMITED
from tests.pool.driving import AGENT, REGISTER, Driver, agent, transition_of


def departed(driver: Driver, sessions: int = 3, **how: bool) -> Backend:
    backend = driver.up(instance=1)
    driver.opened(backend, sessions, **how)
    transition = driver.unregister(instance=1)
    assert transition is not None
    assert transition.after is State.DEPARTED
    return backend


def close(driver: Driver, backend: Backend, *, was_connected: bool = True) -> State | None:
    transition = driver.close(backend, was_connected=was_connected)
    return None if transition is None else transition.after


@pytest.mark.parametrize("connected", [True, False])
def test_it_gets_no_client_and_is_forgotten_with_its_last_session(driver: Driver, connected: bool) -> None:
    backend = departed(driver, connected=connected)
    assert (driver.pool.eligible, backend.connections) == ([], 3)
    assert [close(driver, backend, was_connected=connected) for _ in range(3)] == [None, None, State.FORGOTTEN]
    assert len(driver.pool) == 0


@pytest.mark.parametrize("before", ["down", "not registered"])
def test_one_of_which_nothing_is_heard_departs_likewise(driver: Driver, before: str) -> None:
    backend = driver.up()
    driver.opened(backend)
    if before == "down":
        driver.down(backend)
        driver.now += 100
    else:
        driver.now += 300
        driver.report(backend)
    transition = driver.check(backend)
    assert transition is not None
    assert (backend.state, len(driver.pool)) == (State.DEPARTED, 1)
    driver.now += 1e6
    assert driver.check(backend) is None
    assert close(driver, backend) is State.FORGOTTEN


def test_an_agent_that_returns_takes_it_over_with_its_counts(driver: Driver) -> None:
    backend = departed(driver)
    assert driver.register(instance=2) is backend
    assert driver.pool.eligible == []
    confirmed = driver.answer(driver.probe(backend, driver.candidate(backend)))
    assert confirmed.transition is not None
    assert (confirmed.transition.before, confirmed.transition.after) == (State.DEPARTED, State.UP)
    assert (backend.connections, backend.counts.total, backend.registration.instance) == (3, 3, 2)
    assert driver.pool.eligible == [backend]
    assert [close(driver, backend) for _ in range(3)] == [None] * 3


def test_one_that_only_registers_takes_nothing_over(driver: Driver) -> None:
    backend = departed(driver)
    driver.register(instance=2)
    assert driver.lose(driver.probe(backend, driver.candidate(backend))) is None
    assert (backend.state, backend.registration.instance, backend.losses.rate) == (State.DEPARTED, 1, 0)
    assert not backend.awaited


def test_its_own_instance_stays_gone(driver: Driver) -> None:
    departed(driver)
    for refusal in (Refusal.RETIRED, Refusal.RETIRED):
        with pytest.raises(Rejected) as caught:
            driver.register(instance=1)
        assert caught.value.refusal is refusal
    with pytest.raises(Rejected) as caught:
        driver.unregister(instance=1)
    assert caught.value.refusal is Refusal.UNKNOWN


def test_one_that_was_only_silent_returns_as_the_same_instance(driver: Driver) -> None:
    backend = driver.up()
    driver.opened(backend)
    driver.down(backend)
    driver.now += 100
    driver.check(backend)
    driver.up()
    assert (backend.state, backend.connections) == (State.UP, 1)


def test_nothing_of_its_former_life_is_held_against_it(driver: Driver) -> None:
    backend = driver.up()
    driver.opened(backend)
    driver.report(backend, draining=True)
    driver.lose(driver.probe(backend))
    driver.probe(backend)
    driver.unregister()
    assert backend.probing.outstanding == set()
    driver.register(instance=2)
    driver.answer(driver.probe(backend, driver.candidate(backend)))
    assert (backend.health.misses, backend.losses.rate, backend.draining) == (0, 0, False)


def test_an_operators_drain_outlives_its_reboot(driver: Driver) -> None:
    backend = driver.up()
    driver.opened(backend)
    driver.pool.administer(backend, Administration.DRAIN, driver.now)
    driver.unregister()
    driver.up(instance=2)
    assert (backend.state, driver.pool.eligible) == (State.UP, [])


def test_connects_that_fail_meanwhile_change_nothing(driver: Driver) -> None:
    backend = departed(driver, connected=False)
    for _ in range(5):
        assert transition_of(driver.pool.refused(backend, driver.now)) is None
    assert backend.state is State.DEPARTED


def test_not_even_a_panic_uses_it() -> None:
    driver = Driver(limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
    gone, dead, _ = (driver.up(agent(number)) for number in range(3))
    driver.opened(gone)
    driver.unregister(agent(0))
    driver.down(dead)
    driver.down(driver.up(agent(3)))
    assert driver.pool.panicking
    assert gone not in driver.pool.eligible


def test_it_takes_nobodys_place_and_needs_one_to_return() -> None:
    driver = Driver(limits=attrs.evolve(UNLIMITED, confirmed=1, host=1))
    backend = departed(driver, 1)
    driver.up(agent(7))
    driver.register(instance=2)
    probe = driver.probe(backend, driver.candidate(backend))
    with pytest.raises(Rejected) as caught:
        driver.answer(probe)
    assert caught.value.refusal is Refusal.TABLE_FULL
    driver.unregister(agent(7))
    driver.now = probe.sent_at
    driver.answer(probe)
    assert backend.state is State.UP


def test_a_host_has_no_more_back_ends_by_it_than_otherwise() -> None:
    driver = Driver(limits=attrs.evolve(UNLIMITED, host=1))
    backend = departed(driver, 1)
    driver.up(AGENT, service_port=81)
    driver.register(instance=2)
    with pytest.raises(Rejected) as caught:
        driver.answer(driver.probe(backend, driver.candidate(backend)))
    assert caught.value.refusal is Refusal.HOST_FULL
    close(driver, backend)
    assert [each.port for each in driver.pool] == [81]


def test_one_that_turns_out_to_be_no_back_end_stays_gone(driver: Driver) -> None:
    """Whoever asks for its place meanwhile does not get it."""
    backend = departed(driver)
    driver.register(instance=2)
    probe = driver.probe(backend, driver.candidate(backend))
    driver.pool.register(AGENT, attrs.evolve(REGISTER, instance=3), driver.now)
    assert transition_of(driver.pool.exclude(backend, "leads back", driver.now)) is None
    assert (backend.state, backend.awaited, backend.connections) == (State.DEPARTED, False, 3)
    with pytest.raises(Rejected):
        driver.answer(probe)
    assert [close(driver, backend) for _ in range(3)] == [None, None, State.FORGOTTEN]


def test_one_that_is_excluded_while_sessions_are_on_it_lets_nobody_wait_for_it(driver: Driver) -> None:
    backend = driver.up()
    driver.opened(backend)
    driver.pool.register(AGENT, attrs.evolve(REGISTER, instance=2), driver.now)
    transition = transition_of(driver.pool.exclude(backend, "leads back", driver.now))
    assert transition is not None
    assert (transition.after, backend.awaited) == (State.DEPARTED, False)
