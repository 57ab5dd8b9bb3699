"""Files, streams and the journal, as the access log writes to them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from rproxy.tap import access_targets
from rproxy.tap.access_targets import Descriptor, Journal, Outcome, open_file, open_target
from tests.full_disk import room_for
from tests.tap.test_logs import drained


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its reader, and its writer, which does not block."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    yield reader, writer
    for end in (reader, writer):
        with suppress(OSError):
            os.close(end)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_targets, "WAIT_S", 0.0)


def test_lines_are_appended_to_a_file_that_only_its_owner_and_group_can_read(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    before = os.umask(0)
    try:
        target = open_file(str(path))
    finally:
        os.umask(before)
    with path.open("a") as another:  # as the process that takes over does
        assert target.write(["a", "b"]) == Outcome()
        another.write("c\n")
    assert target.write(["d"]) == Outcome()
    assert path.read_text() == "a\nb\nc\nd\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert target.close() == 0


def test_a_full_disk_costs_lines_and_the_one_that_was_begun_is_completed_later(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    target = open_file(str(path))
    with room_for(5):
        assert target.write(["ab", "cdef", "gh"]) == Outcome(1, "File too large")
        assert path.read_text() == "ab\ncd"
        assert target.write(["ij"]) == Outcome(1, "File too large")
    assert target.write(["kl"]) == Outcome()
    assert path.read_text() == "ab\ncdef\nkl\n"


@pytest.mark.parametrize(("size", "lost"), [(0, 3), (3, 2), (6, 1)])
def test_lines_are_counted_as_lost_where_the_disk_is_full_between_two(tmp_path: Path, size: int, lost: int) -> None:
    target = open_file(str(tmp_path / "access.log"))
    with room_for(size):
        assert target.write(["ab", "cd", "ef"]) == Outcome(lost, "File too large")
    assert target.write(["gh"]) == Outcome()
    assert target.close() == 0


def test_thousands_of_lines_are_written_and_counted_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    target = open_file(str(path))
    lines = [f"{number:07d}" for number in range(4500)]
    assert target.write(lines) == Outcome()
    with room_for(8 * 4500 + 8 * 1500):
        assert target.write(lines) == Outcome(3000, "File too large")
    assert path.read_text().splitlines() == lines + lines[:1500]


def test_a_line_that_was_begun_is_lost_with_its_file(tmp_path: Path) -> None:
    target = open_file(str(tmp_path / "access.log"))
    with room_for(1):
        assert target.write(["ab"]) == Outcome(0, "File too large")
    assert target.close() == 1


def test_a_file_that_was_renamed_is_begun_anew_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    target = open_file(str(path))
    target.write(["a"])
    path.rename(tmp_path / "access.log.1")
    target.write(["b"])
    again = target.reopened()
    target.close()
    again.write(["c"])
    assert (tmp_path / "access.log.1").read_text() == "a\nb\n"
    assert path.read_text() == "c\n"


def test_a_file_cut_by_copytruncate_has_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    target = open_file(str(path))
    target.write(["a"])
    os.truncate(path, 0)
    target.write(["b"])
    assert path.read_bytes() == b"b\n"


def test_a_device_is_written_as_a_stream() -> None:
    target = open_file("/dev/full")
    assert target.write(["a", "b"]) == Outcome(2, "No space left on device")


def test_an_unread_pipe_costs_lines_and_what_was_read_of_it_is_whole(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    target = Descriptor("a pipe", writer)
    lines = ["x" * 99] * 2000
    outcome = target.write(lines)
    taken = drained(reader)
    assert outcome.error == "it is not read in time"
    assert len(taken) > 10_000
    assert target.write(["again"]) == Outcome()
    read = (taken + drained(reader)).splitlines()
    assert set(read) == {"x" * 99, "again"}
    assert len(read) == 2000 - outcome.lost + 1


def test_a_reader_that_has_gone_costs_lines(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    assert Descriptor("a pipe", pipe[1]).write(["a", "b"]) == Outcome(2, "Broken pipe")


def test_a_fifo_is_read_by_another_process_and_one_that_nobody_reads_cannot_be_opened(tmp_path: Path) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device or address"):
        open_target(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    open_target(path).write(["a"])
    assert drained(reader) == "a\n"
    os.close(reader)


@pytest.mark.parametrize("is_file", [False, True])
def test_standard_output_may_be_a_pipe_or_a_file(
    pipe: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_file: bool
) -> None:
    path = tmp_path / "out"
    with open(path, "w") if is_file else os.fdopen(os.dup(pipe[1]), "w") as out:
        monkeypatch.setattr(sys, "__stdout__", out)
        target = open_target("-")
        assert target.write(["a"]) == Outcome()
        assert target.reopened() is target
        target.close()
        out.write("b\n")
    assert (path.read_text() if is_file else drained(pipe[0])) == "a\nb\n"


def test_standard_output_that_is_closed_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    with pytest.raises(OSError, match="it is closed"):
        open_target("-")


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as server:
        server.bind(str(tmp_path / "journal"))
        server.setblocking(False)
        yield server


ENTRY = b"PRIORITY=6\nSYSLOG_IDENTIFIER=rproxy-access\nMESSAGE=%b\n"


def test_the_journal_gets_a_datagram_for_each_line(tmp_path: Path, journald: socket.socket) -> None:
    target = Journal(str(tmp_path / "journal"))
    assert target.write(["a", "b=c"]) == Outcome()
    assert [journald.recv(1000) for _ in range(2)] == [ENTRY % b"a", ENTRY % b"b=c"]
    assert target.reopened() is target
    assert target.close() == 0


def test_a_journal_that_was_restarted_is_found_again(tmp_path: Path, journald: socket.socket) -> None:
    path = tmp_path / "journal"
    target = Journal(str(path))
    journald.close()
    path.unlink()
    assert target.write(["lost", "lost, too"]) == Outcome(2, "No such file or directory")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as again:
        again.bind(str(path))
        assert target.write(["a"]) == Outcome()
        assert again.recv(1000) == ENTRY % b"a"


def test_a_journal_that_does_not_read_costs_lines(tmp_path: Path, journald: socket.socket) -> None:
    target = Journal(str(tmp_path / "journal"))
    outcome = target.write(["x" * 100] * 5000)
    assert outcome.error == "it is not read in time"
    received = 0
    with suppress(BlockingIOError):
        while journald.recv(1000):
            received += 1
    assert received == 5000 - outcome.lost
    assert target.write(["again"]) == Outcome()


def test_without_a_journal_it_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_targets, "JOURNAL_SOCKET", str(tmp_path / "none"))
    with pytest.raises(OSError, match=r"none: No such file"):
        open_target("journal")
