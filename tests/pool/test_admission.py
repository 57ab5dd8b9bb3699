"""Which registrations count: how many back-ends there may be on a host, and how often one may register."""

from __future__ import annotations

import attrs
import pytest

from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Address
from rproxy.pool.limits import Limits
from rproxy.pool.table import Table
from tests.fakes import UNLIMITED
from tests.pool.driving import AGENT, Driver, agent

OTHER_PORT: Address = (AGENT[0], 5556)


def refusal(driver: Driver, source: Address = AGENT, *, service_port: int = 80) -> Refusal | None:
    """Why a registration does not count, if it does not."""
    try:
        driver.register(source, service_port=service_port)
    except Rejected as rejected:
        return rejected.refusal
    return None


class TestHosts:
    def test_back_ends_of_one_host_are_limited(self) -> None:
        driver = Driver(Table(limits=attrs.evolve(UNLIMITED, host=2)))
        kept = [driver.up(service_port=port) for port in (80, 81)]
        assert refusal(driver, service_port=82) is Refusal.HOST_FULL
        driver.up(agent(2))
        assert driver.register(service_port=81) is kept[1]
        driver.unregister(port=80)
        driver.up(service_port=82)
        assert len(driver.table.eligible) == 3

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_those_of_this_host_are_not(self, host: str) -> None:
        driver = Driver(Table(limits=attrs.evolve(UNLIMITED, host=2)))
        for port in range(1, 10):
            driver.up((host, 5555), service_port=port)
        assert len(driver.table.eligible) == 9


class TestRateLimits:
    def limited(self, driver: Driver, source: Address) -> bool:
        found = refusal(driver, source)
        assert found in (None, Refusal.RATE_LIMITED)
        return found is not None

    def test_an_agent_may_register_five_times_at_once_and_then_once_a_second(self) -> None:
        driver = Driver(Table())
        assert [self.limited(driver, AGENT) for _ in range(7)] == [False] * 5 + [True] * 2
        driver.now += 1
        assert [self.limited(driver, AGENT) for _ in range(2)] == [False, True]
        assert not self.limited(driver, OTHER_PORT)
        assert not self.limited(driver, ("10.0.0.2", 5555))

    def test_the_agents_of_a_host_may_register_ten_times_a_second(self) -> None:
        driver = Driver(Table())
        assert [self.limited(driver, ("10.0.0.1", port)) for port in range(1, 13)] == [False] * 10 + [True] * 2
        driver.now += 1
        assert [self.limited(driver, ("10.0.0.1", port)) for port in range(100, 112)] == [False] * 10 + [True] * 2
        assert not self.limited(driver, ("10.0.0.2", 5555))

    def test_what_is_sent_again_in_a_hosts_name_leaves_its_agent_its_turns(self) -> None:
        """From ports that are not the agent's, five times as often as it registers."""
        driver = Driver(Table())
        limited = []
        for number in range(100):
            for port in range(1000, 1005):
                self.limited(driver, (AGENT[0], port + 5 * number))
            limited.append(self.limited(driver, AGENT))
            driver.now += 1
        assert limited == [False] * 100

    def test_all_addresses_may_register_two_hundred_times_a_second(self) -> None:
        driver = Driver(Table(limits=Limits(unconfirmed=1000)))
        assert [self.limited(driver, agent(number)) for number in range(300)] == [False] * 200 + [True] * 100
        driver.now += 0.5
        assert sum(not self.limited(driver, agent(number)) for number in range(300, 600)) == 100

    def test_one_refused_for_all_costs_its_address_nothing(self) -> None:
        driver = Driver(Table(limits=Limits(registrations_s=1)))
        driver.register(agent(1))
        for _ in range(10):
            assert self.limited(driver, agent(2))
        driver.now += 1
        assert not self.limited(driver, agent(2))

    @pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
    def test_a_loopback_address_is_limited_only_with_all_others(self, address: str) -> None:
        driver = Driver(Table())
        assert not any(self.limited(driver, (address, port)) for port in range(1, 101))

    def test_one_that_is_up_may_say_the_same_again_at_any_rate(self) -> None:
        driver = Driver(Table())
        driver.up()
        assert not any(self.limited(driver, AGENT) for _ in range(1000))
