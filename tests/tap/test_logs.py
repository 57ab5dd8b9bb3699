"""Where the log goes, and what does not hold it up."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel
from twisted.python import log as legacy

from rproxy.tap import logs
from rproxy.tap.logs import Observer, RotatingFile, Stream, open_file, standard_output
from tests.fakes import logged

LINE = "x" * 99 + "\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def drained(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    data = b""
    try:
        while chunk := os.read(descriptor, 1 << 20):
            data += chunk
    except BlockingIOError:
        pass
    return data.decode()


def test_an_unread_pipe_does_not_block_and_lost_lines_are_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = Stream(writer)
    for _ in range(2000):
        stream.write(LINE)
    taken = drained(reader)
    assert set(taken.splitlines(keepends=True)) == {LINE}
    lost = 2000 - len(taken) // len(LINE)
    assert lost > 1000
    stream.write("again\n")
    stream.write("and again\n")
    assert drained(reader) == f"({lost} log entries are lost: they were not read in time)\nagain\nand again\n"


def test_others_who_have_the_pipe_go_on_waiting(pipe: tuple[int, int]) -> None:
    Stream(pipe[1])
    assert os.get_blocking(pipe[1])


def test_a_pipe_that_cannot_be_reopened_does_not_block_either(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "reopened_nonblocking", lambda descriptor: descriptor)
    stream = Stream(pipe[1])
    for _ in range(2000):
        stream.write(LINE)
    assert len(drained(pipe[0])) > 10_000


def test_an_entry_longer_than_a_piece_is_written_whole(pipe: tuple[int, int]) -> None:
    Stream(pipe[1]).write(LINE * 200)
    assert drained(pipe[0]) == LINE * 200


def test_an_unread_socket_does_not_block() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(ours.fileno())
        for _ in range(100_000):
            stream.write(LINE)
        taken = drained(theirs.fileno())
    assert 1000 < len(taken) < 100_000 * len(LINE)
    assert set(taken.splitlines(keepends=True)) == {LINE}


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    stream = Stream(writer)
    path = f"/dev/fd/{writer}"
    os.close(reader)
    stream.write(LINE)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    stream.write("again\n")
    assert drained(reader) == "(1 log entries are lost: they were not read in time)\nagain\n"
    os.close(reader)
    os.close(writer)


def test_what_is_no_text_is_written_with_escapes(pipe: tuple[int, int]) -> None:
    Stream(pipe[1]).write("\udcff\n")
    assert drained(pipe[0]) == "\\udcff\n"


def test_standard_output_that_is_a_file_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tmp_path.joinpath("log").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert standard_output() is file


def test_standard_output_that_is_closed_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    out = standard_output()
    out.write(LINE)
    assert not isinstance(out, Stream)
    assert out.name == os.devnull


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def file_at(path: Path) -> RotatingFile:
    file = open_file(str(path))
    assert isinstance(file, RotatingFile)
    return file


def test_a_log_is_rotated_when_it_is_long_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "ROTATE_BYTES", 250)
    path = tmp_path / "log"
    file = file_at(path)
    for _ in range(5):
        file.write(LINE)
    assert [len(lines(tmp_path / name)) for name in ("log.1", "log")] == [3, 2]


@pytest.mark.parametrize("recreated", [False, True])
def test_a_log_that_was_moved_is_begun_anew(tmp_path: Path, recreated: bool) -> None:
    path = tmp_path / "log"
    file = file_at(path)
    file.write("one\n")
    path.rename(tmp_path / "old")
    if recreated:
        path.touch()
    file.write("two\n")
    file.rotate()
    file.write("three\n")
    assert (lines(tmp_path / "old"), lines(path)) == (["one", "two"], ["three"])
    assert not tmp_path.joinpath("log.1").exists()


def test_two_processes_do_not_overwrite_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    old, new = file_at(path), file_at(path)
    for file, text in ((old, "one"), (new, "two"), (old, "three"), (new, "four")):
        file.write(f"{text}\n")
    assert lines(path) == ["one", "two", "three", "four"]


def test_a_log_that_cannot_be_renamed_goes_on_and_is_not_tried_at_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "ROTATE_BYTES", 250)
    tried: list[Any] = []

    def refused(*names: str) -> None:
        tried.append(names)
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "log"
    file = file_at(path)
    monkeypatch.setattr(os, "rename", refused)
    for _ in range(12):
        file.write(LINE)
    assert len(lines(path)) == 12
    assert 1 <= len(tried) <= 5


def test_opening_an_unread_fifo_fails(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device"):
        open_file(str(tmp_path / "fifo"))


def test_twisteds_word_on_a_port_is_left_out_and_everything_else_is_written(pipe: tuple[int, int]) -> None:
    observer = Observer(Stream(pipe[1]))
    with logged() as events:
        for text in ("QuietSite starting on 80", "<class 'x'> starting on '/run/x'", "(TCP Port 80 Closed)"):
            legacy.msg(text)
        Logger("rproxy.x").emit(LogLevel.info, "service starting on 8000")
    for event in events:
        observer(event)
    written = [line.partition("] ")[2] for line in drained(pipe[0]).splitlines()]
    assert written == ["(TCP Port 80 Closed)", "service starting on 8000"]
