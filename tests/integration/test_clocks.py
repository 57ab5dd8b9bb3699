"""The wall clock jumps, or the proxy is stopped for a while: no back-end is lost by either."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from tests.conftest import need
from tests.integration.agents import greeting, serve, start_agent, wait_until_up
from tests.integration.conftest import Starter
from tests.integration.fake_agents import FakeAgent
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.sockets import connect, receive
from tests.integration.test_commands import probe_responses
from tests.integration.twistd import REACTORS, Twistd

pytestmark = pytest.mark.alone  # no other stops than its own

PROBE_S: Final = 0.1
MEASURED_S: Final = 2.0
HOUR_S: Final = 3600.0
NEAR_S: Final = 60.0
"""How far the time of a new line in a log may be from the present."""
FALL: Final = "-> down"
AGENTS: Final = 5
DELAY_S: Final = 0.5
TIMEOUT_S: Final = 1.4
MANY: Final = 5 * AGENTS
"""Probes in half a second."""


@attrs.frozen
class WallClock:
    """What processes that are started with its `wrapper` take for the time of day."""

    library: str
    file: Path

    def __attrs_post_init__(self) -> None:
        self.set("+0")

    def set(self, offset: str) -> None:
        """How far it is ahead of the machine's: "+1h", for one."""
        self.file.write_text(f"{offset}\n")

    @property
    def wrapper(self) -> list[str]:
        settings = {
            "LD_PRELOAD": self.library,
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        return ["env", *(f"{name}={value}" for name, value in settings.items())]


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    (library,) = need("libfaketime.so.1")
    return WallClock(library, tmp_path / "offset")


def wait_until_ahead(expected_s: float, *processes: Twistd) -> None:
    """The clock did jump: lines come into the logs from so much later than it is by this machine's."""

    def are_ahead() -> bool:
        return all(abs(ahead_s(process) - expected_s) < NEAR_S for process in processes)

    poll(are_ahead, READY_S, f"the logs are {expected_s:g} s ahead", every_s=0.05)


def ahead_s(process: Twistd) -> float:
    """The last line's time of day."""
    stamp = process.log.rpartition("\n")[0].rpartition("\n")[2].partition(" ")[0]
    return (datetime.fromisoformat(stamp) - datetime.now(UTC)).total_seconds()


def measured_pace(proxy: Proxy) -> float:
    """Answered probes, as a share of those that fall due."""
    began, before = time.monotonic(), probe_responses(proxy)
    time.sleep(MEASURED_S)
    answered = probe_responses(proxy) - before
    return answered * PROBE_S / (time.monotonic() - began)


@pytest.mark.parametrize("reactor", REACTORS)
def test_a_wall_clock_that_jumps_an_hour_to_and_fro_changes_nothing(
    start: Starter, clock: WallClock, reactor: str
) -> None:
    """Neither do probes stop, nor do the timers of an hour run out at once."""
    how: dict[str, Any] = {"reactor": reactor, "wrapper": clock.wrapper}
    proxy = start.proxy("--probe-interval", f"{PROBE_S}", "--idle-timeout", f"{HOUR_S / 60:g}", "--trace", **how)
    service = serve(start, b"hello")
    agent = start_agent(start, proxy, service, "--trace", **how)
    wait_until_up(proxy, service)
    with connect(proxy.address) as client:
        assert receive(client, 5) == b"hello"
        for offset, expected_s in [("+1h", HOUR_S), ("+0", 0.0)]:
            clock.set(offset)
            wait_until_ahead(expected_s, proxy, agent)
            assert 0.5 < measured_pace(proxy) < 1.5
            assert greeting(proxy) == b"hello"
        client.sendall(b"and back")
        assert receive(client, 8) == b"and back"
    assert FALL not in proxy.log
    assert "has stopped probing" not in agent.log
    assert failures(proxy.log) == failures(agent.log) == []


def test_no_back_end_is_lost_while_the_proxy_is_stopped(start: Starter) -> None:
    """The answers to probes that were on their way are there when it goes on, but their time is over by then."""
    proxies = [start_pool(start, reactor) for reactor in REACTORS]
    for away_s in (2.0, 15.0):
        before = [probe_responses(proxy) for proxy in proxies]
        stop_for(away_s, proxies)
        for proxy, answered in zip(proxies, before, strict=True):
            wait_for_probes(proxy, answered + MANY)
            assert late(proxy) == 0
            rows = proxy.backends().values()
            assert [(row["state"], row["loss"]) for row in rows] == [("up", 0)] * AGENTS
            assert greeting(proxy) == b"hello"
    assert [proxy.log.count("was away") for proxy in proxies] == [1, 1]
    assert [proxy.log.count(FALL) for proxy in proxies] == [0, 0]


def start_pool(start: Starter, reactor: str) -> Proxy:
    """Its agents take so long to answer that there are always several probes of each on their way."""
    options = ["--probe-interval", f"{PROBE_S}", "--probe-timeout", f"{TIMEOUT_S}"]
    proxy = start.elsewhere().proxy(*options, reactor=reactor)
    services = [serve(start, b"hello") for _ in range(AGENTS)]
    for service in services:
        agent = FakeAgent(proxy.monitor, service[1], delay_s=DELAY_S)
        start.closing(partial(agent.close, unregister=False))
    wait_until_up(proxy, *services)
    wait_for_probes(proxy, MANY)
    return proxy


def wait_for_probes(proxy: Proxy, number: int) -> None:
    poll(lambda: probe_responses(proxy) > number, READY_S, f"{number} probes were answered", every_s=0.05)


def stop_for(seconds: float, processes: Sequence[Twistd]) -> None:
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    for process in processes:
        process.send_signal(signal.SIGCONT)


def late(proxy: Proxy) -> int:
    """Answers after their time."""
    dropped: dict[str, int] = proxy.status()["counters"]["dropped"]
    return dropped.get("late", 0)
