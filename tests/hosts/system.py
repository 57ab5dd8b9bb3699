"""The report's system on the report's network: mini_httpd and an agent on each server, the proxy on Servidor3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.hosts.net import Host, Network

PROJECT: Final = Path(__file__).parents[2]
ADMIN: Final = "127.0.0.1:8081"
READY_S: Final = 20.0
"""How long a program may take to start on a busy machine. Nothing that is tested for is this slow."""
STOP_S: Final = 5.0
POLL_S: Final = 0.1

Program = subprocess.Popen[bytes]


def poll(until: Callable[[], bool], within_s: float, what: str) -> float:
    """Wait for `until`; how long it took, in seconds."""
    started = time.monotonic()
    while not until():
        waited = time.monotonic() - started
        assert waited <= within_s, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - started


class System:
    """Starts the programs, asks them, and ends them. Their output is shown with a test that fails."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.httpds: dict[Host, Program] = {}
        self.agents: dict[Host, Program] = {}
        self._folder = folder
        self._programs: list[Program] = []
        self._logs: list[Path] = []

    def stop(self) -> None:
        for program in self._programs:
            program.terminate()
        deadline = time.monotonic() + STOP_S
        for program in self._programs:
            try:
                program.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                kill(program)
        for log in self._logs:
            print(f"{log.name}:\n{log.read_text(errors='replace')}")

    def _start(self, host: Host, name: str, command: Sequence[str]) -> Program:
        """Each has a folder of its own to run in, the same one when it is started again."""
        folder = self._folder / f"{host.name}-{name}"
        folder.mkdir(exist_ok=True)
        log = self._folder / f"{host.name}-{name}-{len(self._programs)}.log"
        with log.open("wb") as output:
            program = subprocess.Popen(
                [*host.prefix, *command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(PROJECT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._programs.append(program)
        self._logs.append(log)
        return program

    def _twistd(self, host: Host, *arguments: str) -> Program:
        twistd = str(Path(sys.executable).with_name("twistd"))
        return self._start(host, arguments[0], [sys.executable, twistd, "-n", *arguments])

    def start_httpd(self, host: Host) -> None:
        """mini_httpd, with an index that names the host, and a larger file of noise."""
        pages = self._folder / f"{host.name}-pages"
        if not pages.exists():
            pages.mkdir()
            pages.joinpath("index.html").write_text(f"{host.name}\n")
            pages.joinpath("noise").write_bytes(os.urandom(1_000_000))
        options = ["-D", "-d", str(pages), "-h", host.address, "-p", "80", "-u", "root"]
        self.httpds[host] = self._start(host, "mini_httpd", ["mini_httpd", *options])
        poll(lambda: _answers(host, f"http://{host.address}/"), READY_S, f"mini_httpd serves on {host.name}")

    def start_agent(self, host: Host, *options: str, interval_s: int = 20) -> None:
        fixed = ["--proxy", self.network.proxy.address, "--interval", str(interval_s)]
        self.agents[host] = self._twistd(host, "rproxy-agent", *fixed, *options)

    def start_proxy(self) -> Program:
        """Returns when it is ready."""
        host = self.network.proxy
        program = self._twistd(host, "rproxy", "--listen", "80", "--admin", ADMIN)
        poll(lambda: _answers(host, f"http://{ADMIN}/status.json"), READY_S, "the proxy starts")
        return program

    def start_all(self, first: Sequence[str] = (), second: Sequence[str] = ()) -> Program:
        """Everything, with the report's intervals; `first` and `second` are the agents' options. Returns the proxy."""
        one, two = self.network.servers
        self.start_httpd(one)
        self.start_httpd(two)
        proxy = self.start_proxy()
        self.start_agent(one, *first, interval_s=20)
        self.start_agent(two, *second, interval_s=30)
        self.wait_until_up(one, two)
        return proxy

    def fetch(self, url: str) -> bytes:
        """What the client gets. Raises `CalledProcessError` when wget fails."""
        return self.network.client.output(*_wget(url))

    def served_by(self) -> str:
        """The name of the server that the proxy gives the client to."""
        return self.fetch(f"http://{self.network.proxy.address}/").decode().strip()

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.network.proxy.output(*_wget(f"http://{ADMIN}/status.json")))
        return status

    def backend(self, host: Host) -> dict[str, Any]:
        """The row of one server, empty when there is none."""
        return next((row for row in self.status()["backends"] if row["address"] == host.address), {})

    def state(self, host: Host) -> str | None:
        return self.backend(host).get("state")

    def wait_until_up(self, *hosts: Host, within_s: float = READY_S) -> float:
        """How long it took, in seconds."""
        names = " and ".join(host.name for host in hosts)
        return poll(lambda: all(self.state(host) == "up" for host in hosts), within_s, f"{names} up")


def kill(program: Program) -> None:
    """SIGKILL: it has no time to say anything."""
    program.kill()
    program.wait()


def _wget(url: str) -> list[str]:
    return ["wget", "--quiet", "--no-proxy", "--tries=1", "--timeout=10", "--output-document=-", url]


def _answers(host: Host, url: str) -> bool:
    try:
        host.output(*_wget(url))
    except subprocess.CalledProcessError:
        return False
    return True
