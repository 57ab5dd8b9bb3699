"""Real HAProxy processes: one that uses an agent-check, and one that is one."""

from __future__ import annotations

import csv
import io
import socket
import subprocess
from pathlib import Path

from rproxy.net.addresses import Address, written
from tests.conftest import need
from tests.integration.addresses import LOOPBACK, RefusingPort
from tests.integration.polling import READY_S, poll
from tests.integration.programs import Program
from tests.integration.servers import Server

_DEFAULTS = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
"""


class Haproxy(Program):
    """A running HAProxy with this configuration, and its statistics socket."""

    def __init__(self, folder: Path, sections: str, *, more: str = "") -> None:
        (haproxy,) = need("haproxy")
        self._socket = folder / "haproxy.sock"
        configuration = folder / "haproxy.cfg"
        configuration.write_text(f"global\n    stats socket {self._socket} level admin\n{more}{_DEFAULTS}{sections}\n")
        self._process = subprocess.Popen(
            [haproxy, "-db", "-f", str(configuration)], stderr=(folder / "haproxy.err").open("wb"), cwd=folder
        )
        try:
            poll(self._answers, READY_S, "HAProxy runs")
        except BaseException:
            self.close()
            raise

    def ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self._socket))
            sock.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: sock.recv(65536), b"")).decode()

    def server(self, backend: str, name: str) -> dict[str, str]:
        """The statistics of one of its servers."""
        table = self.ask("show stat").removeprefix("# ")
        return next(
            row for row in csv.DictReader(io.StringIO(table)) if (row["pxname"], row["svname"]) == (backend, name)
        )

    def _answers(self) -> bool:
        try:
            return bool(self.ask("show info"))
        except OSError:
            return False


def asking(folder: Path, service: Address, agent: Address, *, weight: int) -> Haproxy:
    """An HAProxy whose server `one` of `checked` has this agent-check, and is checked by connects as well."""
    server = f"server one {written(service)} weight {weight} check inter 50ms rise 1 fall 1"
    return Haproxy(
        folder,
        f"backend checked\n    {server} agent-check agent-addr {agent[0]} agent-port {agent[1]} agent-inter 20ms",
    )


def answering(folder: Path, line: str) -> tuple[Haproxy, Address]:
    """An HAProxy that is an agent-check and says this line, and where it listens."""
    script = folder / "agent.lua"
    script.write_text(
        f'core.register_service("agent", "tcp", function(applet) applet:send("{line}\\n") end)\n', encoding="ascii"
    )
    taken = RefusingPort()
    address = (LOOPBACK, taken.address[1])
    taken.close()
    frontend = f"frontend agent\n    bind {written(address)}\n    tcp-request content use-service lua.agent"
    return Haproxy(folder, frontend, more=f"    lua-load {script}\n"), address


class AgentCheck(Server):
    """An agent-check in a thread, which says `line` to whoever asks, and counts who did."""

    def __init__(self, line: str = "up ready 100%\n", *, port: int = 0) -> None:
        self.line = line
        self.asked = 0
        super().__init__(self._say, port=port)

    def _say(self, connection: socket.socket) -> None:
        self.asked += 1
        connection.sendall(self.line.encode("latin-1"))

    def wait(self, times: int = 3) -> None:
        """Until so many more have asked."""
        then = self.asked + times
        poll(lambda: self.asked >= then, READY_S, "the agent-check is asked")
