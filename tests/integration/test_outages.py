"""Back-ends that fail again and again: each time they stay out for longer, and no client notices."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from typing import Final

from rproxy.net.addresses import Address, written
from tests.integration.agents import serve, start_agent, visitors
from tests.integration.conftest import BY_REPORT, Starter
from tests.integration.fake_agents import BUSY, IDLE
from tests.integration.logs import failures
from tests.integration.polling import READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy

HOLD_S: Final = 10.0
"""The first hold-down; the second one is twice as long."""
SEEN_S: Final = 0.5
"""How much later than it happened something may be seen."""
STEADY: Final = 3
"""Back-ends that do not fail: more than half of all."""


def test_a_dead_service_and_a_flapping_agent_stay_out_longer_each_time_and_come_back(start: Starter) -> None:
    """The agent of the dead service, which is everybody's first choice, answers; the flapping one's service serves."""
    proxy = start.proxy("--probe-interval", "0.5", *BY_REPORT)
    pool = Pool(proxy)
    start.closing(pool.abandon)
    for _ in range(STEADY):
        pool.serve(lambda connection: connection.sendall(b"steady"), BUSY)
    flapping = serve(start, b"steady")
    agent = start_agent(start, proxy, flapping, "--report", "cpu=0,memory=0,tcp=1000")
    poll(lambda: proxy.state(flapping) == "up", READY_S, "it is up")
    flaps = in_background(
        outages,
        proxy,
        flapping,
        lambda _: agent.send_signal(signal.SIGSTOP),
        lambda _: agent.send_signal(signal.SIGCONT),
    )
    dead = pool.refuse(IDLE)
    address = dead.address
    with visitors(proxy) as greeted:

        def revive(fall: int) -> None:
            if fall == 2:
                assert set(greeted) == {b"steady"}
                dead.close()
                serve(start, b"alive", port=address[1])

        assert_longer_each_time(outages(proxy, address, lambda _: None, revive))
        poll(lambda: greeted[b"alive"], READY_S, "it serves")
        assert_longer_each_time(flaps.result())
    assert set(greeted) == {b"steady", b"alive"}
    assert f"{written(address)}: up -> down (3 connects in a row failed" in proxy.log
    assert f"{written(flapping)}: suspect -> down (3 probes in a row lost" in proxy.log
    assert failures(proxy.log) == []


def outages(
    proxy: Proxy, service: Address, break_: Callable[[int], object], mend: Callable[[int], object]
) -> tuple[float, float]:
    """Have a back-end fail twice: how long it is down each time, in seconds."""

    def outage(number: int) -> float:
        break_(number)
        poll(lambda: times(proxy, service, "down") == number, READY_S, f"outage {number}")
        began = time.monotonic()
        mend(number)
        within_s = number * HOLD_S + READY_S
        poll(lambda: times(proxy, service, "up") == number + 1, within_s, f"the end of outage {number}")
        return time.monotonic() - began

    return outage(1), outage(2)


def times(proxy: Proxy, service: Address, state: str) -> int:
    """How often it came into that state, as the log says: a client may find it out at once."""
    return len(re.findall(rf"back-end {re.escape(written(service))}: \w+ -> {state} ", proxy.log))


def assert_longer_each_time(outages_s: tuple[float, float]) -> None:
    for outage_s, hold_s in zip(outages_s, (HOLD_S, 2 * HOLD_S), strict=True):
        assert hold_s - SEEN_S <= outage_s <= 1.5 * hold_s
