"""What a real agent reports of its host: figures that it cannot read are unknown, and so is CPU use at first."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from rproxy.wire.pdu import ProbeRequest, ProbeResponse, decode, encode
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import start_agent, wait_until_up
from tests.integration.conftest import Starter
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.servers import Listener
from tests.integration.twistd import Twistd

FILES: Final = {"cpu": "/proc/stat", "memory": "/proc/meminfo", "tcp": "/proc/net/snmp"}
NET: Final = "/proc/{pid}/net"
"""Every process has a /proc/net of its own."""
OFTEN: Final = ("--probe-interval", "0.6", "--probe-timeout", "0.5", "--liveness", "5")
BURST_S: Final = 1.2
TRIES: Final = 3
OWN_MOUNTS: Final = ["unshare", "--mount", "--propagation", "private"]


@attrs.frozen
class Watched:
    """A proxy and a real agent that has its own view of /proc."""

    proxy: Proxy
    service: Listener
    agent: Twistd

    def row(self) -> dict[str, Any]:
        return self.proxy.backends().get(self.service.address, {})

    def mount(self, *words: str) -> None:
        subprocess.run(["nsenter", "--mount", f"--target={self.agent.pid}", *words], check=True)

    def unknown(self) -> set[str]:
        return {name for name in ("cpu", "memory") if self.row()[name] is None}

    def wait_for_unknown(self, *names: str) -> None:
        poll(lambda: self.unknown() == set(names), READY_S, f"{names} unknown", every_s=0.05)


def watch(start: Starter, *mounts: str, **how: Any) -> Watched:
    """`mounts` are made before the agent starts, for it alone."""
    need("unshare", "nsenter", "mount", root=True)
    proxy, service = start.proxy(*OFTEN), Listener()
    start.closing(service.close)
    prepared = " && ".join(["true", *mounts])
    prefix = [*OWN_MOUNTS, "sh", "-c", f'{prepared} && exec "$@"', "sh"]
    agent = start_agent(start, proxy, service.address, "--trace", wrapper=prefix, **how)
    wait_until_up(proxy, service.address)
    return Watched(proxy, service, agent)


def replacement(folder: Path, kind: str) -> str:
    """Something to be mounted in a file's place."""
    path = folder / f"in-its-place-{kind}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes({"empty": b"", "garbage": b"\xff garbage\n", "short": b"cpu  1\nMemTotal: 1"}[kind])
    return str(path)


def empty_net(folder: Path) -> str:
    """What is mounted on single files of /proc/net does not stay."""
    net = folder / "net"
    net.mkdir()
    net.joinpath("snmp").touch()
    return str(net)


def test_figures_that_become_unreadable_are_unknown_one_by_one_and_come_back(start: Starter) -> None:
    watched = watch(start)
    watched.wait_for_unknown()
    for memory, cpu in [("empty", "pipe"), ("short", "garbage")]:
        watched.mount("mount", "--bind", replacement(start.folder, memory), FILES["memory"])
        watched.wait_for_unknown("memory")
        watched.mount("mount", "--bind", replacement(start.folder, cpu), FILES["cpu"])
        watched.wait_for_unknown("memory", "cpu")
        watched.mount("umount", FILES["memory"])
        watched.wait_for_unknown("cpu")
        watched.mount("umount", FILES["cpu"])
        watched.wait_for_unknown()
    for name in ("cpu", "memory"):
        assert f"is reported as unknown: {FILES[name]}: " in watched.agent.log
    poll(lambda: watched.agent.log.count("can be read again") >= 2, READY_S, "both are told to be back", every_s=0.05)
    assert failures(watched.agent.log) == []


@pytest.mark.parametrize("reactor", ["epoll", "asyncio"])
def test_an_agent_starts_where_nothing_can_be_read_and_says_so_once(start: Starter, reactor: str) -> None:
    other = replacement(start.folder, "empty")
    mounts = [f"mount --bind {other} {FILES[name]}" for name in ("cpu", "memory")]
    mounts += [f"mount --bind {empty_net(start.folder)} {NET.format(pid='$$')}"]
    watched = watch(start, *mounts, reactor=reactor)
    watched.agent.logged(r"<< .*ProbeResponse\(.*cpu=None, memory=None, load=0, tcp=(None)")
    for file in FILES.values():
        assert watched.agent.log.count(f"is reported as unknown: {file}: ") == 1
    assert failures(watched.agent.log) == []
    assert watched.agent.errors == ""


def test_an_agent_that_may_not_read_a_file_says_that_and_reports_its_connections_all_the_same(start: Starter) -> None:
    """A root whom the modes of files bind."""
    need("setpriv", root=True)
    mounts = ["mount -t tmpfs none /mnt", "touch /mnt/hidden", "chmod 0 /mnt/hidden"]
    mounts += [f"mount --bind /mnt/hidden {FILES[name]}" for name in ("cpu", "memory")]
    watched = watch(start, *mounts, 'set -- setpriv --bounding-set=-dac_override,-dac_read_search "$@"')
    for name in ("cpu", "memory"):
        watched.agent.logged(f"unknown: {FILES[name]}: (Permission denied)")
    watched.wait_for_unknown("cpu", "memory")
    watched.agent.logged(r"<< .*ProbeResponse\(.*cpu=None, memory=None, load=0, tcp=(\d+)")
    assert failures(watched.agent.log) == []
    assert watched.agent.errors == ""


def test_one_that_cannot_count_its_connections_reports_the_rest(start: Starter) -> None:
    watched = watch(start)
    watched.wait_for_unknown()
    watched.mount("mount", "--bind", empty_net(start.folder), NET.format(pid=watched.agent.pid))
    watched.agent.logged(r"<< .*ProbeResponse\(.*cpu=\d+, memory=\d+, load=0, tcp=(None)")
    assert watched.unknown() == set()


def test_the_first_cpu_use_is_unknown_however_many_probes_ask_for_it(start: Starter) -> None:
    """On a machine that is too busy to ask in time, another agent is started."""
    with socket.socket(type=socket.SOCK_DGRAM) as proxy:
        proxy.bind((LOOPBACK, 0))
        proxy.settimeout(READY_S)
        told = ["--proxy", f"{LOOPBACK}:{proxy.getsockname()[1]}", "--port", "0"]
        for _ in range(TRIES):
            agent = start.elsewhere().twistd("rproxy-agent", *told)
            _, address = proxy.recvfrom(64)
            figures = burst(proxy, address)
            agent.close()
            if figures[0] is None:
                break
        assert figures[0] is None
        assert isinstance(figures[-1], int)


def burst(proxy: socket.socket, agent: Any) -> list[int | None]:
    """The CPU use in the answers to so many probes, one after the other, that half a second has passed."""
    seen: list[int | None] = []
    until = time.monotonic() + BURST_S
    while time.monotonic() < until:
        proxy.sendto(encode(ProbeRequest(len(seen), len(seen))), agent)
        pdu = decode(proxy.recv(64))
        if isinstance(pdu, ProbeResponse):
            seen.append(pdu.cpu)
    return seen
