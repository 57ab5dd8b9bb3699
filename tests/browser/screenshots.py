"""`python -m tests.browser.screenshots [FOLDER]`: the manual's pictures of the page, as root on Linux, in two minutes.

A proxy, twelve back-ends with agents and their clients run in a network namespace of their own, whose addresses are
those of the manual. The page's series have a point a second instead of one in ten, so that they are full after one
minute.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import attrs

from rproxy.agent.sampler import Load
from rproxy.net.addresses import Address
from tests.browser.chrome import Chrome
from tests.conftest import need
from tests.integration.fake_agents import FakeAgent
from tests.integration.twistd import PROJECT, environment

DOCS: Final = PROJECT / "rproxy" / "docs"
NETWORK: Final = "10.1.1.0/24"
FRONT: Final = "10.1.1.10"
WEB: Final = (FRONT, 80)
DATABASE: Final = (FRONT, 5432)
MONITOR: Final = (FRONT, 5555)
ADMIN: Final = ("127.0.0.1", 8404)
TOKEN: Final = "a-token-for-pictures"
HERE: Final = "--in-this-namespace"
RUN_S: Final = 75.0
CONFIG: Final = f"""
[proxy]
monitor = "{FRONT}:{MONITOR[1]}"
allow = "{NETWORK}"
admin = "{ADMIN[0]}:{ADMIN[1]}"
admin-token-file = "token"
[[service]]
name = "web"
shadow = "least-connections"
listen = "{FRONT}:{WEB[1]}"
backend-port = 8080
[[service]]
name = "database"
listen = "{FRONT}:{DATABASE[1]}"
backend-port = 6432
"""
FASTER: Final = (
    "import rproxy.observe.recent as recent; recent.EVERY_S = 1.0; from twisted.scripts.twistd import run; run()"
)


@attrs.frozen
class Kind:
    """The back-ends of a service, and what its clients do."""

    listener: Address
    port: int
    hosts: range
    arrivals_s: float
    mean_s: float
    size: int
    """Bytes that a client asks for, at most."""


KINDS: Final = (
    Kind(WEB, 8080, range(11, 20), arrivals_s=40.0, mean_s=5.0, size=200_000),
    Kind(DATABASE, 6432, range(31, 34), arrivals_s=2.0, mean_s=20.0, size=20_000),
)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ValueError):
        writer.write(bytes(int(await reader.readline())))
        await writer.drain()
        await reader.read()
    writer.close()


async def visit(kind: Kind, rng: random.Random) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection(*kind.listener)
        size = rng.randrange(kind.size)
        writer.write(b"%d\n" % size)
        await reader.readexactly(size)
        await asyncio.sleep(rng.expovariate(1 / kind.mean_s))
        writer.close()


async def traffic() -> None:
    """Back-ends, and clients that come in waves, for ever."""
    rng, visits = random.Random(4), set()
    for kind in KINDS:
        for host in kind.hosts:
            await asyncio.start_server(serve, f"10.1.1.{host}", kind.port, limit=2**16)
    for step in range(10**9):
        for kind in KINDS:
            wave = 0.65 + 0.35 * math.sin(step / 90 + kind.port)
            if rng.random() < kind.arrivals_s * wave / 20:
                visits.add(asyncio.ensure_future(visit(kind, rng)))
        visits = {each for each in visits if not each.done()}
        await asyncio.sleep(1 / 20)


class Hosts:
    """The agents of all back-ends, whose figures follow the sessions that the proxy says it has there."""

    def __init__(self, stack: ExitStack) -> None:
        self._rng = random.Random(7)
        self.agents = {
            host: FakeAgent(MONITOR, kind.port, Load(cpu=5, memory=20, tcp=0, application=0), host=f"10.1.1.{host}")
            for kind in KINDS
            for host in kind.hosts
        }
        for agent in self.agents.values():
            stack.callback(agent.close)
        self._own = {
            host: (self._rng.uniform(4, 12), self._rng.uniform(1.0, 1.8), self._rng.randint(18, 62))
            for host in self.agents
        }

    def work(self) -> None:
        """Report other figures."""
        for host, agent in self.agents.items():
            base, each, memory = self._own[host]
            sessions = agent.sessions or 0
            cpu = min(99.0, base + each * sessions + self._rng.uniform(-3, 3))
            agent.load = Load(
                cpu=round(max(cpu, 1)), memory=memory + sessions // 8, tcp=sessions, application=round(cpu / 9)
            )


def post(path: str) -> None:
    connection = HTTPConnection(*ADMIN)
    connection.request("POST", path, headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    print(json.loads(answer.read())["done"])


def run(folder: Path) -> None:
    """Make the pictures."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory()))
        (work / "rproxy.toml").write_text(CONFIG)
        (work / "token").write_text(TOKEN)
        (work / "token").chmod(0o600)
        command = [sys.executable, "-c", FASTER, "-n", "rproxy", "--config", "rproxy.toml"]
        proxy = subprocess.Popen(command, cwd=work, env=environment())
        stack.callback(proxy.wait)
        stack.callback(proxy.terminate)
        time.sleep(2)
        threading.Thread(target=asyncio.run, args=(traffic(),), daemon=True).start()
        hosts = Hosts(stack)
        began, due = time.monotonic(), {30.0: "drain", 40.0: "die", 45.0: "stop"}
        while time.monotonic() < began + RUN_S:
            time.sleep(0.5)
            hosts.work()
            for at in [at for at in due if time.monotonic() >= began + at]:
                act(hosts, due.pop(at))
        with Chrome(work / "chrome") as chrome:
            take(chrome, folder, hosts)


def act(hosts: Hosts, what: str) -> None:
    if what == "drain":
        post("/api/backends/web/10.1.1.14%3A8080/drain")
    elif what == "die":
        hosts.agents[17].close(unregister=False)
    else:
        hosts.agents[33].drain()


def take(chrome: Chrome, folder: Path, hosts: Hosts) -> None:
    pngquant = need("pngquant")

    def picture(name: str, size: str, scheme: str, opens: str = "") -> None:
        chrome.resize(size)
        chrome.prefer(scheme)
        chrome.open_live(f"http://{ADMIN[0]}:{ADMIN[1]}/")
        if opens:
            next(each for each in chrome.all("#rows button.name") if each.text == opens).click()
        for _ in range(8):
            hosts.work()
            time.sleep(0.5)
        file = str(folder / name)
        chrome.driver.save_screenshot(file)
        # 256 colours are enough for a page of few, and make a third of the size.
        subprocess.run([*pngquant, "--speed", "1", "--strip", "--force", "--output", file, file], check=True)

    picture("page.png", "wide", "light")
    picture("page-details.png", "wide", "dark", opens="10.1.1.12:8080")
    picture("page-phone.png", "phone", "light")


def main() -> None:
    folder = Path(sys.argv[-1]) if len(sys.argv) > 1 and sys.argv[-1] != HERE else DOCS
    if HERE in sys.argv:
        run(folder)
        return
    unshare, *_ = need("unshare", "ip", "pngquant", root=True)
    network = f'ip link set lo up && ip route add local {NETWORK} dev lo && exec "$@"'
    command = [sys.executable, "-m", "tests.browser.screenshots", HERE, str(folder)]
    os.execv(unshare, [unshare, "-n", "sh", "-c", network, "sh", *command])


if __name__ == "__main__":
    main()
