"""Both commands below a service manager: its notify socket, and sockets that it passes."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from rproxy.net.addresses import Address, written
from rproxy.tap.systemd import unit
from tests.certificates import Authority
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import serve, start_agent, wait_until_up
from tests.integration.conftest import CARRIERS, Starter, carrier_options
from tests.integration.logs import failures
from tests.integration.polling import READY_S, STOP_S, poll
from tests.integration.pools import Pool
from tests.integration.servers import echo
from tests.integration.sockets import connect, receive
from tests.integration.tls import client_context, config_file, table, tls_connect, tls_server, tls_table
from tests.integration.twistd import REACTORS, environment, run_twistd, twistd

WATCHDOG_S: Final = 0.6
NO_EXECUTABLE_MEMORY: Final = [
    sys.executable,
    "-c",
    "import ctypes, os, sys; assert not ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])",
]
"""PR_SET_MDWE with PR_MDWE_REFUSE_EXEC_GAIN, which stays over an exec."""


class Manager:
    """A notify socket, and what came to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self.lines: list[str] = []

    def wait_for(self, *lines: str, within_s: float = READY_S) -> None:
        """Read until all these have come, in this order; further ones may come in between."""
        self._socket.settimeout(within_s)
        for line in lines:
            while line not in self.lines:
                self.lines += self._socket.recv(4096).decode().split("\n")
            del self.lines[: self.lines.index(line) + 1]

    def is_silent_for(self, seconds: float) -> bool:
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        return False

    def forget(self) -> None:
        """All that has come so far."""
        self.lines.clear()
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(4096)
        except BlockingIOError:
            return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, start: Starter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    path = f"{start.folder}/notify"
    manager = Manager(path if request.param == "path" else f"@{path}")
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    yield manager
    manager.close()


@pytest.mark.parametrize("reactor", REACTORS)
def test_a_proxy_says_that_it_is_ready_reloads_drains_and_stops(start: Starter, manager: Manager, reactor: str) -> None:
    pool = Pool(start.proxy("--drain-timeout", "30", reactor=reactor))
    start.closing(pool.abandon)
    manager.wait_for("READY=1", "STATUS=0 session(s), 0 of 0 back-end(s) get clients")
    pool.serve(echo)
    with connect(pool.proxy.address) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        pool.proxy.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        assert re.fullmatch(r"MONOTONIC_USEC=\d+", manager.lines[0])
        manager.wait_for("READY=1")
        pool.proxy.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1", "STATUS=stopping: 1 session(s) left", "EXTEND_TIMEOUT_USEC=20000000")
    assert pool.proxy.wait(STOP_S) == -signal.SIGTERM
    assert failures(pool.proxy.log) == []


def test_an_agent_says_that_it_is_ready_and_stops(start: Starter, manager: Manager) -> None:
    agent = start.twistd("rproxy-agent", "--proxy", LOOPBACK, "--port", "0")
    manager.wait_for("READY=1")
    assert agent.stop() == -signal.SIGTERM
    manager.wait_for("STOPPING=1")


def test_a_process_that_hangs_says_nothing_to_the_watchdog(
    start: Starter, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", f"{WATCHDOG_S * 1e6:.0f}")
    proxy = start.proxy()
    manager.wait_for("READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1")
    proxy.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    manager.forget()
    assert manager.is_silent_for(2 * WATCHDOG_S)
    proxy.send_signal(signal.SIGCONT)
    manager.wait_for("WATCHDOG=1")


@pytest.mark.usefixtures("manager")
def test_an_agents_commands_know_nothing_of_the_manager(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("LISTEN_FDNAMES", "web")
    proxy = start.proxy()
    seen = start.folder / "seen"
    command = f"env > {seen}.new && mv {seen}.new {seen}"
    start_agent(start, proxy, (LOOPBACK, 8000), "--check", f"command:{command}")
    poll(seen.exists, READY_S, "it has run")
    assert "PATH=" in seen.read_text()
    assert not re.search("^(NOTIFY_SOCKET|WATCHDOG_|LISTEN_)", seen.read_text(), re.MULTILINE)


def test_what_has_not_been_started_yet_is_not_ready(start: Starter, manager: Manager) -> None:
    taken = socket.create_server((LOOPBACK, 0))
    start.closing(taken.close)
    failing = start.twistd("rproxy", "--monitor", f"{LOOPBACK}:0", "--listen", written(taken.getsockname()))
    assert failing.wait(READY_S) == 1
    assert manager.is_silent_for(0.1)


class Activated:
    """A command that systemd-socket-activate starts with its first client."""

    def __init__(self, folder: Path, sockets: Sequence[str], *options: str, names: str = "") -> None:
        (program,) = need("systemd-socket-activate")
        listen = [word for each in sockets for word in ("-l", each)]
        passed = [f"--setenv={name}" for name in environment()]
        named = [f"--fdname={names}"] if names else []
        self.log = folder / "activated.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *listen, *named, *passed, *twistd("rproxy", *options, reactor="epoll")],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        poll(lambda: self.log.read_text().count("Listening on") == len(sockets), READY_S, "it listens")

    def logged(self, pattern: str) -> list[str]:
        """The groups of all matches, once there is one."""
        return poll(lambda: re.findall(pattern, self.log.read_text()), READY_S, f"{pattern!r} in the log")

    def wait(self) -> int:
        return self._process.wait(READY_S)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        finally:
            self._process.kill()
        print(self.log.read_text())


def free_ports(number: int) -> list[Address]:
    socks = [socket.create_server((LOOPBACK, 0)) for _ in range(number)]
    addresses = [sock.getsockname() for sock in socks]
    for sock in socks:
        sock.close()
    return addresses


@pytest.mark.parametrize("names", ["", "default", "http", "first:second"])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_sockets_are_taken_in_the_order_of_the_listeners(start: Starter, carrier: str, names: str) -> None:
    """The client that has the process started is served, too."""
    addresses = free_ports(2 if ":" in names else 1)
    there = [written(address) for address in addresses]
    words = [word for number in range(len(there)) for word in ("--listen", f"{number}")]
    monitor = free_ports(1)[0]
    own = ["--monitor", written(monitor), *carrier_options(carrier), "--wait-for-backend", "30"]
    activated = Activated(start.folder, there, *words, *own, names=names)
    start.closing(activated.close)
    with connect(addresses[0]) as first:
        assert activated.logged(r"listening for clients on (\S+)\n(?s:.*)status|listening for clients on (\S+)")
        poll(lambda: activated.log.read_text().count("listening for clients") == len(there), READY_S, "all listen")
        assert re.findall(r"listening for clients on (\S+)", activated.log.read_text()) == there
        service = serve(start, b"hello")
        agent = start.elsewhere().twistd(
            "rproxy-agent",
            "--proxy",
            written(monitor),
            "--port",
            "0",
            "--check",
            "none",
            "--service-port",
            str(service[1]),
        )
        assert receive(first, 5) == b"hello"
        for address in addresses:
            with connect(address) as client:
                assert receive(client, 5) == b"hello"
    assert failures(activated.log.read_text() + agent.log) == []


@pytest.mark.parametrize("carrier", ["auto", "portable"])
def test_sockets_are_for_the_services_of_a_file_by_name_with_tls_where_their_listeners_have_it(
    start: Starter, carrier: str
) -> None:
    authority = Authority.root(start.folder)
    tables = [
        "[[service]]\nname = 'plain'\nlisten = ['1']",
        table("[service.backend]", address=greeter(start, b"plain")),
    ]
    tls = tls_table(authority.issue(LOOPBACK), name="tls").replace("[tls]\n", "").replace("\n", ", ")
    tables += [f'[[service]]\nname = "secure"\nlisten = ["2", {{ address = "3", tls = {{ {tls} }} }}]']
    tables += [table("[service.backend]", address=greeter(start, b"secure"))]
    path = start.folder / "rproxy.toml"
    path.write_text("\n".join(tables))
    unencrypted, encrypted, plain = free_ports(3)
    there = [written(each) for each in (unencrypted, encrypted, plain)]
    options = ["--config", str(path), *carrier_options(carrier)]
    activated = Activated(start.folder, there, *options, names="secure:secure:plain")
    start.closing(activated.close)
    for address, word in ((plain, b"plain"), (unencrypted, b"secure")):
        with connect(address) as client:
            assert receive(client, len(word)) == word
    with tls_connect(encrypted, client_context(authority)) as client:
        assert receive(client, 6) == b"secure"
    assert failures(activated.log.read_text()) == []


def greeter(start: Starter, word: bytes) -> str:
    return written(serve(start, word))


@pytest.mark.parametrize("text", ["systemd:domain=INET:index=0", "systemd:domain=INET:name=web"])
def test_an_endpoint_string_may_name_a_socket_with_or_without_names(start: Starter, text: str) -> None:
    (address,) = free_ports(1)
    named = "web" if "name" in text else ""
    own = ["--monitor", f"{LOOPBACK}:0", "--listen", text]
    activated = Activated(start.folder, [written(address)], *own, names=named)
    start.closing(activated.close)
    with connect(address):
        assert activated.logged(r"listening for clients on (\S+)") == [written(address)]


@pytest.mark.parametrize(
    ("sockets", "listen", "message"),
    [
        (2, ["80"], r"LISTEN_FDS: 2 socket\(s\) passed, and there are 1 listener\(s\): 80"),
        (1, ["80", "443"], r"LISTEN_FDS: 1 socket\(s\) passed, and there are 2 listener\(s\): 80, 443"),
        (1, ["unix:/run/x"], r"LISTEN_FDS 3: for the listener unix:/run/x: the inherited socket is AF_INET"),
    ],
)
def test_sockets_that_do_not_fit_are_one_line(start: Starter, sockets: int, listen: list[str], message: str) -> None:
    addresses = free_ports(sockets)
    words = [word for each in listen for word in ("--listen", each)]
    activated = Activated(start.folder, [written(each) for each in addresses], "--monitor", f"{LOOPBACK}:0", *words)
    start.closing(activated.close)
    with socket.create_connection(addresses[0]):
        assert activated.wait() == 1
    lines = [line for line in activated.log.read_text().splitlines() if line.startswith("twistd rproxy:")]
    assert len(lines) == 1
    assert re.fullmatch(f"twistd rproxy: {message}", lines[0])
    assert "Traceback" not in activated.log.read_text()


def as_unit(name: str) -> list[str]:
    """A wrapper with the memory of a unit's processes, as systemd sets it (PR_SET_MDWE(2const), Linux 6.3)."""
    return NO_EXECUTABLE_MEMORY if "\nMemoryDenyWriteExecute=yes\n" in unit(name) else []


def test_an_agent_starts_with_the_memory_of_its_unit(start: Starter) -> None:
    wrapper = as_unit("rproxy-agent.service")
    assert wrapper
    proxy = start.proxy()
    service = serve(start, b"hello")
    start_agent(start, proxy, service, "--check", "connect", wrapper=wrapper)
    wait_until_up(proxy, service)


def test_a_proxy_speaks_tls_both_ways_with_the_memory_of_its_unit(start: Starter) -> None:
    authority = Authority.root(start.folder)
    files = authority.issue(LOOPBACK)
    server = tls_server(files, echo)
    start.closing(server.close)
    backend = table("[service.backend]", address=written(server.address))
    tables = [tls_table(files), table("service.send-tls", ca=str(authority.path)), backend]
    path = config_file(start.folder, *tables)
    proxy = start.proxy("--config", str(path), wrapper=as_unit("rproxy.service"))
    with tls_connect(proxy.address, client_context(authority)) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "send-tls"])
def test_without_executable_memory_tls_is_one_line(start: Starter, tls: bool) -> None:
    made = tls_table(Authority.root(start.folder).issue(LOOPBACK)) if tls else table("service.send-tls")
    path = config_file(start.folder, made)
    done = run_twistd(
        start.folder, "rproxy", "--config", str(path), "--monitor", f"{LOOPBACK}:0", prefix=NO_EXECUTABLE_MEMORY
    )
    key = "service[0].tls" if tls else "service[0].send-tls"
    why = "pyOpenSSL needs memory that is writable and executable (MemoryDenyWriteExecute=no in the unit)"
    assert done.returncode == 1
    assert done.stderr == f"twistd rproxy: {path}: {key}: {why}\n"
