"""What a real agent in a real cgroup with limits reports: the use of its limits, not that of the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from rproxy.wire.pdu import ProbeRequest, ProbeResponse, decode, encode
from tests.integration.addresses import LOOPBACK
from tests.integration.cgroups import Cgroup, new_cgroup
from tests.integration.conftest import Starter
from tests.integration.polling import READY_S, poll
from tests.integration.twistd import Twistd

pytestmark = [pytest.mark.alone, pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")]
CPUS: Final = 0.1
MB: Final = 1 << 20
MEMORY: Final = 320 * MB
HELD: Final = 160 * MB
FILE: Final = 300 * MB
SPIN: Final = "while True: pass"
FILL: Final = f"file = open({{path!r}}, 'wb'); [file.write(bytes({MB})) for _ in range({FILE // MB})]; file.close()"
"""Leaves as much page cache as fits."""
HOLD: Final = (
    f"import time; held = bytearray({HELD}); held[::4096] = b'1' * len(held[::4096]); print(flush=True); time.sleep(99)"
)


@attrs.define
class Asked:
    """An agent whose only proxy is this socket."""

    agent: Twistd
    proxy: socket.socket
    address: tuple[str, int]
    sequence: int = 0

    def answer(self) -> ProbeResponse:
        self.sequence += 1
        self.proxy.sendto(encode(ProbeRequest(self.sequence, self.sequence)), self.address)
        while not isinstance(pdu := decode(self.proxy.recv(64)), ProbeResponse):
            pass
        return pdu

    def cpu(self) -> int | None:
        return self.answer().cpu


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with new_cgroup(f"rproxy-test-{os.getpid()}") as cgroup:
        yield cgroup


Ask = Callable[..., Asked]


@pytest.fixture
def ask(start: Starter, cgroup: Cgroup) -> Iterator[Ask]:
    """Starts agents in the cgroup; they end before it does."""
    agents: list[Twistd] = []
    proxies: list[socket.socket] = []

    def starter(*options: str) -> Asked:
        proxy = socket.socket(type=socket.SOCK_DGRAM)
        proxies.append(proxy)
        proxy.bind((LOOPBACK, 0))
        proxy.settimeout(READY_S)
        told = ["--proxy", f"{LOOPBACK}:{proxy.getsockname()[1]}", "--port", "0", *options]
        agents.append(start.elsewhere().twistd("rproxy-agent", *told, wrapper=cgroup.wrapper))
        _, address = proxy.recvfrom(64)
        return Asked(agents[-1], proxy, address)

    yield starter
    for agent in agents:
        agent.close()
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def run(cgroup: Cgroup) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Runs Python code in the cgroup, which it has ended before the cgroup does."""
    processes: list[subprocess.Popen[bytes]] = []

    def runner(code: str) -> subprocess.Popen[bytes]:
        command = [*cgroup.wrapper, sys.executable, "-c", code]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return processes[-1]

    yield runner
    for process in processes:
        process.kill()
        process.communicate()


Run = Callable[[str], subprocess.Popen[bytes]]


def test_a_service_at_its_quota_is_busy_on_a_machine_that_is_not(cgroup: Cgroup, ask: Ask, run: Run) -> None:
    """On a machine that other work keeps busy, the idle cgroup shows that it is not the machine's use."""
    own, host = ask(), ask("--scope", "host")
    own.answer()
    cgroup.limit_cpu(CPUS)
    poll(lambda: own.cpu() in range(60), READY_S, "the idle cgroup's CPU use is low", every_s=0.6)
    host.answer()
    poll(lambda: host.cpu() is not None, READY_S, "the machine's is known", every_s=0.6)
    machine_has_time = host.cpu() in range(60)
    run(SPIN)
    poll(lambda: own.cpu() in range(90, 101), READY_S, "the quota is used up", every_s=0.6)
    if machine_has_time:
        poll(lambda: host.cpu() in range(90), READY_S, "the machine still has CPU time left", every_s=0.6)


def test_memory_is_that_of_the_limit_without_page_cache(cgroup: Cgroup, ask: Ask, run: Run, tmp_path: Path) -> None:
    cgroup.limit_memory(MEMORY)
    own = ask()
    before = own.answer().memory
    assert before is not None
    assert before < 40
    holding = run(f"{FILL.format(path=str(tmp_path / 'large'))}; {HOLD}")
    assert holding.stdout is not None
    holding.stdout.readline()
    held = 100 * HELD // MEMORY
    poll(
        lambda: before + held - 5 <= (own.answer().memory or 0) <= before + held + 15,
        READY_S,
        "only what is held counts",
        0.3,
    )
