from __future__ import annotations

from rproxy.pool.backend import Backend
from rproxy.pool.mirrors import Mirrors
from tests.pool.driving import Driver, agent


def mirrored(*backends: Backend) -> tuple[Mirrors, list[Backend]]:
    mirrors = Mirrors()
    return mirrors, [mirrors.update(backend) for backend in backends]


def test_a_copy_is_as_its_back_end_but_for_its_sessions() -> None:
    driver = Driver()
    backend = driver.up(weight=50)
    driver.lease(backend)
    mirrors, (copy,) = mirrored(backend)
    assert (copy.name, copy.weight, copy.state, copy.connections) == (backend.name, 50, backend.state, 1)
    driver.lease(backend)
    mirrors.open(copy)
    mirrors.open(copy)
    assert (backend.connections, copy.connections) == (2, 3)
    assert mirrors.update(backend) is mirrors.get(backend) is copy
    assert copy.connections == 3


def test_reports_and_round_trips_are_current_without_an_update() -> None:
    driver = Driver()
    backend = driver.up()
    mirrors, (copy,) = mirrored(backend)
    driver.report(backend, cpu=70, tcp=9, after_s=0.025)
    assert (copy.cpu, copy.others, round(copy.rtt_ms)) == (70, 9, 25)
    mirrors.open(copy)
    assert (copy.tcp, backend.tcp) == (10, 9)


def test_it_is_full_by_its_own_sessions() -> None:
    driver = Driver()
    first, second, third = (driver.up(agent(number), max_connections=2) for number in range(3))
    driver.lease(first)
    driver.lease(first)
    assert not first.eligible
    mirrors, (one, two, three) = mirrored(first, second, third)
    assert mirrors.eligible == [two, three]
    mirrors.close(one)
    mirrors.open(two)
    mirrors.open(two)
    mirrors.open(three)
    assert set(mirrors.eligible) == {one, three}
    assert [mirrors.eligible.index(one), -1, mirrors.eligible.index(three)] == [each.slot for each in (one, two, three)]


def test_one_that_may_get_no_clients_is_not_eligible_until_it_may_again() -> None:
    driver = Driver()
    backend, other = driver.up(agent(1)), driver.up(agent(2))
    mirrors, (copy, kept) = mirrored(backend, other)
    driver.down(backend)
    mirrors.update(backend)
    assert mirrors.eligible == [kept]
    driver.recover(backend)
    mirrors.update(backend)
    assert mirrors.eligible == [kept, copy]


def test_one_that_is_forgotten_has_no_copy_any_more() -> None:
    driver = Driver()
    backend = driver.up()
    mirrors, (copy,) = mirrored(backend)
    mirrors.open(copy)
    driver.unregister()
    assert mirrors.update(backend) is copy
    assert (len(mirrors), mirrors.get(backend), mirrors.eligible) == (0, None, [])
    mirrors.close(copy)
    assert mirrors.eligible == []
