"""A service that hangs while its agent is well: the agent sees it, and asks for no new clients until it is back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import pytest

from rproxy.net.addresses import Address, written
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter
from tests.integration.http_client import get
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.servers import Listener, Server
from tests.integration.twistd import Twistd

FOUND_S: Final = 3 * (2 + 1) + 1.0
"""Until three checks have failed, and a moment."""
BACK_S: Final = 3 * 2 + 1.0
NGINX: Final = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
worker_processes 2;
events {{}}
http {{
    access_log off;
    server {{
        listen {address};
        location / {{ return 200 "hello"; }}
        location /moved {{ return 302 /; }}
        location /ill {{ return 503; }}
    }}
}}
"""


@attrs.frozen
class Nginx:
    """A real server with all its processes in a group of their own."""

    address: Address
    process: subprocess.Popen[bytes]

    def signal(self, signum: signal.Signals) -> None:
        os.killpg(self.process.pid, signum)

    def close(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    (program,) = need("nginx")
    reserved = Listener()
    address = reserved.address
    reserved.close()
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, address=written(address)))
    command = [program, "-p", str(tmp_path), "-c", str(config), "-e", "stderr"]
    nginx = Nginx(address, subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))
    try:
        yield nginx
    finally:
        nginx.close()


@attrs.frozen
class Checked:
    """A proxy whose agents check their services."""

    proxy: Proxy
    agent: Twistd
    service: Address

    def wait_until(self, state: str, within_s: float = READY_S) -> None:
        poll(lambda: self.proxy.state(self.service) == state, within_s, f"{self.service} {state}", every_s=0.05)


def check(start: Starter, service: Address, check: str, *options: str, reactor: str = "epoll") -> Checked:
    proxy = start.elsewhere().proxy("--probe-interval", "0.5", reactor=reactor)
    told = ["--check", check] if check else []
    told = ["--proxy", written(proxy.monitor), "--port", "0", "--service-port", str(service[1]), *told, *options]
    agent = start.elsewhere().twistd("rproxy-agent", *told, reactor=reactor)
    return Checked(proxy, agent, service)


def test_a_server_that_is_stopped_gets_no_new_clients_until_it_goes_on(start: Starter, nginx: Nginx) -> None:
    """By default, and by requests; each at a proxy of its own."""
    whys = {
        check(start, nginx.address, "", reactor="epoll"): "connections to port .* are made, but not accepted",
        check(start, nginx.address, "http:/moved", reactor="asyncio"): "no answer to GET /moved",
    }
    for checked in whys:
        checked.wait_until("up")
    nginx.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    for checked, why in whys.items():
        checked.wait_until("draining", stopped + FOUND_S - time.monotonic())
        checked.agent.logged(f"(the service fails its check \\({why} \\(within 1 s\\)\\): asking for no new clients)")
        checked.proxy.logged("(its agent asks for no new clients: it drains, or its service fails its check)")
    nginx.signal(signal.SIGCONT)
    resumed = time.monotonic()
    for checked in whys:
        checked.wait_until("up", resumed + BACK_S - time.monotonic())
        checked.agent.logged("(the service passes its check again: clients may come)")
        assert get(f"http://{written(checked.proxy.address)}/") == b"hello"
        assert failures(checked.agent.log) == failures(checked.proxy.log) == []


def test_a_service_that_is_not_there_yet_gets_no_client_before_it_is(start: Starter) -> None:
    reserved = Listener()
    address = reserved.address
    reserved.close()
    checked = check(start, address, "connect")
    checked.wait_until("draining")
    checked.agent.logged(f"(the service fails its check \\({LOOPBACK}:{address[1]}: Connection refused\\): asking)")
    server = Server(lambda connection: connection.sendall(b"hello"), port=address[1])
    start.closing(server.close)
    checked.wait_until("up", BACK_S)
    assert checked.proxy.log.count("registered -> ") == 1


def test_a_server_that_answers_with_an_error_gets_no_clients(start: Starter, nginx: Nginx) -> None:
    checked = check(start, nginx.address, "http:/ill")
    checked.wait_until("draining")
    checked.agent.logged("(GET /ill is answered with status 503)")


def test_a_command_and_a_file_both_may_keep_clients_away_and_no_process_is_left(start: Starter) -> None:
    service, well, drain = Listener(), start.folder / "well", start.folder / "drain"
    start.closing(service.close)
    well.touch()
    command = f"test -e {well} && exit 0; sleep 1000 & sleep 1000"
    checked = check(start, service.address, f"command:{command}", "--drain-file", str(drain), reactor="asyncio")
    checked.wait_until("up")
    drain.touch()
    checked.wait_until("draining", 3)
    well.unlink()
    checked.agent.logged(r"(: not done \(within 1 s\)\): asking for no new clients)")
    drain.unlink()
    checked.agent.logged("(is gone: still asking for no new clients, as the service fails its check)")
    assert checked.proxy.state(service.address) == "draining"
    well.touch()
    checked.wait_until("up", BACK_S)
    poll(lambda: not children(checked.agent), READY_S, "no process of a check is left")
    assert failures(checked.agent.log) == []
    well.unlink()
    poll(lambda: children(checked.agent), READY_S, "a command runs")
    checked.agent.stop(within_s=2)
    assert not running(str(well))


def children(agent: Twistd) -> list[str]:
    """Zombies included."""
    return Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()


def running(word: str) -> list[str]:
    """Processes with that in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word in path.read_text(errors="replace") and path.parent.name != str(os.getpid()):
                found.append(path.parent.name)
    return found
