"""Files that are kept open: what is read is always what is there, or unreadable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rproxy.agent.kernel_file import REOPEN_S, KernelFile, MissingFile, UnreadableFigure, read_file

NOW = 1000.0


def parse(text: bytes) -> int:
    if not text.strip().isdigit():
        raise UnreadableFigure("not a number")
    return int(text)


def opened() -> set[str]:
    return set(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "figure"
    path.write_text("5\n")
    return path


@pytest.fixture
def file(path: Path) -> Iterator[KernelFile[int]]:
    before = opened()
    file = KernelFile(str(path), parse)
    yield file
    file.close()
    assert opened() == before


def test_it_is_opened_once_and_read_anew_each_time(
    file: KernelFile[int], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file.read(NOW) == 5
    monkeypatch.setattr(os, "open", None)
    for number in (6, 77, 8):
        path.write_text(f"{number}\n")
        assert file.read(NOW) == number


def test_another_file_in_its_place_is_read_after_some_seconds(file: KernelFile[int], path: Path) -> None:
    assert file.read(NOW) == 5
    path.with_suffix(".new").write_text("6\n")
    path.with_suffix(".new").rename(path)
    assert file.read(NOW + REOPEN_S - 0.1) == 5
    assert file.read(NOW + REOPEN_S) == 6


def test_one_that_no_longer_makes_sense_is_opened_again_at_once(file: KernelFile[int], path: Path) -> None:
    assert file.read(NOW) == 5
    with path.open("w") as old:
        old.write("garbage")
    path.with_suffix(".new").write_text("6\n")
    path.with_suffix(".new").rename(path)
    assert file.read(NOW) == 6


def test_one_that_can_no_longer_be_read_is_opened_again_at_once(file: KernelFile[int], path: Path) -> None:
    assert file.read(NOW) == 5
    descriptor = os.open("/proc/self/mem", os.O_RDONLY)
    os.dup2(
        descriptor,
        max(
            int(name)
            for name in opened()
            if os.path.exists(f"/proc/self/fd/{name}") and os.readlink(f"/proc/self/fd/{name}") == str(path)
        ),
    )
    os.close(descriptor)
    assert file.read(NOW) == 5


def test_what_is_unreadable_is_not_kept_open(file: KernelFile[int], path: Path) -> None:
    """It could not be unmounted."""
    path.write_text("garbage")
    before = opened()
    for _ in range(2):
        with pytest.raises(UnreadableFigure, match=f"^{path}: not a number$"):
            file.read(NOW)
    assert opened() == before
    path.write_text("6")
    assert file.read(NOW) == 6


def test_a_missing_file_is_told_apart_and_found_as_soon_as_it_is_there(file: KernelFile[int], path: Path) -> None:
    path.unlink()
    with pytest.raises(MissingFile, match=f"^{path}: No such file or directory$"):
        file.read(NOW)
    path.write_text("6")
    assert file.read(NOW) == 6


def test_texts_of_any_size_are_read(file: KernelFile[int], path: Path) -> None:
    for size in (4095, 4096, 4097, 100_000, 3):
        path.write_text("1".rjust(size))
        assert file.read(NOW) == 1


def test_a_closed_file_is_opened_again(file: KernelFile[int]) -> None:
    assert file.read(NOW) == 5
    file.close()
    file.close()
    assert file.read(NOW) == 5


def test_a_file_that_is_read_once_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"x" * 200_000)
    before = opened()
    assert read_file(str(path)) == b"x" * 200_000
    with pytest.raises(MissingFile):
        read_file(str(tmp_path / "nothing"))
    with pytest.raises(UnreadableFigure, match="directory"):
        read_file(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableFigure, match="pipe: not a regular file"):
        read_file(str(tmp_path / "pipe"))
    assert opened() == before
