"""A proxy throttled by a CPU quota: no back-end is falsely ejected, and dead ones are still detected."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import pytest

from tests.integration.agents import greeting, serve, wait_until_up
from tests.integration.conftest import Starter
from tests.integration.fake_agents import FakeAgent
from tests.integration.logs import failures
from tests.integration.polling import poll
from tests.integration.proxies import Proxy

pytestmark = pytest.mark.alone  # no other stops than its own

TIMING: Final = ("--probe-interval", "1", "--probe-timeout", "0.5", "--liveness", "4")
NORMAL_S: Final = 1.1 + 0.5 + 2.0 + 0.5
"""When a back-end that is silent is down, at the latest: the first probe, and the third timeout."""
SPARE_S: Final = 1.0
AGENTS: Final = 4


@contextmanager
def throttled(proxy: Proxy, stopped_s: float, running_s: float) -> Iterator[None]:
    over = threading.Event()

    def throttle() -> None:
        while not over.is_set():
            proxy.send_signal(signal.SIGSTOP)
            time.sleep(stopped_s)
            proxy.send_signal(signal.SIGCONT)
            time.sleep(running_s)

    throttling = threading.Thread(target=throttle)
    throttling.start()
    try:
        yield
    finally:
        over.set()
        throttling.join()


@pytest.mark.parametrize(("stopped_s", "running_s"), [(0.3, 0.3), (0.9, 0.1)])
def test_a_throttled_proxy_finds_a_dead_back_end_in_time_and_ejects_no_other(
    start: Starter, stopped_s: float, running_s: float
) -> None:
    proxy = start.proxy(*TIMING)
    services = [serve(start, b"hello") for _ in range(AGENTS)]
    agents = [FakeAgent(proxy.monitor, service[1]) for service in services]
    for agent in agents:
        start.closing(partial(agent.close, unregister=False))
    wait_until_up(proxy, *services)
    with throttled(proxy, stopped_s, running_s):
        time.sleep(2 * NORMAL_S)
        agents[0].close(unregister=False)
        died = time.monotonic()
        poll(lambda: "suspect -> down" in proxy.log, 2 * NORMAL_S + SPARE_S, "it is found dead", every_s=0.05)
        assert time.monotonic() - died > 1.5
    assert greeting(proxy) == b"hello"
    assert [proxy.state(service) for service in services] == ["down", "up", "up", "up"]
    assert [row["loss"] for address, row in proxy.backends().items() if address != services[0]] == [0] * (AGENTS - 1)
    assert proxy.log.count("-> down") == 1
    assert proxy.log.count("was away") <= 1
    assert failures(proxy.log) == []
