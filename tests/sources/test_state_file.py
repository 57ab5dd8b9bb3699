from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rproxy.pool.backend import Registration
from rproxy.sources.saved.rows import Rows, Saved, encoded
from rproxy.sources.saved.state_file import BYTES_MAX, TAKEN_OVER, StateFile, StateFileError
from tests.full_disk import room_for

ROWS: Rows = {("10.0.0.1", 80): Registration(("10.0.0.1", 5555), 7, 20.0, 100)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def write(path: Path, rows: Rows = ROWS) -> None:
    StateFile(str(path)).write(list(encoded(Saved(rows), 10)))


def read(path: Path) -> Rows:
    return StateFile(str(path)).read().rows


def why_not(call: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(StateFileError) as caught:
        call(path)
    return str(caught.value)


def test_what_is_written_is_read_and_nobody_else_can(path: Path) -> None:
    assert read(path) == {}
    for rows in (ROWS, {}, ROWS):
        write(path, rows)
        assert read(path) == rows
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["state"]


def test_a_wide_file_becomes_narrow(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0o666)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    (path / "x").mkdir(parents=True)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/null")


def same(path: Path) -> list[int]:
    """All that is known of it but the time of access, which following a link changes."""
    known = os.lstat(path)
    times = (known.st_mtime_ns, known.st_ctime_ns)
    return [known.st_ino, known.st_mode, known.st_nlink, known.st_uid, known.st_gid, known.st_size, *times]


@pytest.mark.parametrize("make", [make_fifo, make_folder, make_socket, make_link_to_a_device])
def test_what_is_no_regular_file_is_neither_read_nor_replaced(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    before = same(path)
    assert why_not(read, path)
    assert why_not(write, path) == "it is no regular file"
    assert same(path) == before
    assert os.listdir(path.parent) == ["state"]


def test_a_fifo_that_somebody_writes_to_keeps_nobody_waiting(path: Path) -> None:
    make_fifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"x",), daemon=True)
    writer.start()
    assert why_not(read, path) == "it is no regular file"
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    with path.open("rb", buffering=0) if writer.is_alive() else open(os.devnull, "rb"):
        writer.join(5)


def test_a_huge_file_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(BYTES_MAX + 1)
    assert why_not(read, path) == "it is too large to be ours"
    write(path)
    assert read(path) == ROWS


def test_a_file_from_which_something_was_cut_off_is_refused(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-4])
    assert why_not(read, path) == "it is broken, or not ours"


def test_where_there_is_no_folder_nothing_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "none" / "state"
    assert read(path) == {}
    assert why_not(write, path) == "No such file or directory"


def test_what_a_crash_has_left_is_in_nobody_s_way(path: Path) -> None:
    new = path.with_name("state.new")
    new.write_bytes(b"half")
    write(path)
    assert read(path) == ROWS
    new.symlink_to(path.with_name("elsewhere"))
    write(path, {})
    assert read(path) == {}
    assert os.listdir(path.parent) == ["state"]


def test_a_folder_in_the_way_of_the_new_one_is_an_error(path: Path) -> None:
    make_folder(path.with_name("state.new"))
    assert why_not(write, path)


def test_where_a_write_fails_the_old_one_stays_whole(path: Path) -> None:
    write(path)
    many = {("10.0.0.1", port): Registration(("10.0.0.1", 5555), 7, 20.0, 100) for port in range(1, 1000)}
    with room_for(4096):
        assert why_not(lambda path: write(path, many), path) == "File too large"
    assert read(path) == ROWS
    assert os.listdir(path.parent) == ["state"]


def pieces(rows: Rows) -> list[bytes]:
    return list(encoded(Saved(rows), 10))


def test_the_last_one_to_claim_a_shared_file_keeps_it(path: Path) -> None:
    old, new = StateFile(str(path), shared=True), StateFile(str(path), shared=True)
    old.write(pieces({}))
    old.write(pieces(ROWS))
    assert new.read() == Saved(ROWS)
    for _ in range(2):
        assert why_not(lambda _: old.write(pieces({})), path) == TAKEN_OVER
    new.write(pieces(ROWS))
    assert read(path) == ROWS
    assert os.listdir(path.parent) == ["state"]


def test_one_that_is_not_there_is_claimed_as_well(path: Path) -> None:
    old, new = StateFile(str(path), shared=True), StateFile(str(path), shared=True)
    assert old.read() == Saved()
    old.write(pieces(ROWS))
    path.unlink()
    assert new.read() == Saved()
    assert why_not(lambda _: old.write(pieces(ROWS)), path) == TAKEN_OVER


def test_one_that_cannot_be_written_is_read_and_claimed_by_the_first_write(path: Path) -> None:
    old, new = StateFile(str(path), shared=True), StateFile(str(path), shared=True)
    old.write(pieces(ROWS))
    (path.parent / "state.new").mkdir()
    assert new.read() == Saved(ROWS)
    (path.parent / "state.new").rmdir()
    old.write(pieces(ROWS))
    new.write(pieces(ROWS))
    assert why_not(lambda _: old.write(pieces(ROWS)), path) == TAKEN_OVER


def test_one_that_was_removed_is_written_again(path: Path) -> None:
    file = StateFile(str(path), shared=True)
    file.write(pieces(ROWS))
    path.unlink()
    file.write(pieces(ROWS))
    assert read(path) == ROWS


def test_one_that_is_not_shared_is_replaced_whoever_wrote_it(path: Path) -> None:
    file = StateFile(str(path))
    file.write(pieces({}))
    path.write_bytes(b"an operator's")
    file.write(pieces(ROWS))
    assert read(path) == ROWS


def test_two_that_write_a_shared_file_take_turns(path: Path) -> None:
    """The second waits for the folder's lock: neither takes the other's half-written file for its own."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    writing = threading.Thread(target=StateFile(str(path), shared=True).write, args=(pieces(ROWS),), daemon=True)
    writing.start()
    writing.join(0.1)
    assert (writing.is_alive(), path.exists()) == (True, False)
    os.close(descriptor)
    writing.join(5)
    assert read(path) == ROWS
