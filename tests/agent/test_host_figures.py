"""Load figures from /proc, with valid, malformed, truncated and missing files, and from psutil."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rproxy.agent.host_figures import CpuTimes, HostFigures, PsutilFigures
from rproxy.agent.kernel_file import REOPEN_S, UnreadableFigure

CONNECTIONS = 20
ESTABLISHED, CLOSE_WAIT = "01", "08"
STAT = "cpu  100 20 30 400 50 6 7 8 90 10\ncpu0 50 10 15 200 25 3 3 4 45 5\ncpu1 50 10 15 200 25 3 4 4 45 5\nintr 1 2\n"
MEMINFO = "MemTotal:        1000 kB\nMemFree:           10 kB\nMemAvailable:     750 kB\nBuffers: 1 kB\n"
SNMP = (
    "Ip: Forwarding DefaultTTL\nIp: 1 64\n"
    "Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs\n"
    "Tcp: 1 200 120000 -1 4 5 6 7 345 9\nUdp: InDatagrams\nUdp: 1\n"
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


NOW = 1000.0
FILES = {"cpu_times": ("stat", STAT), "memory": ("meminfo", MEMINFO), "established": ("net/snmp", SNMP)}
"""By figure: its file, with a valid text."""
FIGURES = pytest.mark.parametrize("figure", FILES)


class Proc:
    """A folder in place of /proc. Between two readings passes the time after which files are opened again."""

    def __init__(self, folder: Path) -> None:
        self.figures = HostFigures(str(folder))
        self.files: dict[str, Path] = {}
        self._now = NOW
        for figure, (name, text) in FILES.items():
            self.files[figure] = folder / name
            self.files[figure].parent.mkdir(exist_ok=True)
            self.files[figure].write_text(text)

    def read(self, figure: str) -> object:
        self._now += REOPEN_S
        return getattr(self.figures, figure)(self._now)


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Proc]:
    proc = Proc(tmp_path)
    yield proc
    proc.figures.close()


def test_each_figure_is_in_a_file_of_its_own(proc: Proc) -> None:
    total = 100 + 20 + 30 + 400 + 50 + 6 + 7 + 8
    assert proc.read("cpu_times") == CpuTimes(total - 450, total, 2 * os.sysconf("SC_CLK_TCK"))
    assert proc.read("memory") == 25
    assert proc.read("established") == 345
    assert proc.figures.cpus(NOW) == 2
    assert proc.figures.total_memory(NOW) == 1000 * 1024


@FIGURES
@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"garbage\n", b"\xff\xfe\n", b"\n" * 100, b"9" * (1 << 21)])
def test_a_file_that_is_empty_or_something_else_is_unreadable(proc: Proc, figure: str, content: bytes) -> None:
    proc.files[figure].write_bytes(content)
    with pytest.raises(UnreadableFigure, match=str(proc.files[figure])):
        proc.read(figure)


@FIGURES
def test_a_file_that_is_missing_a_folder_or_a_pipe_is_unreadable_at_once(proc: Proc, figure: str) -> None:
    path = proc.files[figure]
    path.unlink()
    with pytest.raises(UnreadableFigure, match="No such file"):
        proc.read(figure)
    path.mkdir()
    with pytest.raises(UnreadableFigure, match=r"directory|regular"):
        proc.read(figure)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(UnreadableFigure, match="regular"):
        proc.read(figure)


@LINUX
@FIGURES
def test_an_error_of_reading_is_told(proc: Proc, figure: str) -> None:
    """/proc/self/mem is a regular file, and reading it at address 0 is an I/O error."""
    proc.files[figure].unlink()
    proc.files[figure].symlink_to("/proc/self/mem")
    with pytest.raises(UnreadableFigure, match="Input/output error"):
        proc.read(figure)


@FIGURES
def test_a_file_cut_short_anywhere_is_read_right_or_not_at_all(proc: Proc, figure: str) -> None:
    whole = without_cpus(proc.read(figure))
    text = FILES[figure][1]
    for size in range(len(text)):
        proc.files[figure].write_text(text[:size])
        try:
            assert without_cpus(proc.read(figure)) == whole, text[:size]
        except UnreadableFigure:
            continue


def without_cpus(figure: object) -> object:
    """The number of CPUs depends on the rest of the file."""
    return (figure.busy, figure.total) if isinstance(figure, CpuTimes) else figure


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ("cpu_times", STAT.replace("100", "-100")),
        ("cpu_times", STAT.replace("100", "9" * 5000)),
        ("cpu_times", "cpu  1 2 3\n"),
        ("cpu_times", STAT.replace("cpu  100 20", "cpu  nan 20")),
        ("memory", MEMINFO.replace("750", "-750")),
        ("memory", MEMINFO.replace("750", "1001")),
        ("memory", MEMINFO.replace("1000", "0").replace("750", "0")),
        ("memory", MEMINFO.replace("1000", "9" * 30)),
        ("memory", MEMINFO.replace("kB", "MB")),
        ("established", SNMP.replace("345", "-345")),
        ("established", SNMP.replace("345", "1e3")),
        ("established", SNMP.replace("CurrEstab", "Other")),
        ("established", SNMP.replace("Tcp: 1 200", "Tcp: ")),
        ("established", SNMP + "Tcp: 1\n"),
    ],
)
def test_figures_that_no_host_has_are_none(proc: Proc, figure: str, text: str) -> None:
    proc.files[figure].write_text(text)
    with pytest.raises(UnreadableFigure):
        proc.read(figure)


def test_the_number_of_cpus_is_known_even_where_their_times_are_not(proc: Proc) -> None:
    proc.files["cpu_times"].write_text("garbage")
    assert proc.figures.cpus(NOW) == os.cpu_count()


@pytest.fixture
def connections() -> Iterator[list[socket.socket]]:
    """Loopback connections, both ends of each."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS))
        ends = []
        for _ in range(CONNECTIONS):
            ends.append(opened.enter_context(socket.create_connection(listener.getsockname())))
            ends.append(opened.enter_context(listener.accept()[0]))
        yield ends


def rows() -> int:
    """Connections that the kernel lists as established, or as closed by the peer only."""
    listed = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    return sum(fields[3] in (ESTABLISHED, CLOSE_WAIT) for fields in listed)


def rows_and_count() -> tuple[int, int]:
    """Both, taken while others on this host opened and closed nothing."""
    figures = HostFigures()
    for _ in range(200):
        before = rows()
        counted = figures.established(0)
        if rows() == before == counted:
            break
    figures.close()
    return before, counted


@LINUX
def test_established_counts_what_the_kernel_lists(connections: list[socket.socket]) -> None:
    listed, counted = rows_and_count()
    assert counted == listed >= len(connections)


@LINUX
def test_a_connection_that_only_the_peer_has_closed_still_counts(connections: list[socket.socket]) -> None:
    for client in connections[::2]:
        client.shutdown(socket.SHUT_WR)
    listed, counted = rows_and_count()
    assert counted == listed >= len(connections) / 2


def test_memory_is_what_psutil_says() -> None:
    figures = HostFigures()
    assert figures.memory(NOW) == pytest.approx(psutil.virtual_memory().percent, abs=2)
    assert figures.total_memory(NOW) == psutil.virtual_memory().total
    figures.close()


def test_elsewhere_psutil_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = PsutilFigures()
    assert 0 <= figures.memory(NOW) <= 100
    times = figures.cpu_times(NOW)
    assert 0 < times.busy < times.total
    statuses = [psutil.CONN_ESTABLISHED, psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED, psutil.CONN_TIME_WAIT]
    listed = [SimpleNamespace(status=status) for status in statuses]
    monkeypatch.setattr(psutil, "net_connections", lambda kind: listed if kind == "tcp" else [])
    assert figures.established(NOW) == 2
    figures.close()
