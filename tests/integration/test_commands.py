"""The two commands as a user meets them: what they say when they cannot start, and how they start and stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Certificate, Starter
from tests.integration.http_client import get
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.sockets import receive_until_reset
from tests.integration.stopwatch import Stopwatch
from tests.integration.twistd import REACTORS, run_twistd

STOP_S: Final = 2.0
TWO_PROBES_S: Final = 11.0
"""In which the order of back-ends may change twice, with the default --probe-interval."""
PROXY: Final = ["rproxy", "--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0"]
AGENT: Final = ["rproxy-agent", "--proxy", LOOPBACK, "--port", "0"]

both_reactors = pytest.mark.parametrize("reactor", REACTORS)


def assert_it_says_in_one_line(done: subprocess.CompletedProcess[str], folder: Path, expected: str) -> None:
    """Why it does not run; and it leaves nothing behind."""
    assert done.returncode > 0
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert list(folder.glob("*.pid")) == []


WRONG_OPTIONS: Final = [
    (PROXY, "--lisen 80", "--lisen"),
    (PROXY, "surplus", "'surplus'"),
    (PROXY, "--policy best", "--policy best: no such policy"),
    (PROXY, "--listen", "--listen"),
    (PROXY, "--listen nowhere", "--listen nowhere"),
    (PROXY, "--listen 70000", "--listen 70000"),
    (PROXY, "--listen unix:", "--listen unix:"),
    (PROXY, "--monitor -1", "--monitor -1"),
    (PROXY, "--monitor 127.0.0.1:70000", "--monitor"),
    (PROXY, "--backend-port 0", "--backend-port 0"),
    (PROXY, "--probe-interval 0", "--probe-interval 0"),
    (PROXY, "--probe-interval nan", "--probe-interval nan"),
    (PROXY, "--probe-timeout -1", "--probe-timeout -1"),
    (PROXY, "--liveness inf", "--liveness inf"),
    (PROXY, "--saturation 900", "--saturation 900"),
    (PROXY, "--saturation nan", "--saturation nan"),
    (PROXY, "--demo -1", "--demo -1"),
    (PROXY, "--demo 900000", "--demo 900000"),
    (PROXY, "--allow 10.1.1.0/99", "--allow 10.1.1.0/99"),
    (PROXY, "--admin 8081", "--admin 8081"),
    (PROXY, "--monitor 0.0.0.0:0", "who may register? give --keyring FILE"),
    (PROXY, "--monitor [::]:0", "--allow NETWORK"),
    (["rproxy-agent"], "--port 0", "--proxy HOST is missing"),
    (AGENT, "--intervall 20", "--intervall"),
    (AGENT, "--interval 0", "--interval 0"),
    (AGENT, "--interval nan", "--interval nan"),
    (AGENT, "--interval -5", "--interval -5"),
    (AGENT, "--report cpu=900", "cpu 900"),
    (AGENT, "--report memory=nan", "memory nan"),
    (AGENT, "--report tcp=-1", "tcp -1"),
    (AGENT, "--report disk=1", "disk=1"),
    (AGENT, "--weight 0", "--weight 0"),
    (AGENT, "--port 70000", "--port 70000"),
    (AGENT, "--service-port -1", "--service-port -1"),
    (AGENT, "--proxy 127.0.0.1:0", "--proxy 127.0.0.1:0"),
]


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [pytest.param(*row, id=f"{row[0][0]} {row[1]}") for row in WRONG_OPTIONS],
)
def test_a_wrong_option_is_named(tmp_path: Path, command: list[str], options: str, expected: str) -> None:
    done = run_twistd(tmp_path, *command, *options.split())
    assert_it_says_in_one_line(done, tmp_path, expected)


@pytest.mark.parametrize("key", ["missing", "folder", "text"])
def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path, certificate: Certificate, key: str) -> None:
    tmp_path.joinpath("folder").mkdir()
    tmp_path.joinpath("text").write_text("no key\n")
    endpoint = f"ssl:0:privateKey={tmp_path / key}:certKey={certificate.certificate}"
    done = run_twistd(tmp_path, *PROXY, "--listen", endpoint)
    assert_it_says_in_one_line(done, tmp_path, f"--listen {endpoint}")


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["TCP", "UDP"])
def taken(request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.SocketKind]]:
    """A port on which another process listens."""
    with socket.socket(type=request.param) as other:
        other.bind((LOOPBACK, 0))
        if request.param == socket.SOCK_STREAM:
            other.listen()
        yield f"{other.getsockname()[1]}", request.param


USERS: Final = {
    socket.SOCK_STREAM: [[*PROXY, "--listen"], [*PROXY, "--admin"]],
    socket.SOCK_DGRAM: [["rproxy", "--listen", f"{LOOPBACK}:0", "--monitor"]],
}
"""The beginnings of command lines that end with a HOST:PORT to listen on."""


@both_reactors
def test_a_taken_port_of_the_proxy_is_named(tmp_path: Path, taken: tuple[str, socket.SocketKind], reactor: str) -> None:
    port, kind = taken
    for beginning in USERS[kind]:
        done = run_twistd(tmp_path, *beginning, f"{LOOPBACK}:{port}", reactor=reactor)
        assert_it_says_in_one_line(done, tmp_path, f"{beginning[-1]} {LOOPBACK}:{port}")
        assert done.stderr.endswith("Address already in use\n")


@both_reactors
@pytest.mark.parametrize("taken", [socket.SOCK_DGRAM], indirect=True, ids=["UDP"])
def test_a_taken_port_of_the_agent_is_named(tmp_path: Path, taken: tuple[str, socket.SocketKind], reactor: str) -> None:
    port, _ = taken
    done = run_twistd(tmp_path, *AGENT, "--port", port, reactor=reactor)
    assert_it_says_in_one_line(done, tmp_path, f"--port {port}")
    assert done.stderr.endswith("Address already in use\n")


def test_a_socket_in_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    endpoint = f"unix:{tmp_path / 'missing' / 'socket'}"
    assert_it_says_in_one_line(run_twistd(tmp_path, *PROXY, "--listen", endpoint), tmp_path, endpoint)


def test_the_name_of_a_host_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = run_twistd(tmp_path, *PROXY, "--listen", "no-such-host.invalid:80")
    assert_it_says_in_one_line(done, tmp_path, "no-such-host.invalid")


@pytest.mark.hosts
def test_a_port_below_1024_without_the_right_is_named_and_the_right_told(tmp_path: Path) -> None:
    """In a network namespace of its own, where such ports are privileged whatever this machine's setting."""
    need("unshare", "setpriv", root=True)
    prefix = ["unshare", "--net", "setpriv", "--inh-caps=-net_bind_service", "--bounding-set=-net_bind_service"]
    done = run_twistd(tmp_path, "rproxy", "--listen", "80", "--allow", "10.0.0.0/8", prefix=prefix)
    assert_it_says_in_one_line(done, tmp_path, "--listen 80: Permission denied")
    assert "CAP_NET_BIND_SERVICE" in done.stderr


@both_reactors
@pytest.mark.parametrize("taken", [socket.SOCK_STREAM], indirect=True, ids=["TCP"])
def test_a_daemon_that_finds_its_port_taken_says_so_before_its_parent_ends(
    tmp_path: Path, taken: tuple[str, socket.SocketKind], reactor: str
) -> None:
    port, _ = taken
    done = run_twistd(tmp_path, *PROXY, "--listen", f"{LOOPBACK}:{port}", reactor=reactor, daemon=True)
    said = f"cannot listen on --listen {LOOPBACK}:{port}: Address already in use"
    assert (done.returncode, done.stderr, done.stdout) == (1, f"twistd: {said}\n", "")
    assert list(tmp_path.glob("*.pid")) == []
    assert said in tmp_path.joinpath("rproxy.log").read_text()
    assert "Traceback" not in tmp_path.joinpath("rproxy.log").read_text()


@both_reactors
def test_a_daemon_runs_until_it_is_told_to_stop_by_its_pid_file(start: Starter, reactor: str) -> None:
    done = run_twistd(start.folder, *PROXY, "--admin", f"{LOOPBACK}:0", reactor=reactor, daemon=True)
    (pid,) = pids(start.folder).values()
    start.closing(lambda: kill(pid))
    assert (done.returncode, done.stderr) == (0, "")
    assert pids(start.folder) == {"rproxy.pid": pid}
    log = start.folder / "rproxy.log"
    status = poll(lambda: re.search(r"status at (\S+)", log.read_text()), READY_S, "it listens")
    assert get(status[1])
    os.kill(pid, signal.SIGTERM)
    poll(lambda: not pids(start.folder), STOP_S, "the pid file is gone")
    with pytest.raises(ConnectionRefusedError):
        get(status[1])
    assert failures(log.read_text()) == []


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@both_reactors
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_demo_answers_from_different_back_ends_and_ends_in_time(
    start: Starter, reactor: str, signum: signal.Signals
) -> None:
    proxy = start.proxy("--demo", "3", reactor=reactor)
    poll(lambda: [row["state"] for row in proxy.backends().values()] == ["up"] * 3, READY_S, "three back-ends are up")
    host, port = proxy.address
    answers: set[str] = set()

    def two_have_answered() -> bool:
        answers.add(get(f"http://{host}:{port}/").decode())
        return len(answers) >= 2

    poll(two_have_answered, TWO_PROBES_S, "answers from two back-ends", every_s=0.05)
    assert all(re.fullmatch(r"hello from demo back-end [123]\n", answer) for answer in answers)
    watch = Stopwatch()
    assert proxy.stop(signum) == -signum
    assert watch.own_s < STOP_S
    assert failures(proxy.log) == []
    assert proxy.errors == ""


@both_reactors
def test_proxy_and_agent_run_in_one_folder_and_a_clean_stop_of_the_agent_is_known_at_once(
    start: Starter, reactor: str
) -> None:
    proxy = start.proxy("--probe-interval", "0.3", reactor=reactor)
    monitor = "{}:{}".format(*proxy.monitor)
    agent = start.twistd(
        "rproxy-agent", "--proxy", monitor, "--port", "0", "--service-port", "8000", "--check", "none", reactor=reactor
    )
    poll(lambda: proxy.state((LOOPBACK, 8000)) == "up", READY_S, "it is up")
    assert pids(start.folder) == {}
    poll(lambda: probe_responses(proxy) >= 3, READY_S, "it is probed again and again")
    probed_at = _agent_port(proxy)
    assert agent.stop() == -signal.SIGTERM
    assert proxy.backends() == {}
    assert not heard(probed_at, listen_s=0.7)
    assert proxy.stop() == -signal.SIGTERM
    assert pids(start.folder) == {}
    assert failures(proxy.log) == failures(agent.log) == []


def pids(folder: Path) -> dict[str, int]:
    return {file.name: int(file.read_text()) for file in folder.glob("*.pid")}


def probe_responses(proxy: Proxy) -> int:
    accepted: dict[str, int] = proxy.status()["counters"]["accepted"]
    return accepted.get("probe-response", 0)


def _agent_port(proxy: Proxy) -> int:
    return int(proxy.logged(rf"registered -> up \(answered a probe; agent {re.escape(LOOPBACK)}:(\d+)\)"))


def heard(port: int, listen_s: float) -> bytes:
    """The first datagram that arrives at a port that is free now."""
    with socket.socket(type=socket.SOCK_DGRAM) as listener:
        listener.bind((LOOPBACK, port))
        listener.settimeout(listen_s)
        try:
            return listener.recv(64)
        except TimeoutError:
            return b""


def test_off_loopback_anybody_may_register_when_the_proxy_is_told_so_and_it_says_so(start: Starter) -> None:
    proxy = start.proxy("--monitor", "0.0.0.0:0", "--allow", "0.0.0.0/0")
    proxy.logged("(any host may register as a back-end; --keyring FILE limits that)")
    monitor = f"{LOOPBACK}:{proxy.monitor[1]}"
    start.twistd("rproxy-agent", "--proxy", monitor, "--port", "0", "--service-port", "8000", "--check", "none")
    poll(lambda: proxy.state((LOOPBACK, 8000)) == "up", READY_S, "it is up")


@both_reactors
def test_an_agent_may_be_started_before_its_proxy(start: Starter, reactor: str) -> None:
    monitor = f"{LOOPBACK}:{free_udp_port()}"
    service = (LOOPBACK, 8000)
    agent = start.twistd(
        "rproxy-agent", "--proxy", monitor, "--port", "0", "--service-port", "8000", "--check", "none", reactor=reactor
    )
    agent.logged("(agent registers with)")
    time.sleep(0.3)  # its first registrations are refused by the kernel
    proxy = start.proxy("--monitor", monitor, reactor=reactor)
    poll(lambda: proxy.state(service) == "up", 5, "the agent has registered again")
    assert failures(agent.log) == []


def free_udp_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind((LOOPBACK, 0))
        port: int = free.getsockname()[1]
        return port


@both_reactors
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_sessions_at_once(start: Starter, reactor: str, signum: signal.Signals) -> None:
    proxy = start.proxy(reactor=reactor)
    pool = Pool(proxy)
    start.closing(pool.abandon)
    client, _ = pool.link()
    proxy.send_signal(signal.SIGTERM)
    poll(lambda: "Port" in proxy.log and "Closed" in proxy.log, READY_S, "it stops")
    watch = Stopwatch()
    proxy.send_signal(signum)
    assert proxy.wait() == -signal.SIGTERM
    assert watch.own_s < 0.7, "it waited for its sessions all the same"
    assert receive_until_reset(client) == b""
    assert failures(proxy.log) == []
    assert proxy.errors == ""
