"""The service's load from real accept queues, commands and files."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.task import Clock, deferLater

from rproxy.agent import accept_queue, load_sources
from rproxy.agent.load_sources import (
    OUTPUT_MAX,
    PROC_S,
    RUN_S,
    SEARCH_MIN_S,
    SEARCH_S,
    AcceptQueueLoad,
    CommandLoad,
    FileLoad,
)
from rproxy.agent.sock_diag import Listener, SockDiag
from tests.agent.conftest import Closing
from tests.agent.processes import all_reaped, children, within
from tests.fakes import logged, texts

T = TypeVar("T")
on_the_reactor: Callable[[T], T] = pytest_twisted.ensureDeferred
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="sees the queue on Linux only")
UNKNOWN = "the service's load cannot be read and is reported as unknown: "
KNOWN = "the service's load can be read again"


class QueueBench:
    """The load of a port, on a clock; clients arrive at `own`."""

    def __init__(self, port: int, *own: str) -> None:
        self.clock = Clock()
        self.own = own or ("127.0.0.1",)
        self.load = AcceptQueueLoad(self.clock.seconds, port, lambda: self.own)
        self.load.start()
        self._clients: list[socket.socket] = []

    def connect(self, address: Any, times: int = 1) -> None:
        for _ in range(times):
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self._clients.append(socket.socket(family))
            self._clients[-1].setblocking(False)
            self._clients[-1].connect_ex(address)

    def later(self, seconds: float) -> int | None:
        self.clock.advance(seconds)
        return self.load.percentage()

    def close(self) -> None:
        self.load.stop()
        for client in self._clients:
            client.close()


def listener(host: str, port: int = 0, *, backlog: int = 10, shared: bool = False) -> socket.socket:
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if shared:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if host == "::":
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind((host, port))
    server.listen(backlog)
    return server


@LINUX
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_queue_is_read_for_every_answer(closing: Closing, host: str) -> None:
    server = closing(listener(host))
    port = server.getsockname()[1]
    bench = closing(QueueBench(port))
    assert bench.later(0) == 0
    bench.connect(("127.0.0.1", port), 3)
    assert bench.later(0) == 30
    server.accept()[0].close()
    assert bench.later(0) == 20
    assert bench.later(5) == 20


@LINUX
@pytest.mark.parametrize("backlog", [0, 1, 4])
def test_a_full_queue_is_100_percent_whatever_else_comes(closing: Closing, backlog: int) -> None:
    server = closing(listener("127.0.0.1", backlog=backlog))
    bench = closing(QueueBench(server.getsockname()[1]))
    assert bench.later(0) == 0
    bench.connect(server.getsockname(), backlog + 3)
    assert bench.later(0) == 100


@LINUX
def test_a_restarted_service_is_found_and_one_that_does_not_listen_is_unknown(closing: Closing) -> None:
    server = closing(listener("127.0.0.1"))
    address = server.getsockname()
    bench = closing(QueueBench(address[1]))
    bench.connect(address, 2)
    assert bench.later(0) == 20
    server.close()
    assert bench.later(SEARCH_MIN_S) is None
    closing(listener("127.0.0.1", address[1]))
    assert bench.later(SEARCH_MIN_S) == 0


@LINUX
def test_one_that_listens_on_another_address_as_well_is_soon_seen(closing: Closing) -> None:
    port = closing(listener("127.0.0.1")).getsockname()[1]
    bench = closing(QueueBench(port, "127.0.0.1", "127.0.0.2"))
    assert bench.later(0) == 0
    closing(listener("127.0.0.2", port))
    bench.connect(("127.0.0.2", port), 4)
    assert bench.later(SEARCH_S) == 40


@LINUX
def test_the_fullest_socket_that_clients_reach_counts(closing: Closing) -> None:
    port = closing(listener("127.0.0.1")).getsockname()[1]
    closing(listener("127.0.0.2", port))
    closing(listener("::1", port))
    bench = closing(QueueBench(port, "127.0.0.1", "::1"))
    bench.connect(("127.0.0.1", port), 1)
    bench.connect(("127.0.0.2", port), 5)
    assert bench.later(0) == 10
    bench.connect(("::1", port), 3)
    assert bench.later(0) == 30


@LINUX
def test_sockets_that_share_an_address_are_all_read_but_not_for_every_answer(closing: Closing) -> None:
    """The kernel gives each client to one of them, by a hash."""
    servers = [closing(listener("127.0.0.1", shared=True))]
    port = servers[0].getsockname()[1]
    servers += [closing(listener("127.0.0.1", port, shared=True)) for _ in range(3)]
    bench = closing(QueueBench(port))
    assert bench.later(0) == 0
    bench.connect(("127.0.0.1", port), 20)
    assert bench.later(0) == 0
    fullest = max(each.queued for each in SockDiag().listening(port))
    assert 5 <= fullest <= 20
    assert bench.later(SEARCH_MIN_S) == min(10 * fullest, 100)


class Counting(SockDiag):
    """Counts its questions; while `fails`, it answers none."""

    searches = 0
    queries = 0
    fails = False

    def listening(self, port: int) -> list[Listener]:
        self.searches += 1
        if self.fails:
            raise PermissionError(1, "Operation not permitted")
        return super().listening(port)

    def queue(self, query: bytes) -> tuple[int, int]:
        self.queries += 1
        return super().queue(query)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(accept_queue, "SockDiag", lambda: counting)
    return counting


@LINUX
def test_sockets_are_searched_for_now_and_then(closing: Closing, counting: Counting) -> None:
    bench = closing(QueueBench(closing(listener("127.0.0.1")).getsockname()[1]))
    for _ in range(100):
        assert bench.later(SEARCH_S / 100) == 0
    assert counting.searches in (1, 2)
    assert counting.queries == 100 - counting.searches


@LINUX
def test_nothing_that_listens_is_searched_for_ten_times_a_second_at_most(closing: Closing, counting: Counting) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bench = closing(QueueBench(bound.getsockname()[1]))
        for _ in range(500):
            assert bench.later(0.01) is None
    assert counting.searches in range(45, 52)


def test_without_sock_diag_proc_is_read_once_a_second(
    closing: Closing, counting: Counting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The backlog is not there: it is taken to be the largest."""
    counting.fails = True
    reads = []

    def listeners(port: int) -> list[Listener]:
        reads.append(port)
        return [Listener("0.0.0.0", len(reads))]

    somaxconn = tmp_path / "somaxconn"
    somaxconn.write_text("20\n")
    monkeypatch.setattr(accept_queue, "proc_listeners", listeners)
    monkeypatch.setattr(accept_queue, "_SOMAXCONN", str(somaxconn))
    bench = closing(QueueBench(8080))
    assert [bench.later(PROC_S / 4) for _ in range(9)] == [5, 5, 5, 5, 10, 10, 10, 10, 15]
    assert reads == [8080] * 3
    somaxconn.unlink()
    assert bench.later(1) is None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "load"


def test_a_file_is_read_once_a_second(file: Path) -> None:
    clock = Clock()
    load = FileLoad(clock.seconds, str(file))
    load.start()
    file.write_text("42\n")
    assert load.percentage() == 42
    file.write_text("43\n")
    clock.advance(RUN_S - 0.1)
    assert load.percentage() == 42
    clock.advance(0.1)
    assert load.percentage() == 43
    load.stop()


def test_a_file_that_is_missing_or_no_load_is_unknown_with_one_line_until_it_is_one(file: Path) -> None:
    clock = Clock()
    load = FileLoad(clock.seconds, str(file))
    with logged() as events:
        for change in (lambda: None, lambda: file.write_text("busy"), lambda: file.write_text("1\nbusy\n12.6\n")):
            change()
            said = load.percentage()
            clock.advance(RUN_S)
    assert said == 13
    assert texts(events) == [f"{UNKNOWN}{file}: No such file or directory", KNOWN]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "Is a directory"),
        (lambda path: os.symlink("/dev/zero", path), "not a regular file"),
        (lambda path: os.symlink(path, path), "Too many levels of symbolic links"),
        (lambda path: Path(path).write_text("101"), "'101' is not a number from 0 to 100"),
        (lambda path: Path(path).touch(), "no number"),
    ],
    ids=["a fifo", "a directory", "a device", "a loop", "too much", "empty"],
)
def test_what_is_no_file_with_a_number_neither_blocks_nor_counts(
    file: Path, make: Callable[[str], object], why: str
) -> None:
    make(str(file))
    load = FileLoad(Clock().seconds, str(file))
    with logged() as events:
        assert load.percentage() is None
    assert texts(events) == [f"{UNKNOWN}{file}: {why}"]


def test_only_the_end_of_a_large_file_is_read(file: Path) -> None:
    with open(file, "wb") as written:
        written.truncate(1 << 40)  # it has no blocks
        written.seek(0, os.SEEK_END)
        written.write(b"\n77\n")
    assert FileLoad(Clock().seconds, str(file)).percentage() == 77


@LINUX
def test_a_file_of_a_file_system_that_knows_no_sizes_is_read() -> None:
    load = FileLoad(Clock().seconds, "/proc/sys/net/ipv4/tcp_retries1")
    assert load.percentage() == int(Path("/proc/sys/net/ipv4/tcp_retries1").read_text())


@pytest.fixture
def command(closing: Closing, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], CommandLoad]:
    """A running one, of which each run may last half a second."""
    monkeypatch.setattr(load_sources, "RUN_S", 0.1)
    monkeypatch.setattr(load_sources, "RUN_TIMEOUT_S", 0.5)

    def start(text: str) -> CommandLoad:
        from twisted.internet import reactor

        load = CommandLoad(reactor, text)
        load.close = load.stop  # type: ignore[attr-defined]
        load.start()
        load_: CommandLoad = closing(load)
        return load_

    return start


@on_the_reactor
async def test_a_command_says_the_load_in_its_last_line(command: Callable[[str], CommandLoad], file: Path) -> None:
    file.write_text("much\n42\n")
    load = command(f"cat {file}")
    await within(lambda: load.percentage() == 42)
    file.write_text("7")
    await within(lambda: load.percentage() == 7)
    load.stop()
    await all_reaped()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("false", "exit status 1"),
        ("echo 5; exit 3", "exit status 3"),
        ("echo 5; kill -9 $$", "killed by signal 9"),
        ("no-such-command", "exit status 127"),
        ("echo 5 >&2", "no number"),
        ("echo five", "'five' is not a number from 0 to 100"),
        ("echo nan", "'nan' is not a number from 0 to 100"),
        ("echo 5; sleep 100", "not done within 0.5 s"),
        ("yes 5", "not done within 0.5 s"),
        ("sleep 100 & echo 500", "'500' is not a number from 0 to 100"),
    ],
)
@on_the_reactor
async def test_any_other_command_leaves_the_load_unknown_with_one_line(
    command: Callable[[str], CommandLoad], file: Path, text: str, why: str
) -> None:
    file.touch()
    with logged() as events:
        load = command(f"if test -s {file}; then {text}\nelse echo 5; fi")
        await within(lambda: load.percentage() == 5)
        file.write_text("not empty")
        await within(lambda: load.percentage() is None)
        await sleep(0.3)
        file.write_text("")
        await within(lambda: load.percentage() == 5)
    assert texts(events) == [f"{UNKNOWN}if test -s {file}; then {text} else echo 5; fi: {why}", KNOWN]
    load.stop()
    await all_reaped()


@on_the_reactor
async def test_only_the_end_of_much_output_is_kept(command: Callable[[str], CommandLoad]) -> None:
    load = command(f"head -c {OUTPUT_MAX * 50} /dev/zero; echo; echo 64")
    await within(lambda: load.percentage() == 64)


@on_the_reactor
async def test_what_a_command_leaves_behind_holds_nothing_up(command: Callable[[str], CommandLoad]) -> None:
    """It has the output still open."""
    load = command("sleep 100 & echo 64")
    await within(lambda: load.percentage() == 64)
    load.stop()
    await all_reaped()


@on_the_reactor
async def test_a_stop_ends_a_command_that_runs(
    command: Callable[[str], CommandLoad], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_sources, "RUN_TIMEOUT_S", 100.0)
    before = len(os.listdir("/proc/self/fd"))
    with logged() as events:
        load = command("trap '' TERM; sleep 100 & sleep 100")
        await within(lambda: len(children()) > 0)
        load.stop()
        await all_reaped()
        await sleep(0.2)
    assert texts(events) == []
    assert children() == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert load.percentage() is None


async def sleep(seconds: float) -> None:
    from twisted.internet import reactor

    clock: Any = reactor
    await deferLater(clock, seconds)
