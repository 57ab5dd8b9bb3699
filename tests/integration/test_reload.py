"""SIGHUP: a real proxy reads its file again, under load, and what stays does not notice."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from rproxy.net.addresses import Address, written
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import serve, start_agent
from tests.integration.conftest import CARRIERS, Certificate, Starter, carrier_options
from tests.integration.logs import failures
from tests.integration.polling import READY_S, in_background, poll
from tests.integration.proxies import Proxy
from tests.integration.sockets import connect, receive, receive_all
from tests.integration.test_inherited_sockets import inherit
from tests.integration.twistd import environment

RATE: Final = 500
"""New clients a second."""
RELOADS: Final = 10
every_carrier = pytest.mark.parametrize("carrier", CARRIERS)


class File:
    """A configuration file of services by name, and the proxy that runs by it."""

    def __init__(self, start: Starter, carrier: str, **services: str) -> None:
        self.path = start.folder / "rproxy.toml"
        self.write(**services)
        self.proxy: Proxy = start.proxy("--config", str(self.path), *carrier_options(carrier))
        self._reloads = 0

    def write(self, process: str = "", **services: str) -> None:
        tables = [f'[[service]]\nname = "{name}"\n{keys}\n' for name, keys in services.items()]
        self.path.write_text(f"[proxy]\n{process}\n" + "".join(tables))

    def reload(self, process: str = "", **services: str) -> None:
        """Write the file, and wait until the proxy has read it."""
        self.write(process, **services)
        self.again()

    def again(self) -> None:
        self.proxy.send_signal(signal.SIGHUP)
        self._reloads += 1
        poll(
            lambda: self.proxy.log.count("rproxy.toml read again: ") >= self._reloads,
            READY_S,
            "it has read it",
            every_s=0.01,
        )

    def services(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.proxy.status()["services"]}

    def up(self, service: str, backend: Address) -> bool:
        rows = self.proxy.status()["backends"]
        return any(
            (row["service"], row["address"], row["port"], row["state"]) == (service, *backend, "up") for row in rows
        )

    def wait_until_up(self, service: str, backend: Address) -> None:
        poll(lambda: self.up(service, backend), READY_S, f"{backend} is up", every_s=0.02)


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def listen(*ports: int) -> str:
    return "listen = [" + ", ".join(f'"{LOOPBACK}:{port}"' for port in ports) + "]"


def agents_of(backend: Address) -> str:
    return f"backend-port = {backend[1]}"


def placed(services: Mapping[str, str], ports: Sequence[int]) -> dict[str, str]:
    """The services, each with the port to listen on."""
    return {name: f"{listen(port)}\n{keys}" for (name, keys), port in zip(services.items(), ports, strict=True)}


def greeted(port: int) -> bytes:
    """What a new client receives there."""
    with connect((LOOPBACK, port)) as client:
        client.shutdown(socket.SHUT_WR)
        return receive_all(client)


@contextmanager
def storm(port: int) -> Iterator[Counter[str]]:
    """`RATE` new clients a second, in several threads, until the end; yields how they fared."""
    fared: Counter[str] = Counter()
    over = threading.Event()
    threads = 10

    def clients(number: int) -> None:
        due = time.monotonic() + number / RATE
        while not over.is_set():
            due += threads / RATE
            time.sleep(max(due - time.monotonic(), 0))
            try:
                fared["answered" if greeted(port) == b"web" else "answered otherwise"] += 1
            except OSError as error:
                fared[str(error)] += 1

    running = [in_background(lambda number=number: clients(number)) for number in range(threads)]
    try:
        yield fared
    finally:
        over.set()
        for each in running:
            each.result()


@every_carrier
def test_a_storm_of_clients_loses_none_over_ten_reloads_and_a_transfer_runs_through(
    start: Starter, carrier: str
) -> None:
    web, other = serve(start, b"web"), serve(start, b"other")
    ports = [free_port() for _ in range(3)]
    own = f"{listen(ports[0])}\n{agents_of(web)}"
    file = File(start, carrier, web=own)
    start_agent(start, file.proxy, web)
    file.wait_until_up("web", web)
    piece = bytes(range(256)) * 256
    with connect((LOOPBACK, ports[0])) as client:
        assert receive(client, 3) == b"web"
        began_at = time.monotonic()
        with storm(ports[0]) as fared:
            for number in range(RELOADS):
                changed = f"{own}\nidle-timeout = {100 + number}\n" + ("policy = 'report'" if number % 2 else "")
                second = {"other": f"{listen(ports[1 + number % 2])}\n{agents_of(other)}"} if number % 3 else {}
                file.reload(web=changed, **second)
                client.sendall(piece)
                assert receive(client, len(piece)) == piece
                time.sleep(0.1)
    assert set(fared) == {"answered"}
    assert fared["answered"] > RATE / 2 * (time.monotonic() - began_at)
    assert failures(file.proxy.log) == []
    assert file.proxy.descriptors("socket") <= file.proxy.idle_sockets + 4


@every_carrier
def test_a_listener_goes_to_another_service_under_a_storm_and_refuses_nobody(start: Starter, carrier: str) -> None:
    web, other = serve(start, b"web"), serve(start, b"web")
    ports = [free_port() for _ in range(2)]
    services = {"one": agents_of(web), "two": agents_of(other)}
    file = File(
        start,
        carrier,
        **placed(services, ports),
    )
    for service in (web, other):
        start_agent(start, file.proxy, service)
    file.wait_until_up("one", web)
    file.wait_until_up("two", other)
    with storm(ports[0]) as fared:
        for _ in range(4):
            ports.reverse()
            file.reload(**placed(services, ports))
            time.sleep(0.2)
    assert set(fared) == {"answered"}
    assert min(each["counters"]["sessions"]["closed"] for each in file.services().values()) > RATE / 10
    assert file.proxy.log.count("takes over the listener on") == 8
    assert failures(file.proxy.log) == []


def refuses(port: int) -> bool:
    try:
        connect((LOOPBACK, port)).close()
    except ConnectionRefusedError:
        return True
    return False


def greeted_by_tls(port: int) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect((LOOPBACK, port)) as sock, context.wrap_socket(sock) as client:
        return receive(client, 3)


@pytest.mark.parametrize("carrier", ["portable", "auto"])
def test_one_listener_speaks_tls_and_plain_tcp_by_turns_and_its_sessions_go_on(
    start: Starter, carrier: str, certificate: Certificate
) -> None:
    web = serve(start, b"web")
    port = free_port()
    own = f"{listen(port)}\n{agents_of(web)}"
    tls = f'{own}\ntls = {{ certificate = "{certificate.certificate}", key = "{certificate.key}" }}'
    file = File(start, carrier, web=own)
    start_agent(start, file.proxy, web)
    file.wait_until_up("web", web)
    with connect((LOOPBACK, port)) as plain:
        assert receive(plain, 3) == b"web"
        for _ in range(2):
            file.reload(web=tls)
            assert greeted_by_tls(port) == b"web"
            file.reload(web=own)
            assert greeted(port) == b"web"
            plain.sendall(b"plain")
            assert receive(plain, 5) == b"plain"
    assert file.proxy.log.count("listening for clients") == 1
    assert failures(file.proxy.log) == []


@every_carrier
def test_static_back_ends_headers_and_clients_rules_follow_the_file(start: Starter, carrier: str) -> None:
    one, two = serve(start, b"one"), serve(start, b"two")
    port = free_port()

    def service(backend: Address, keys: str = "") -> str:
        return f'{listen(port)}\n{keys}\n[[service.backend]]\naddress = "{written(backend)}"\ncheck = "none"'

    file = File(start, carrier, web=service(one), other=f"{listen(free_port())}\nbackend-port = 81")
    others = {"other": f"{listen(free_port())}\nbackend-port = 81"}
    file.wait_until_up("web", one)
    with connect((LOOPBACK, port)) as stays:
        assert receive(stays, 3) == b"one"
        file.reload(web=service(two), **others)
        file.wait_until_up("web", two)
        assert greeted(port) == b"two"
        file.reload(web=service(two, "send-proxy = 1"), **others)
        assert greeted(port).startswith(b"twoPROXY TCP4 127.0.0.1 127.0.0.1 ")
        file.reload(web=service(two, f'deny = ["{LOOPBACK}/32"]'), **others)
        with pytest.raises(ConnectionResetError):
            greeted(port)
        file.reload(web=service(two, f'proxy-protocol-from = ["{LOOPBACK}/32"]'), **others)
        with connect((LOOPBACK, port)) as client:
            client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
            assert receive(client, 3) == b"two"
        file.reload(web=service(two), **others)
        assert greeted(port) == b"two"
        stays.sendall(b"still one")
        assert receive(stays, 9) == b"still one"
    assert failures(file.proxy.log) == []


@every_carrier
def test_services_come_and_go_and_sessions_of_one_that_has_gone_run_to_their_end(start: Starter, carrier: str) -> None:
    web, db = serve(start, b"web"), serve(start, b"db")
    ports = [free_port() for _ in range(2)]
    first, second = f"{listen(ports[0])}\n{agents_of(web)}", f"{listen(ports[1])}\n{agents_of(db)}"
    file = File(start, carrier, web=first)
    for service in (web, db):
        start_agent(start, file.proxy, service, "--interval", "1")
    file.wait_until_up("web", web)
    file.reload(web=first, db=second)
    file.wait_until_up("db", db)
    with connect((LOOPBACK, ports[1])) as client:
        assert receive(client, 2) == b"db"
        file.reload(web=first)
        poll(lambda: refuses(ports[1]), READY_S, "it accepts no clients", every_s=0.02)
        assert file.services()["db"]["leaving"]
        client.sendall(b"still here")
        assert receive(client, 10) == b"still here"
    poll(lambda: list(file.services()) == ["web"], READY_S, "it has gone")
    assert greeted(ports[0]) == b"web"
    assert file.proxy.status()["counters"]["sessions"]["closed"] >= 2


@every_carrier
def test_a_broken_file_or_a_taken_port_changes_nothing_and_is_one_line(start: Starter, carrier: str) -> None:
    web = serve(start, b"web")
    port = free_port()
    own = f"{listen(port)}\n{agents_of(web)}"
    file = File(start, carrier, web=own)
    start_agent(start, file.proxy, web)
    file.wait_until_up("web", web)
    file.write(web=f"{own}\nlisten = 3", other="listen = [99999]\npolicy = 'none'")
    file.proxy.send_signal(signal.SIGHUP)
    file.proxy.logged("(everything stays as it was)")
    time.sleep(1)
    with socket.create_server((LOOPBACK, 0)) as taken:
        number = taken.getsockname()[1]
        file.write(web=f"{own}\nwait-for-backend = 1", other=f"{listen(free_port(), number)}\n{agents_of(web)}")
        file.proxy.send_signal(signal.SIGHUP)
        file.proxy.logged(rf"(cannot listen on service\[1\].listen {LOOPBACK}:{number}: Address already in use; every)")
    assert greeted(port) == b"web"
    assert list(file.services()) == ["web"]
    assert [line.endswith("; everything stays as it was") for line in failures(file.proxy.log)] == [True, True]


@every_carrier
def test_a_flood_of_signals_and_a_stop_in_between_end_well(start: Starter, carrier: str) -> None:
    web = serve(start, b"web")
    port = free_port()
    own = f"{listen(port)}\n{agents_of(web)}"
    file = File(start, carrier, web=own)
    for number in range(2000):
        if number % 100 == 0:
            file.write(web=f"{own}\nidle-timeout = {100 + number}")
        file.proxy.send_signal(signal.SIGHUP)
    file.again()
    for _ in range(50):
        file.proxy.send_signal(signal.SIGHUP)
    file.proxy.send_signal(signal.SIGTERM)
    with suppress(ProcessLookupError):
        for _ in range(50):
            file.proxy.send_signal(signal.SIGHUP)
    assert file.proxy.wait() == -signal.SIGTERM
    assert failures(file.proxy.log) == []


@every_carrier
def test_a_socket_of_the_service_manager_stays_open_over_reloads(start: Starter, carrier: str) -> None:
    web = serve(start, b"web")
    with socket.create_server((LOOPBACK, 0)) as passed:
        port, other = passed.getsockname()[1], free_port()
        path = start.folder / "rproxy.toml"
        own = f'[[service]]\nname = "web"\n{agents_of(web)}\n'
        path.write_text(f"{own}{listen(port)}\n")
        wrapper = inherit(passed)
        options = ["--config", str(path), *carrier_options(carrier)]
        proxy = start.proxy(*options, wrapper=wrapper, pass_fds=[passed.fileno()])
    start_agent(start, proxy, web)
    poll(lambda: proxy.state(web) == "up", READY_S, "it is up")
    for number, ports in enumerate([(port, other), (port,)], start=1):
        path.write_text(f"{own}{listen(*ports)}\n")
        proxy.send_signal(signal.SIGHUP)
        poll(partial(has_read, proxy, number), READY_S, "it has read it")
        assert [greeted(each) for each in ports] == [b"web"] * len(ports)
    assert failures(proxy.log) == []


def has_read(proxy: Proxy, times: int) -> bool:
    return proxy.log.count("rproxy.toml read again: ") >= times


def reload_command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rproxy", "reload", *options]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=READY_S
    )


def test_the_command_tells_what_becomes_of_a_reload(start: Starter) -> None:
    file = start.folder / "rproxy.toml"
    port = free_port()
    own = f'[proxy]\nmonitor = "{LOOPBACK}:{free_port()}"\n[[service]]\nname = "web"\n{listen(port)}\n'
    file.write_text(own)
    pidfile = start.folder / "mine.pid"
    process = start.twistd(f"--pidfile={pidfile}", "rproxy", "--config", str(file))
    process.logged("(listening for clients)")
    poll(lambda: pidfile.with_name("mine.pid.reload").exists(), READY_S, "it has started")
    file.write_text(own + f"idle-timeout = 7\n[[service]]\nname = 'db'\n{listen(free_port())}\n")
    done = reload_command(start.folder, "--pidfile", "mine.pid")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"rproxy reload: {file} read again: added: db; changed: web\n"
    file.write_text(own + "[[service]]\nlisten = [99999]\n")
    done = reload_command(start.folder, "--pidfile", "mine.pid")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"rproxy reload: error: {file}: service[1].listen[0]: port 99999 is above 65535; everything stays as it was\n"
    )
    assert process.stop() == -signal.SIGTERM
    assert not pidfile.with_name("mine.pid.reload").exists()
    done = reload_command(start.folder, "--pidfile", "mine.pid")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "rproxy reload: error: the pid file mine.pid: No such file or directory; --pidfile names that of the proxy, if "
        "it has one\n"
    )


def test_while_one_process_takes_over_from_another_either_can_be_told_to_reload(start: Starter) -> None:
    file, port = start.folder / "rproxy.toml", free_port()
    own = (
        f'[proxy]\nmonitor = "{LOOPBACK}:{free_port()}"\nreuse-port = true\n[[service]]\nname = "web"\n{listen(port)}\n'
    )
    file.write_text(own)
    pidfile = start.folder / "mine.pid"
    old = start.twistd(f"--pidfile={pidfile}", "rproxy", "--config", str(file))
    poll(lambda: pidfile.with_name("mine.pid.reload").exists(), READY_S, "it has started")
    new = start.twistd(f"--pidfile={pidfile}", "rproxy", "--config", str(file))
    poll(lambda: pidfile.with_name("mine.pid.old").exists(), READY_S, "the other one has taken over")
    poll(lambda: pidfile.with_name("mine.pid.reload").exists(), READY_S, "it has started")
    file.write_text(own + "idle-timeout = 7\n")
    for name in ("mine.pid", "mine.pid.old"):
        done = reload_command(start.folder, "--pidfile", name)
        assert done.stdout == f"rproxy reload: {file} read again: changed: web\n", done.stderr
    assert old.stop() == -signal.SIGTERM
    assert sorted(path.name for path in start.folder.glob("mine.pid*")) == ["mine.pid", "mine.pid.reload"]
    assert new.stop() == -signal.SIGTERM
    assert list(start.folder.glob("mine.pid*")) == []


def test_a_pid_file_that_was_left_behind_or_is_an_agents_signals_nobody(start: Starter) -> None:
    left = start.folder / "rproxy.pid"
    sleeper = subprocess.Popen(["sleep", "60"])
    start.closing(sleeper.kill)
    left.write_text(str(sleeper.pid))
    done = reload_command(start.folder)
    assert (done.returncode, done.stderr) == (1, "rproxy reload: error: no proxy runs with the pid file rproxy.pid\n")
    assert sleeper.poll() is None
    agent = start.twistd("--pidfile=agent.pid", "rproxy-agent", "--proxy", LOOPBACK, "--port", "0")
    agent.logged("(agent registers)")
    done = reload_command(start.folder, "--pidfile", "agent.pid")
    assert done.returncode == 1
    assert "is agent.pid the pid file of a proxy?" in done.stderr
    assert agent.running
