"""Cgroups of this machine's, with limits, of the version in which it has the controllers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from tests.integration.polling import READY_S, poll
from tests.integration.twistd import shell

PERIOD_US: Final = 100_000
CONTROLLERS_1: Final = ("cpu", "cpuacct", "memory")


@attrs.frozen
class Cgroup:
    """A new cgroup; in version 1, one in each hierarchy."""

    folders: tuple[Path, ...]
    is_unified: bool

    def limit_cpu(self, cpus: float) -> None:
        quota = round(cpus * PERIOD_US)
        if self.is_unified:
            self._write("cpu.max", f"{quota} {PERIOD_US}")
        else:
            self._write("cpu.cfs_period_us", str(PERIOD_US))
            self._write("cpu.cfs_quota_us", str(quota))

    def limit_memory(self, size: int) -> None:
        self._write("memory.max" if self.is_unified else "memory.limit_in_bytes", str(size))

    @property
    def wrapper(self) -> list[str]:
        """What moves a command into it."""
        return shell(" && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in self.folders))

    def _write(self, name: str, text: str) -> None:
        (folder,) = [folder for folder in self.folders if (folder / name).exists()]
        (folder / name).write_text(text)

    def _remove(self) -> None:
        for folder in self.folders:
            poll(lambda each=folder: _removed(each), READY_S, f"{folder} is empty", every_s=0.05)  # type: ignore[misc]


@contextmanager
def new_cgroup(name: str) -> Iterator[Cgroup]:
    """A cgroup without processes, removed at the end, when all of its processes must have ended.

    Skips the test where none can be made: without root, or where controllers cannot be used.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    cgroup = _unified(mounts, name) or _version_1(mounts, name)
    if cgroup is None:
        pytest.skip("needs root and a machine whose cgroups limit CPU and memory")
    try:
        for folder in cgroup.folders:
            folder.mkdir()
        yield cgroup
    finally:
        cgroup._remove()


def _unified(mounts: list[list[str]], name: str) -> Cgroup | None:
    for _, mount, kind, *_ in mounts:
        control = Path(mount) / "cgroup.subtree_control"
        if kind == "cgroup2" and os.access(control, os.W_OK):
            available = (Path(mount) / "cgroup.controllers").read_text().split()
            if {"cpu", "memory"} <= set(available):
                control.write_text("+cpu +memory")
                return Cgroup((Path(mount) / name,), is_unified=True)
    return None


def _version_1(mounts: list[list[str]], name: str) -> Cgroup | None:
    found = {
        controller: Path(mount) / name
        for _, mount, kind, options, *_ in mounts
        if kind == "cgroup" and os.access(mount, os.W_OK)
        for controller in CONTROLLERS_1
        if controller in options.split(",")
    }
    folders = tuple(dict.fromkeys(found.values()))
    return Cgroup(folders, is_unified=False) if found.keys() == set(CONTROLLERS_1) else None


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # a process that has ended is still in it for a moment
        return False
    return True
