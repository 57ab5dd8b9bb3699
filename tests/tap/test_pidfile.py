"""Pid files: who holds one, and what is left of who does not."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from twisted.python import usage

from rproxy.tap import pidfile
from rproxy.tap.pidfile_names import name_of
from rproxy.tap.reload_report import Outcome, ReloadReport


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A file that a living process has; the lock is another open file's, as another process's would be."""
    path = tmp_path / "rproxy.pid"
    path.write_text("1234")
    descriptor = pidfile.hold(str(path))
    yield path
    os.close(descriptor)


@pytest.mark.parametrize(
    "text", ["", "1", "-1", "no number", "9" * 5000, "\0\n", pytest.param(f"{os.getpid()}", id="of this process")]
)
def test_an_unlocked_file_is_removed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rproxy.pid"
    path.write_text(text)
    pidfile.clear(str(path))
    assert not path.exists()


def test_where_there_is_no_file_none_is_made(tmp_path: Path) -> None:
    pidfile.clear(str(tmp_path / "rproxy.pid"))
    assert list(tmp_path.iterdir()) == []


def test_a_locked_file_is_left_and_its_process_reported(held: Path) -> None:
    with pytest.raises(usage.UsageError, match=rf"process 1234 runs already with the pid file {held};"):
        pidfile.clear(str(held))
    assert held.read_text() == "1234"


def test_two_cannot_hold_it(held: Path) -> None:
    with pytest.raises(usage.UsageError, match="process 1234 runs already"):
        pidfile.hold(str(held))


def test_who_ends_holds_it_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.pid"
    path.write_text("1234")
    os.close(pidfile.hold(str(path)))
    pidfile.clear(str(path))
    assert not path.exists()


def test_others_can_see_that_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.pid"
    path.touch(mode=0o600)
    os.close(pidfile.hold(str(path)))
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_regular_file_is_reported_and_left(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rproxy.pid"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = Path(os.devnull)
    with pytest.raises(usage.UsageError, match=str(path)):
        pidfile.clear(str(path))
    assert path.exists()


def test_a_link_is_removed_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "rproxy.pid"
    target.write_text("1")
    path.symlink_to(target)
    pidfile.clear(str(path))
    assert target.exists()
    assert not path.is_symlink()


def test_a_file_system_without_locks_does_not_prevent_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> NoReturn:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    path = tmp_path / "rproxy.pid"
    path.write_text("1")
    pidfile.clear(str(path))
    assert not path.exists()


class Options:
    """twistd's options, and what a command adds to them."""

    name = "rproxy"
    replaced_pidfile = ""

    def __init__(self, path: Path) -> None:
        self.parent = {"pidfile": str(path)}


def test_one_that_takes_over_gets_another_file_until_it_has(held: Path) -> None:
    options = Options(held)
    with pytest.raises(usage.UsageError, match="process 1234 runs already"):
        pidfile.own_pidfile(options)  # type: ignore[arg-type]
    pidfile.own_pidfile(options, takes_over=True)  # type: ignore[arg-type]
    assert (options.parent["pidfile"], options.replaced_pidfile) == (f"{held}.new", str(held))
    new = Path(options.parent["pidfile"])
    new.write_text("5678")
    pidfile.take_over(str(new), str(held))
    assert {path.name: path.read_text() for path in held.parent.iterdir()} == {
        "rproxy.pid": "5678",
        "rproxy.pid.old": "1234",
    }


def test_the_files_of_all_who_go_on_are_kept(tmp_path: Path) -> None:
    final, new = tmp_path / "rproxy.pid", tmp_path / "rproxy.pid.new"
    held: dict[str, int] = {}
    for text in ("1", "2", "3", "4"):
        new.write_text(text)
        held[text] = pidfile.hold(str(new))
        pidfile.take_over(str(new), str(final))
    names = {"4": "rproxy.pid", "3": "rproxy.pid.old", "2": "rproxy.pid.old.old", "1": "rproxy.pid.old.old.old"}
    assert {path.read_text(): path.name for path in tmp_path.iterdir()} == names
    assert {text: Path(name_of(str(final), each)).name for text, each in held.items()} == names
    os.close(held.pop("3"))
    new.write_text("5")
    pidfile.take_over(str(new), str(final))
    assert final.read_text() == "5"
    assert final.with_name("rproxy.pid.old").read_text() == "4"
    assert final.with_name("rproxy.pid.old.old").read_text() == "2"
    for each in held.values():
        os.close(each)


def test_a_report_of_reloads_goes_with_its_pid_file(tmp_path: Path) -> None:
    final, new = tmp_path / "rproxy.pid", tmp_path / "rproxy.pid.new"
    held, reports = [], []
    for text in ("1", "2", "3"):
        new.write_text(text)
        held.append(pidfile.hold(str(new)))
        pidfile.take_over(str(new), str(final))
        reports.append(ReloadReport(str(final)))
        reports[-1].write(0.0, Outcome(True, f"report of {text}"))
    assert {path.name: path.read_text().split()[-1] for path in tmp_path.glob("*.reload")} == {
        "rproxy.pid.reload": "3",
        "rproxy.pid.old.reload": "2",
        "rproxy.pid.old.old.reload": "1",
    }
    reports.pop(1).close()
    assert sorted(path.name for path in tmp_path.glob("*.reload")) == ["rproxy.pid.old.old.reload", "rproxy.pid.reload"]
    for report in reports:
        report.close()
    assert list(tmp_path.glob("*.reload")) == []
    for descriptor in held:
        os.close(descriptor)


def test_what_a_process_that_was_killed_reported_last_is_removed_with_its_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.pid"
    path.write_text("1234")
    os.close(ReloadReport(str(path)).descriptor)
    pidfile.clear(str(path))
    assert list(tmp_path.iterdir()) == []


def test_the_file_to_replace_is_known_from_any_folder(held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(held.parent)
    options = Options(Path(held.name))
    pidfile.own_pidfile(options, takes_over=True)  # type: ignore[arg-type]
    assert options.replaced_pidfile == str(held)


def test_what_takes_over_where_nobody_is_left_needs_no_other_file(tmp_path: Path) -> None:
    options = Options(tmp_path / "rproxy.pid")
    pidfile.own_pidfile(options, takes_over=True)  # type: ignore[arg-type]
    assert (options.parent["pidfile"], options.replaced_pidfile) == (f"{tmp_path}/rproxy.pid", "")
    new, final = tmp_path / "rproxy.pid.new", tmp_path / "rproxy.pid"
    new.write_text("5678")
    pidfile.take_over(str(new), str(final))  # the other one has ended in the meantime
    assert [path.name for path in tmp_path.iterdir()] == ["rproxy.pid"]


def test_a_held_file_is_found_under_the_name_that_it_has_now(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.pid"
    path.write_text("1234")
    descriptor = pidfile.hold(str(path))
    assert name_of(str(path), descriptor) == str(path)
    path.rename(f"{path}.old")
    path.write_text("5678")
    assert name_of(str(path), descriptor) == f"{path}.old"
    Path(f"{path}.old").unlink()
    assert name_of(str(path), descriptor) == ""
    os.close(descriptor)
