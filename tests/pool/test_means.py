"""What stands in for figures that an agent cannot tell."""

from __future__ import annotations

import pytest

from rproxy.pool.estimators import CPU, MEMORY, NO_FIGURES, OTHERS, UNKNOWN_PERCENT, PoolMeans
from tests.pool.driving import Driver, agent


def test_a_mean_of_nobody_is_none() -> None:
    means = PoolMeans()
    means.replace(NO_FIGURES, (5, None, 7, None, None))
    assert [means.mean(index) for index in (CPU, MEMORY, OTHERS)] == [5, None, 7]
    means.replace((5, None, 7, None, None), NO_FIGURES)
    assert [means.mean(index) for index in (CPU, MEMORY, OTHERS)] == [None, None, None]


@pytest.mark.parametrize("index", range(len(NO_FIGURES)))
def test_a_mean_follows_what_changes(index: int) -> None:
    def only(number: int) -> tuple[int | None, ...]:
        return tuple(number if each == index else None for each in range(len(NO_FIGURES)))

    means = PoolMeans()
    for number in (1, 2, 6):
        means.replace(NO_FIGURES, only(number))
    assert means.mean(index) == 3
    means.replace(only(6), only(0))
    assert means.mean(index) == 1


@pytest.mark.parametrize(("mean", "taken"), [(None, 50), (0, 50), (49, 50), (85, 85)])
def test_an_unknown_percentage_is_never_idle_and_as_busy_as_a_busy_pool(mean: int | None, taken: int) -> None:
    means = PoolMeans()
    means.replace(NO_FIGURES, (mean, *NO_FIGURES[1:]))
    assert means.percent(None, CPU) == taken
    assert means.percent(0, CPU) == 0
    assert UNKNOWN_PERCENT == 50


def test_an_unknown_count_is_the_mean_of_the_others_without_our_own_sessions() -> None:
    driver = Driver()
    first, second, blind = (driver.up(agent(number)) for number in range(3))
    driver.opened(first, 4)
    driver.report(first, tcp=10)  # 6 of which are not ours
    driver.report(second, tcp=20)
    driver.report(blind, tcp=None)
    assert blind.tcp == 13
    driver.opened(blind, 2, connected=False)
    driver.opened(blind, 1)
    assert blind.tcp == 16
    driver.report(second, tcp=0)
    assert blind.tcp == 3 + 3


def test_where_no_agent_can_tell_our_own_sessions_are_all_that_counts() -> None:
    driver = Driver()
    first, second = (driver.up(agent(number), instance=1) for number in range(2))
    for backend in (first, second):
        driver.report(backend, tcp=None)
    driver.opened(first, 2)
    assert (first.tcp, second.tcp) == (2, 0)


def test_what_is_down_or_gone_does_not_count() -> None:
    driver = Driver()
    first, second, blind = (driver.up(agent(number)) for number in range(3))
    driver.report(first, tcp=100)
    driver.report(second, tcp=10)
    driver.report(blind, tcp=None)
    assert blind.tcp == 55
    driver.down(first)
    assert blind.tcp == 10
    driver.recover(first)
    assert blind.tcp == 5, "it answered again, and told 0"
    driver.unregister(agent(0))
    assert blind.tcp == 10


def test_a_first_report_without_a_count_is_no_count_of_nought() -> None:
    driver = Driver()
    driver.report(driver.up(agent(0)), tcp=40)
    blind = driver.register(agent(1))
    driver.answer(driver.probe(blind), tcp=None, cpu=None, memory=None)
    assert (blind.tcp, blind.cpu, blind.memory) == (40, 50, 50)
