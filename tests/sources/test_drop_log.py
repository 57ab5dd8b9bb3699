"""What is remembered of datagrams that were dropped."""

from __future__ import annotations

from twisted.internet.task import Clock

from rproxy.pool.admission import Refusal
from rproxy.sources.agents.drop_log import HOSTS_MAX, DropLog
from rproxy.wire.pdu import Flaw


def test_the_last_drop_of_each_host_is_remembered() -> None:
    clock = Clock()
    drops = DropLog(clock)
    drops.dropped(("10.0.0.1", 5555), Flaw.SEAL)
    clock.advance(5)
    drops.dropped(("10.0.0.1", 5556), Refusal.NOT_ALLOWED)
    drops.dropped(("10.0.0.2", 5555), Flaw.VERSION)
    assert drops.last_of("10.0.0.1") == (5.0, "not-allowed")
    assert drops.last_of("10.0.0.2") == (5.0, "version")
    assert drops.last_of("10.0.0.3") is None
    drops.stop()


def test_of_many_hosts_those_dropped_longest_ago_are_forgotten() -> None:
    drops = DropLog(Clock())
    for number in range(HOSTS_MAX + 10):
        drops.dropped((f"10.0.{number >> 8}.{number & 255}", 5555), Refusal.LATE)
        drops.dropped(("10.9.9.9", 5555), Refusal.LATE)
    assert drops.last_of("10.0.0.10") is None
    assert drops.last_of("10.0.0.11") is not None
    assert drops.last_of("10.9.9.9") is not None
    drops.stop()
