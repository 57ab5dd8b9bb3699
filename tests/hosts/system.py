"""The report's system on the report's network: mini_httpd and an agent on each server, the proxy on Servidor3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rproxy.net.addresses import written
from tests.hosts.net import Host, Network
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.twistd import Twistd

ADMIN: Final = "127.0.0.1:8081"
LAN: Final = "10.1.1.0/24"
POLL_S: Final = 0.1


class System:
    """Starts, queries and ends the programs."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.httpds: dict[Host, subprocess.Popen[bytes]] = {}
        self.agents: dict[Host, Twistd] = {}
        self._folder = folder
        self._started = ExitStack()
        self._proxy: Proxy | None = None

    def close(self) -> None:
        self._started.close()

    def _home(self, host: Host, program: str) -> Path:
        """The folder in which a program runs, the same each time."""
        home = self._folder / f"{host.name}-{program}"
        home.mkdir(exist_ok=True)
        return home

    @property
    def proxy(self) -> Proxy:
        assert self._proxy is not None
        return self._proxy

    def start_proxy(self, *options: str, allow: str = LAN, wrapper: Sequence[str] = ()) -> None:
        """Start the proxy; returns when it is ready. If `allow` is empty, any host with a key may register."""
        host = self.network.proxy
        told = ["--listen", "80", "--monitor", "5555", "--admin", ADMIN, *options]
        told += ["--allow", allow] if allow else []
        proxy = Proxy(self._home(host, "proxy"), *told, prefix=host.prefix, wrapper=wrapper)
        self._proxy = self._started.enter_context(proxy)

    def start_httpd(self, host: Host, address: str = "") -> None:
        """mini_httpd, with an index that names the host, and a larger file of noise. Returns when it is ready."""
        address = address or host.address
        pages = self._home(host, "pages")
        pages.joinpath("index.html").write_text(f"{host.name}\n")
        pages.joinpath("noise").write_bytes(os.urandom(1_000_000))
        command = ["mini_httpd", "-D", "-d", str(pages), "-h", address, "-p", "80", "-u", "root"]
        httpd = subprocess.Popen([*host.prefix, *command], stdin=subprocess.DEVNULL)
        self.httpds[host] = httpd
        self._started.callback(kill, httpd)
        poll(lambda: _serves(host, address), READY_S, f"mini_httpd serves on {host.name}", every_s=POLL_S)

    def start_agent(self, host: Host, *options: str, interval_s: int = 20, proxy: str = "") -> None:
        proxy = proxy or self.network.proxy.address
        arguments = ["rproxy-agent", "--proxy", proxy, "--interval", str(interval_s), *options]
        self.adopt(host, Twistd(self._home(host, "agent"), *arguments, prefix=host.prefix))

    def adopt(self, host: Host, agent: Twistd) -> Twistd:
        """An agent that a test has started: it ends with the system."""
        self.agents[host] = self._started.enter_context(agent)
        return agent

    def start_all(self, first: Sequence[str] = (), second: Sequence[str] = (), proxy: Sequence[str] = ()) -> None:
        """Everything, with the report's intervals; `first` and `second` are the agents' options."""
        one, two = self.network.servers
        self.start_httpd(one)
        self.start_httpd(two)
        self.start_proxy(*proxy)
        self.start_agent(one, *first, interval_s=20)
        self.start_agent(two, *second, interval_s=30)
        self.wait_until_up(one, two)

    def fetch(self, host: Host, path: str = "") -> bytes:
        """What the client's wget gets from `host`. Raises `CalledProcessError` when it fails."""
        return self.network.client.output(*_wget(f"{host.address}/{path}"))

    def served_by(self) -> str:
        """The name of the server that the proxy gives the client to."""
        return self.fetch(self.network.proxy).decode().strip()

    def status(self) -> dict[str, Any]:
        """Fetched by wget, which is cheap: these tests ask often."""
        status: dict[str, Any] = json.loads(self.network.proxy.output(*_wget(f"{ADMIN}/status.json")))
        return status

    def backend(self, host: Host) -> dict[str, Any]:
        """A server's row of the proxy's table; empty if it has none."""
        return next((row for row in self.status()["backends"] if row["address"] in (host.address, host.address6)), {})

    def are_up(self, *hosts: Host) -> bool:
        return all(self.backend(host).get("state") == "up" for host in hosts)

    def wait_until_up(self, *hosts: Host) -> None:
        names = " and ".join(host.name for host in hosts)
        poll(lambda: self.are_up(*hosts), READY_S, f"{names} up", every_s=POLL_S)


def kill(program: subprocess.Popen[bytes] | Twistd) -> None:
    """Kill it, so that it cannot unregister."""
    program.send_signal(signal.SIGKILL)
    program.wait()


def last_untrue(until: Callable[[], bool], patience_s: float) -> float:
    """Wait for `until`: when it was last asked and was not true, in seconds from now.

    What is late is then the system, not a machine that was too busy to ask.
    """
    started = time.monotonic()
    untrue_s = 0.0
    while True:
        asked_s = time.monotonic() - started
        if until() or untrue_s > patience_s:
            return untrue_s
        untrue_s = asked_s
        time.sleep(POLL_S)


def _wget(url: str) -> list[str]:
    return ["wget", "--quiet", "--no-proxy", "--tries=1", "--timeout=10", "--output-document=-", f"http://{url}"]


def _serves(host: Host, address: str) -> bool:
    try:
        host.output(*_wget(written((address, 80))))
    except subprocess.CalledProcessError:
        return False
    return True
