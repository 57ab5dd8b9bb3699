"""Programs that know nothing of a proxy work through one: a real server, a real client, and every carrier between."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as open_websocket
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_websockets

from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.polling import READY_S, STOP_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.sockets import MB, digest, payload

CLIENT_S: Final = 30.0
"""How long a client may run on a busy machine: a hang is a failure, not the end of the run."""
PRIVILEGE_SEPARATION: Final = Path("/run/sshd")
"""Where sshd confines what is not logged in yet; Debian makes the folder only when the system's own sshd starts."""

pytestmark = every_carrier


@pytest.fixture(scope="module")
def proxy(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("proxy"), *variant.options, reactor=variant.reactor) as proxy:
        yield proxy


@attrs.frozen
class Application:
    """A server that is the proxy's only back-end, and its clients."""

    start: Starter
    pool: Pool
    port: int

    @property
    def folder(self) -> Path:
        return self.start.folder

    @property
    def proxy_port(self) -> str:
        """Where clients connect to, on `LOOPBACK`."""
        return str(self.pool.proxy.address[1])

    @property
    def sessions(self) -> int:
        """How many the proxy has carried to the server."""
        sessions: int = self.pool.proxy.backends()[LOOPBACK, self.port]["total"]
        return sessions

    def serve(self, *command: str, ready: str) -> None:
        """Run the server until the test ends. Returns when it has logged `ready` and the proxy sends clients to it."""
        log = self.folder / "server.log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.start.closing(lambda: end(server, log))

        def is_ready() -> bool:
            ended = server.poll() is not None
            assert not ended, f"it has ended:\n{log.read_text()}"
            return ready in log.read_text(errors="replace")

        poll(is_ready, READY_S, f"{ready!r} in the server's log")
        self.pool.register((LOOPBACK, self.port))


@pytest.fixture
def application(start: Starter, proxy: Proxy) -> Iterator[Application]:
    """The server outlives the proxy's last session: that the clients have gone must be enough to end them all."""
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    pool = Pool(proxy)
    yield Application(start, pool, port)
    pool.close()


def end(server: subprocess.Popen[bytes], log: Path) -> None:
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    print(f"{log.name}:\n{log.read_text(errors='replace')}")


def run(*command: str, stdin: bytes = b"") -> bytes:
    """What a client that succeeds says."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False, timeout=CLIENT_S)
    assert done.returncode == 0, f"{command[0]}: {done.stderr.decode()}{done.stdout[-1000:].decode(errors='replace')}"
    return done.stdout


def test_ssh_runs_a_command_and_scp_copies_both_ways(application: Application) -> None:
    sshd, ssh, scp, keygen = need("sshd", "ssh", "scp", "ssh-keygen", root=True)
    folder = application.folder
    options = serve_ssh(application, sshd, keygen)
    port, user = application.proxy_port, f"root@{LOOPBACK}"
    assert run(ssh, *options, "-p", port, user, "tr a-z A-Z", stdin=b"hello\n") == b"HELLO\n"
    here, there, back = (folder / name for name in ("here", "there", "back"))
    here.write_bytes(payload(20 * MB))
    run(scp, *options, "-P", port, str(here), f"{user}:{there}")
    run(scp, *options, "-P", port, f"{user}:{there}", str(back))
    assert digest(there.read_bytes()) == digest(here.read_bytes())
    assert digest(back.read_bytes()) == digest(here.read_bytes())
    assert application.sessions == 3


def serve_ssh(application: Application, sshd: str, keygen: str) -> list[str]:
    """Start sshd; the options of a client that knows its key, has one it lets in, and reads no file of the user's."""
    folder = application.folder
    for key in ("host_key", "user_key"):
        run(keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
    (folder / "known_hosts").write_text(f"backend {(folder / 'host_key.pub').read_text()}")
    config = {
        "ListenAddress": f"{LOOPBACK}:{application.port}",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "user_key.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
        "UsePAM": "no",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in config.items()))
    PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    application.serve(sshd, "-D", "-e", "-f", str(folder / "sshd_config"), ready="Server listening")
    client = {
        "BatchMode": "yes",
        "GlobalKnownHostsFile": "none",
        "HostKeyAlias": "backend",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": folder / "user_key",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": folder / "known_hosts",
    }
    return ["-F", "none", *(f"-o{name}={value}" for name, value in client.items())]


def test_postgresql_answers_copies_and_withstands_pgbench(application: Application) -> None:
    initdb, postgres, psql, pgbench = need("initdb", "postgres", "psql", "pgbench", root=True)
    serve_postgresql(application, initdb, postgres)
    where = ["-h", LOOPBACK, "-p", application.proxy_port, "-U", "postgres"]
    query = [psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *where]
    assert run(*query, "-c", "SELECT 6 * 7") == b"42\n"
    rows = "".join(f"{number}\t{number:060}\n" for number in range(60_000)).encode()
    run(*query, "-c", "CREATE TABLE numbers (number int, text text)", "-c", "COPY numbers FROM STDIN", stdin=rows)
    assert digest(run(*query, "-c", "COPY numbers TO STDOUT")) == digest(rows)
    assert application.sessions == 3
    run(pgbench, *where, "-i", "-q", "postgres")
    report = run(pgbench, *where, "-c", "8", "-T", "2", "postgres").decode()
    assert re.search(r"actually processed: [1-9]", report), report
    assert "failed transactions: 0 " in report, report
    assert application.sessions >= 3 + 1 + 8


def serve_postgresql(application: Application, initdb: str, postgres: str) -> None:
    """As a user that is not root, which it refuses, in a folder which that user may reach; the tests' is private."""
    data = tempfile.mkdtemp(prefix="rproxy-postgresql-")
    application.start.closing(lambda: shutil.rmtree(data))
    shutil.chown(data, "postgres", "postgres")
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    subprocess.run(
        [*prefix, initdb, "-D", data, "-A", "trust", "--no-sync", "--locale=C"],
        cwd="/",
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=CLIENT_S,
    )
    address = ["-c", f"listen_addresses={LOOPBACK}", "-c", "unix_socket_directories=", "-p", str(application.port)]
    ready = "database system is ready to accept connections"
    application.serve(*prefix, postgres, "-D", data, "-c", "fsync=off", *address, ready=ready)


def test_redis_benchmark_runs_with_and_without_pipelining_and_a_large_value_comes_back(
    application: Application,
) -> None:
    redis, benchmark, cli = need("redis-server", "redis-benchmark", "redis-cli")
    place = ["--port", str(application.port), "--bind", LOOPBACK, "--dir", str(application.folder)]
    application.serve(redis, *place, "--save", "", ready="Ready to accept connections")
    where = ["-h", LOOPBACK, "-p", application.proxy_port]
    run(benchmark, *where, "-q", "-t", "set,get", "-c", "20", "-n", "10000")
    run(benchmark, *where, "-q", "-t", "set,get", "-c", "20", "-n", "100000", "-P", "16")
    assert application.sessions >= 4 * 20
    value = payload(5 * MB)
    assert run(cli, *where, "-x", "SET", "value", stdin=value) == b"OK\n"
    assert digest(run(cli, *where, "GET", "value")) == digest(value + b"\n")
    counted = run(cli, *where, "INFO", "commandstats").decode()
    calls = {name: int(number) for name, number in re.findall(r"cmdstat_(\w+):calls=(\d+)", counted)}
    assert min(calls["set"], calls["get"]) >= 10_000 + 100_000 + 1


def test_a_websocket_carries_pings_messages_and_the_code_it_is_closed_with(application: Application) -> None:
    server = serve_websockets(converse, LOOPBACK, application.port, max_size=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    application.start.closing(server.shutdown)
    application.pool.register((LOOPBACK, application.port))
    url = f"ws://{LOOPBACK}:{application.proxy_port}/"
    with open_websocket(url, open_timeout=CLIENT_S, max_size=None, proxy=None) as client:
        assert client.ping().wait(CLIENT_S)
        client.send("héllo")
        assert client.recv(CLIENT_S) == "héllo"
        message = payload(5 * MB)
        client.send(message)
        echoed = client.recv(CLIENT_S)
        assert isinstance(echoed, bytes)
        assert digest(echoed) == digest(message)
        client.send("close 4001 enough")
        with pytest.raises(ConnectionClosed):
            client.recv(CLIENT_S)
        assert (client.close_code, client.close_reason) == (4001, "enough")
    assert application.sessions == 1


def converse(connection: ServerConnection) -> None:
    """Echo every message but the one that asks for a close."""
    for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split()
            connection.close(int(code), reason)
        else:
            connection.send(message)


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_iperf3_measures_its_streams(application: Application, direction: str, streams: int) -> None:
    (iperf3,) = need("iperf3")
    serving = [iperf3, "-s", "--one-off", "--forceflush", "--bind", LOOPBACK, "-p", str(application.port)]
    application.serve(*serving, ready="Server listening")
    options = ["--json", "-t", "1", "-P", str(streams), *(["-R"] if direction == "down" else [])]
    report = json.loads(run(iperf3, "-c", LOOPBACK, "-p", application.proxy_port, *options))["end"]
    received = [stream["receiver"]["bytes"] for stream in report["streams"]]
    assert len(received) == streams
    assert min(received) > 0
    assert application.sessions == 1 + streams
