"""What stands in for figures that an agent cannot tell."""

from __future__ import annotations

import pytest

from rproxy.pool.means import UNKNOWN_PERCENT, Mean, percent_or_mean
from tests.pool.driving import Driver, agent


def test_a_mean_of_nobody_is_none() -> None:
    mean = Mean()
    mean.replace(None, 5)
    mean.replace(5, None)
    assert mean.value is None


def test_a_mean_follows_what_changes() -> None:
    mean = Mean()
    for number in (1, 2, 6):
        mean.replace(None, number)
    assert mean.value == 3
    mean.replace(6, 0)
    assert mean.value == 1


@pytest.mark.parametrize(("means", "taken"), [(None, 50), (0, 50), (49, 50), (85, 85)])
def test_an_unknown_percentage_is_never_idle_and_as_busy_as_a_busy_pool(means: int | None, taken: int) -> None:
    mean = Mean()
    mean.replace(None, means)
    assert percent_or_mean(None, mean) == taken
    assert percent_or_mean(0, mean) == 0
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
