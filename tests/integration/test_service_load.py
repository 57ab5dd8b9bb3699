"""The load of a service in the answers of its agent: its accept queue, or what a command or a file says."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import attrs
import pytest

from rproxy.net.addresses import Address, written
from rproxy.wire.pdu import Register
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter
from tests.integration.datagrams import PLAIN, Peer
from tests.integration.fake_proxies import FakeProxy
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.servers import Listener
from tests.integration.test_service_checks import children
from tests.integration.twistd import REACTORS, Twistd

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="sees the queue on Linux only")
every_reactor = pytest.mark.parametrize("reactor", REACTORS)
SERVICE: Address = (LOOPBACK, 80)
"""Nothing listens there."""


@attrs.frozen
class Asked:
    """An agent, and a proxy that it answers."""

    agent: Twistd
    proxy: FakeProxy
    _numbers: count[int] = attrs.Factory(count)

    def load(self) -> int | None:
        return self.proxy.ask(next(self._numbers), None).load

    def wait_until(self, load: int | None) -> None:
        poll(lambda: self.load() == load, READY_S, f"a load of {load}", every_s=0.05)


def agent_of(start: Starter, service: Address, *options: str, reactor: str = "epoll") -> Asked:
    proxy = FakeProxy(Peer(PLAIN))
    start.closing(proxy.peer.close)
    words = ["--proxy", written(proxy.peer.address), "--port", "0", "--check", "none"]
    words += ["--service-port", str(service[1]), *options]
    agent = start.elsewhere().twistd("rproxy-agent", *words, reactor=reactor)
    assert isinstance(proxy.peer.hear(), Register)
    return Asked(agent, proxy)


@LINUX
@every_reactor
def test_an_accept_queue_is_reported_as_it_fills_and_empties(start: Starter, reactor: str) -> None:
    service = Listener(backlog=8)
    start.closing(service.close)
    asked = agent_of(start, service.address, reactor=reactor)
    assert asked.load() == 0
    clients = []
    for _ in range(12):
        clients.append(socket.socket())
        start.closing(clients[-1].close)
        clients[-1].setblocking(False)
        clients[-1].connect_ex(service.address)
    asked.wait_until(100)
    for _ in range(7):
        service.accept()
    poll(lambda: (asked.load() or 0) <= 75, READY_S, "the queue has become shorter")
    service.close()
    asked.wait_until(None)
    assert failures(asked.agent.log) == []


def test_without_a_service_port_there_is_no_queue_to_read(start: Starter) -> None:
    assert agent_of(start, (LOOPBACK, 0)).load() is None


def test_the_load_in_a_file_is_reported_instead(start: Starter, tmp_path: Path) -> None:
    file = tmp_path / "load"
    asked = agent_of(start, SERVICE, "--load-file", str(file))
    assert asked.load() is None
    for text, load in (("37.6\r\n", 38), ("100", 100), ("101", None), ("0", 0)):
        file.write_text(text)
        asked.wait_until(load)
    why = f"{file}: No such file or directory"
    assert asked.agent.log.count(f"the service's load cannot be read and is reported as unknown: {why}\n") == 1
    assert asked.agent.log.count("the service's load can") <= 3
    assert failures(asked.agent.log) == []


@every_reactor
def test_the_load_that_a_command_prints_is_reported_instead_and_delays_no_answer_and_no_stop(
    start: Starter, tmp_path: Path, reactor: str
) -> None:
    file, pids = tmp_path / "load", tmp_path / "pids"
    file.write_text("warming up\n55\n")
    asked = agent_of(
        start,
        SERVICE,
        "--load-command",
        f"cat {file} && exit; echo $$ >> {pids}; sleep 1000 & sleep 1000",
        reactor=reactor,
    )
    asked.wait_until(55)
    file.unlink()
    poll(pids.exists, READY_S, "it hangs")
    assert asked.load() == 55
    asked.agent.stop(within_s=2)
    (pid,) = pids.read_text().split()
    assert not group_exists(int(pid))
    assert failures(asked.agent.log) == []


def group_exists(pid: int) -> bool:
    """Whether any process of the group is left, zombies apart."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group, *_ = path.read_text().rpartition(") ")[2].split()
            if int(group) == pid and state != "Z":
                return True
    return False


@every_reactor
def test_neither_processes_nor_descriptors_pile_up(start: Starter, tmp_path: Path, reactor: str) -> None:
    file = tmp_path / "runs"
    asked = agent_of(start, SERVICE, "--load-command", f"echo >> {file}; sleep 100 & wc -l < {file}", reactor=reactor)
    asked.wait_until(1)
    before = asked.agent.descriptors()
    asked.wait_until(4)
    poll(lambda: asked.agent.descriptors() == before, READY_S, "its descriptors are as before", every_s=0.01)
    poll(lambda: not children(asked.agent), READY_S, "no process is left", every_s=0.01)
