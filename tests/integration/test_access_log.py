"""The access log of real processes: every client has its line, whatever becomes of the file."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from rproxy.net.addresses import written
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import greeting, serve
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.fake_agents import FakeAgent
from tests.integration.polling import READY_S, STOP_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import connect, receive, receive_all, reset
from tests.integration.twistd import environment, run_twistd, twistd

NOBODY: Final = 65534


def records(path: Path, number: int) -> list[dict[str, Any]]:
    """Those of a log of JSON, once there are so many."""

    def read() -> list[str] | None:
        lines = path.read_text().splitlines() if path.exists() else []
        return lines if len(lines) >= number else None

    lines: list[str] = poll(read, READY_S, f"{number} records are in {path}", every_s=0.02)
    assert len(lines) == number
    return [json.loads(line) for line in lines]


def text(address: Any) -> str:
    return written(address[:2])


def log_of(start: Starter, *options: str, format: str = "json") -> tuple[Path, list[str]]:  # noqa: A002
    """A file in the test's folder, and the options for it."""
    path = start.folder / "access.log"
    return path, ["--access-log", str(path), "--access-log-format", format, *options]


@every_carrier
def test_every_client_has_a_record_with_its_ending(variant: Variant, start: Starter) -> None:
    """One that is refused, too. The records agree with what each client knows, and with the counters."""
    path, options = log_of(start)
    file = start.folder / "rproxy.toml"
    file.write_text('[[service]]\nname = "web"\nlisten = ["127.0.0.1:0"]\ndeny = ["127.0.0.9"]\nwait-for-backend = 0\n')
    pool = Pool(start.proxy("--config", str(file), *options, *variant.options))
    start.closing(pool.abandon)
    known: list[dict[str, Any]] = []

    def knows(client: socket.socket, ending: str, backend: str | None = None, up: int = 0, down: int = 0) -> None:
        known.append(
            {"client": text(client.getsockname()), "ending": ending, "backend": backend, "up": up, "down": down}
        )

    with pool.connect() as client:
        knows(client, "no-backend")
        with suppress(ConnectionResetError):
            assert receive_all(client) == b""
    records(path, 1)
    backend = text(pool.serve(echo).address)
    with socket.socket() as client, suppress(ConnectionResetError):
        client.bind(("127.0.0.9", 0))
        client.connect(pool.proxy.address)
        knows(client, "denied")
        receive_all(client)
    for ending in ("closed", "client-reset"):
        with pool.connect() as client:
            client.sendall(b"hello")
            assert receive(client, 5) == b"hello"
            knows(client, ending, backend, 5, 5)
            if ending == "client-reset":
                reset(client)
            else:
                client.shutdown(socket.SHUT_WR)
                assert receive_all(client) == b""
        records(path, len(known))
    with pool.connect() as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        knows(client, "stopped", backend, 5, 5)
        assert pool.proxy.stop() == -signal.SIGTERM
    found = records(path, len(known))
    assert [{key: record[key] for key in known[0]} for record in found] == known
    assert {record["service"] for record in found} == {"web"}
    assert {record["listener"] for record in found} == {f"{LOOPBACK}:0"}
    for record in found[2:]:
        assert record["tries"] == 1
        assert 0 < record["connect"] <= record["duration"] < READY_S
        assert record["score"] is not None
        assert record["report_age"] >= 0
    ends = [time.strptime(record["time"], "%Y-%m-%dT%H:%M:%S.%fZ") for record in found]
    assert ends == sorted(ends)
    assert abs(time.time() - time.mktime(ends[-1]) + time.mktime(time.gmtime(0))) < 2 * READY_S


@every_carrier
def test_halog_reads_what_haproxys_format_has_of_real_sessions(variant: Variant, start: Starter) -> None:
    (halog,) = need("halog")
    path, options = log_of(start, format="haproxy")
    pool = start.pool(*options, *variant.options)
    servers = [pool.serve(echo) for _ in range(2)]
    for _ in range(6):
        with pool.connect() as client:
            client.sendall(b"hello")
            assert receive(client, 5) == b"hello"
            client.shutdown(socket.SHUT_WR)
            receive_all(client)
    poll(lambda: path.exists() and path.read_text().count("\n") == 6, READY_S, "all are in the log")

    def read(*options: str) -> str:
        with path.open() as log:
            return subprocess.run([halog, *options], stdin=log, capture_output=True, text=True, check=True).stdout

    assert read("-c") == "6\n"
    assert read("-c", "-v", "-time", ":1") == "6\n"
    assert [line.split()[0] for line in read("-srv", "-q").splitlines()[1:]] == sorted(
        f"default/{text(server.address)}" for server in servers
    )
    fields = [line.split() for line in path.read_text().splitlines()]
    assert {len(each) for each in fields} == {14}
    assert {each[11] for each in fields} == {"--"}
    assert {each[10] for each in fields} == {"5"}


def hammer(proxy: Proxy, until: float) -> int:
    """Clients that come one after the other; returns how many."""
    number = 0
    while time.monotonic() < until:
        assert greeting(proxy) == b"word"
        number += 1
    return number


def serving(start: Starter, *options: str, **how: Any) -> Proxy:
    """A proxy with a back-end that greets its clients."""
    proxy = start.proxy(*options, **how)
    agent = FakeAgent(proxy.monitor, serve(start, b"word")[1])
    start.closing(lambda: agent.close(unregister=False))
    poll(lambda: proxy.state(agent.backend) == "up", READY_S, "the back-end is up")
    return proxy


def test_logrotate_loses_no_record(start: Starter) -> None:
    path, options = log_of(start)
    proxy = serving(start, *options)
    served = hammer(proxy, time.monotonic() + 0.3)
    rotated = start.folder / "access.log.1"
    path.rename(rotated)
    served += hammer(proxy, time.monotonic() + 0.3)
    proxy.send_signal(signal.SIGUSR1)
    poll(path.exists, READY_S, "the file is made again")
    served += hammer(proxy, time.monotonic() + 0.3)
    assert proxy.stop() == -signal.SIGTERM
    lines = [each.read_text().splitlines() for each in (rotated, path)]
    assert all(lines)
    clients = Counter(json.loads(line)["client"] for part in lines for line in part)
    assert (len(clients), max(clients.values())) == (served, 1)


def test_a_full_disk_costs_records_that_are_counted_and_said_once_and_no_session(start: Starter) -> None:
    unshare, _, _ = need("unshare", "mount", "dd", root=True)
    disk = start.folder / "disk"
    disk.mkdir()
    fill = f"mount -t tmpfs -o size=4m none {disk} && dd if=/dev/zero of={disk}/fill bs=4k count=1023 2>/dev/null"
    wrapper = [unshare, "-m", "sh", "-c", f'{fill} && exec "$@"', "sh"]
    options = ["--access-log", str(disk / "access.log"), "--access-log-format", "json"]
    proxy = serving(start, *options, wrapper=wrapper)
    inside = Path(f"/proc/{proxy.pid}/root/{disk}")
    served = hammer(proxy, time.monotonic() + 0.5)
    proxy.logged(r"(access log \S+: No space left on device; sessions go on)")
    served += hammer(proxy, time.monotonic() + 0.5)
    (inside / "fill").unlink()
    served += hammer(proxy, time.monotonic() + 0.3)
    lost = int(proxy.logged(r"access log \S+ is written again; (\d+) record\(s\) are lost"))
    content = poll(lambda: whole(inside / "access.log", served - lost), READY_S, "the others are in it")
    assert {json.loads(line)["ending"] for line in content} == {"closed"}
    assert proxy.log.count("access log ") == 2
    assert 0 < lost < served


def whole(path: Path, lines: int) -> list[str] | None:
    """The lines of a file once there are so many."""
    found = path.read_text().splitlines()
    return found if len(found) == lines else None


def test_a_reader_of_standard_output_that_hangs_costs_records_only(tmp_path: Path) -> None:
    """Nor does it delay the end for longer than the last records may take."""
    log = tmp_path / "own.log"
    options = ["--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0", "--demo", "1", "--access-log", "-"]
    command = twistd(f"--logfile={log}", "rproxy", *options, reactor="epoll")
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE) as process:
        try:
            up = re.compile(r"clients on (\S+):(\d+)[\s\S]*registered -> up")
            found = poll(lambda: up.search(log.read_text() if log.exists() else ""), READY_S, "a back-end is up")
            address = found[1], int(found[2])
            until = time.monotonic() + READY_S
            while "it is not read in time" not in log.read_text():
                with connect(address) as client:
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    assert b"hello from" in receive_all(client)
                assert time.monotonic() < until
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_S) == -signal.SIGTERM
            assert process.stdout is not None
            lines = process.stdout.read().decode().splitlines()
            assert all(re.match(r"\S+Z 127\.0\.0\.1:\d+ default \S+ closed duration=", line) for line in lines[:-1])
        finally:
            process.kill()


def test_the_journal_gets_every_record(start: Starter) -> None:
    unshare, _ = need("unshare", "mount", root=True)
    folder = start.folder / "journal"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(folder / "socket"))
        journal.settimeout(READY_S)
        mount = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal"
        script = f'{mount} && mount --bind {folder} /run/systemd/journal && exec "$@"'
        proxy = serving(start, "--access-log", "journal", wrapper=[unshare, "-m", "sh", "-c", script, "sh"])
        assert greeting(proxy) == b"word"
        entry = journal.recv(4096).decode().splitlines()
        assert entry[:2] == ["PRIORITY=6", "SYSLOG_IDENTIFIER=rproxy-access"]
        assert re.fullmatch(r"MESSAGE=\S+Z 127\.0\.0\.1:\d+ default 127\.0\.0\.1:\d+ closed duration=.*", entry[2])


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("none/access.log", "No such file or directory"),
        (".", "Is a directory"),
        ("fifo", "No such device or address"),
    ],
)
def test_one_that_cannot_be_written_is_a_line_at_the_start(tmp_path: Path, where: str, why: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    options = ["--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0", "--access-log", where]
    done = run_twistd(tmp_path, "rproxy", *options)
    assert done.returncode == 1
    place = os.path.abspath(tmp_path / where)
    assert f"twistd: cannot write --access-log {place}: {why}" in done.stderr.splitlines()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Another user's, which others get to; pytest's own folders do not let them."""
    need(root=True)
    with TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        yield Path(folder)


def test_with_another_user_it_is_that_users_and_is_opened_again_by_it(start: Starter, open_folder: Path) -> None:
    path = open_folder / "access.log"
    proxy = start.twistd(
        f"--uid={NOBODY}",
        "rproxy",
        *("--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0", "--access-log", str(path)),
    )
    proxy.logged(r"(running as user)")
    assert path.stat().st_uid == NOBODY
    path.rename(open_folder / "old.log")
    proxy.send_signal(signal.SIGUSR1)
    poll(path.exists, READY_S, "the file is made again")
    assert path.stat().st_uid == NOBODY
