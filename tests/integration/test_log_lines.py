"""What anybody can repeat does not fill the log, and the log ends with the truth."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Final

import attrs

from rproxy.observe.pool_log import HOST_BURST
from rproxy.timing.rate_limit import LOG_EVERY_S
from rproxy.wire.pdu import Unregister
from tests.integration.conftest import Starter
from tests.integration.datagrams import PLAIN, REGISTER, Peer, answer
from tests.integration.fake_agents import FakeAgent
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll

TIMES: Final = 120
CHANGE: Final = re.compile(r"back-end \S+: \w+ -> \w+ |: (\d+) changes of state since the last line; now (.+)")


def test_the_log_has_few_lines_of_what_is_repeated_and_ends_with_the_truth(start: Starter) -> None:
    """A host registers and goes again and again, and an agent drains for a moment."""
    proxy = start.proxy("--probe-interval", "0.1")
    agent = FakeAgent(proxy.monitor, 8000)
    start.closing(agent.close)
    poll(lambda: proxy.state(agent.backend) == "up", READY_S, "it is up")
    for draining in (True, False):
        agent.drain(draining)
        state = "draining" if draining else "up"
        poll(lambda state=state: proxy.state(agent.backend) == state, READY_S, f"it is {state}")  # type: ignore[misc]
    assert "clients again" not in proxy.log
    repeat(Peer(PLAIN, proxy.monitor))

    def told() -> int:
        return sum(int(line[1] or 1) for line in CHANGE.finditer(proxy.log))

    poll(lambda: told() == 1 + 2 * TIMES, 2 * LOG_EVERY_S, "all are told", every_s=0.1)
    lines = list(CHANGE.finditer(proxy.log))
    assert len(lines) <= HOST_BURST + 3
    assert lines[-1][2] == f"127.0.0.1:{REGISTER.service_port} forgotten"
    proxy.logged("asks for (clients again)", LOG_EVERY_S)
    assert proxy.log.count("asks for") == 2
    assert failures(proxy.log) == []


def repeat(peer: Peer) -> None:
    """One start of an agent after the other."""
    with closing(peer):
        for instance in range(1, TIMES + 1):
            peer.tell(attrs.evolve(REGISTER, instance=instance))
            peer.tell(answer(peer.hear_probe()))
            peer.tell(Unregister(REGISTER.service_port, instance))
