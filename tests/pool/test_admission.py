"""Which registrations count: how many back-ends there may be on a host, and how often one may register."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.candidates import RETRY_MAX_S
from rproxy.pool.limits import Limits
from tests.fakes import UNLIMITED
from tests.pool.driving import AGENT, Driver, agent

OTHER_PORT: Address = (AGENT[0], 5556)


def refusal(driver: Driver, source: Address = AGENT, **fields: Any) -> Refusal | None:
    """Why a registration does not count, if it does not."""
    try:
        driver.register(source, **fields)
    except Rejected as rejected:
        return rejected.refusal
    return None


class TestHosts:
    def test_back_ends_of_one_host_are_limited(self) -> None:
        driver = Driver(limits=attrs.evolve(UNLIMITED, host=2))
        kept = [driver.up(service_port=port) for port in (80, 81)]
        assert refusal(driver, service_port=82) is Refusal.HOST_FULL
        driver.up(agent(2))
        assert driver.register(service_port=81) is kept[1]
        driver.unregister(port=80)
        driver.up(service_port=82)
        assert len(driver.pool.eligible) == 3

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_those_of_this_host_are_not(self, host: str) -> None:
        driver = Driver(limits=attrs.evolve(UNLIMITED, host=2))
        for port in range(1, 10):
            driver.up((host, 5555), service_port=port)
        assert len(driver.pool.eligible) == 9


class TestRateLimits:
    def limited(self, driver: Driver, source: Address, **fields: Any) -> bool:
        found = refusal(driver, source, **fields)
        assert found in (None, Refusal.RATE_LIMITED)
        return found is not None

    def test_an_instance_may_register_five_times_at_once_and_then_once_a_second(self) -> None:
        """What it says is new each time."""
        driver = Driver(limits=Limits())
        assert [self.limited(driver, AGENT, weight=weight) for weight in range(1, 8)] == [False] * 5 + [True] * 2
        driver.now += 1
        assert [self.limited(driver, AGENT, weight=weight) for weight in range(1, 3)] == [False, True]
        assert not self.limited(driver, OTHER_PORT)
        assert not self.limited(driver, ("10.0.0.2", 5555))

    def test_what_is_sent_again_in_an_agents_name_leaves_the_present_instance_its_turns(self) -> None:
        """A hundred old registrations, all the time, from its own port and from others."""
        driver = Driver(limits=Limits())
        limited = []
        for number in range(20):
            for instance in range(100, 120):
                self.limited(driver, AGENT, instance=instance)
                self.limited(driver, (AGENT[0], 1000 + number), instance=instance)
            limited.append(self.limited(driver, AGENT, instance=1))
            driver.now += RETRY_MAX_S
        assert limited == [False] * 20

    @pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
    def test_a_loopback_address_is_limited_only_with_all_others(self, address: str) -> None:
        driver = Driver(limits=Limits())
        assert not any(self.limited(driver, (address, port)) for port in range(1, 101))

    def test_one_that_is_up_may_say_the_same_again_at_any_rate(self) -> None:
        driver = Driver(limits=Limits())
        driver.up()
        assert not any(self.limited(driver, AGENT) for _ in range(1000))
