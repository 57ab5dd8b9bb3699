"""A real HAProxy and we read the same lines of an agent-check in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from rproxy.pool.backend import Backend, StaticTerms
from rproxy.pool.pool import Pool
from rproxy.pool.states import State
from rproxy.wire.agent_check import MAINT, line_of, read
from tests.fakes import UNLIMITED, pool_of
from tests.integration.haproxies import AgentCheck, Haproxy, asking
from tests.integration.polling import READY_S, poll
from tests.integration.servers import Server, echo

WEIGHT: Final = 50
ALL_WELL: Final = "up ready 100% maxconn:0\n"
LINES: Final = (
    *("up", "down", "fail", "stopped", "UP", "Down # disk full", "stopped #planned,twice", "down#full", "# down"),
    *(
        "ready",
        "drain",
        "maint",
        "DRAIN",
        "MAINT,50%",
        "drain up",
        "maint down",
        "down drain",
        "drain ready maint ready",
    ),
    *("75%", "0%", "4%", "150%", "400%", "+5%", "-5%", "1.5%", "75%%", "5%x", "x5%", "%", "50%,25%", "50% 5%x"),
    *("maxconn:30", "maxconn:0", "MAXCONN:7,up", "maxconn:", "maxconn:5x", "maxconn:5 maxconn:9", "maxconn: 5"),
    *("hello", "hello 25% down # why", "up down", "down up", "drain\t25%  maxconn:5, up", "", " \t,", "up,,, 10%"),
    *("down\r", "0%\rup", "75% # of nothing", "fail ,#x", "0% ready up", "drain 0% 100%"),
)
"""All but ``weight:``, which this HAProxy does not know yet, and percentages of which it makes a weight of 0."""


@attrs.frozen
class Standing:
    """Of a server: up, down, drained or in maintenance, with its weight and its limit of connections.

    What the weight is in maintenance shows only afterwards.
    """

    status: str
    weight: int
    limit: int

    @classmethod
    def of(cls, status: str, weight: int, limit: int) -> Standing:
        """HAProxy's page for people calls it drained if its weight is 0, the table does not."""
        if status == "UP" and not weight:
            status = "DRAIN"
        return cls(status, 0 if status == "MAINT" else weight, limit)


class Ours:
    """A back-end of ours, whose port is reachable."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pool: Pool = pool_of(limits=UNLIMITED, slow_start_s=0, panic_below=0)
        self.pool.static.put(("10.0.0.9", 80), StaticTerms(WEIGHT, "agent-check:9000"), self.now)
        self.backend: Backend = next(iter(self.pool))

    def hear(self, received: str) -> None:
        for _ in range(3):
            self.now += 2.0
            self.pool.static.checked(self.backend, self.now, rtt_ms=0.1)
        line = line_of(received.encode("latin-1"), ended=True)
        assert line is not None
        self.pool.static.said(self.backend, read(line), self.now)

    @property
    def standing(self) -> Standing:
        static = self.backend.static
        assert static is not None
        if static.mode == MAINT:
            status = "MAINT"
        elif self.backend.state is State.DOWN:
            status = "DOWN"
        else:
            status = "UP" if self.backend.eligible else "DRAIN"
        return Standing.of(status, static.weight, static.max_connections or 0)


class Theirs:
    def __init__(self, folder: Path) -> None:
        self.agent = AgentCheck(ALL_WELL)
        self._server = Server(echo)
        self._haproxy: Haproxy = asking(folder, self._server.address, self.agent.address, weight=WEIGHT)

    @property
    def standing(self) -> Standing:
        row = self._haproxy.server("checked", "one")
        return Standing.of(row["status"].split(" ")[0], int(row["weight"]), int(row["slim"] or 0))

    def close(self) -> None:
        self._haproxy.close()
        self.agent.close()
        self._server.close()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    theirs = Theirs(tmp_path_factory.mktemp("haproxy"))
    yield theirs
    theirs.close()


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_haproxy_reads_the_same_line_in_the_same_way(theirs: Theirs, line: str) -> None:
    ours = Ours()
    ours.hear(ALL_WELL)
    theirs.agent.line = ALL_WELL
    poll(lambda: theirs.standing == Standing("UP", WEIGHT, 0) == ours.standing, READY_S, "all is well")
    theirs.agent.line = f"{line}\n"
    ours.hear(f"{line}\n")
    theirs.agent.wait()
    assert theirs.standing == ours.standing


def test_what_is_not_mentioned_stays_and_comes_back_one_by_one(theirs: Theirs) -> None:
    ours = Ours()
    ours.hear(ALL_WELL)
    theirs.agent.line = ALL_WELL
    poll(lambda: theirs.standing == Standing("UP", WEIGHT, 0), READY_S, "all is well")
    for line in ("drain", "50%", "down # why", "ready", "maxconn:9", "up", "0%", "", "maint", "up", "ready", "100%"):
        theirs.agent.line = f"{line}\n"
        theirs.agent.wait()
        ours.hear(f"{line}\n")
        poll(lambda: theirs.standing == ours.standing, READY_S, f"after {line}: {theirs.standing} is {ours.standing}")
