"""CPU quotas and weights of groups of processes, by cgroups v1 or v2 (Linux, Documentation/admin-guide/cgroup-v*)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from tests.integration.twistd import shell

PERIOD_US: Final = 10_000
"""A tenth of the kernel's default, so that a host which has used up its quota pauses for ms, and not for 0.1 s."""
WEIGHT: Final = 100
"""By that of other groups. The hosts are to get their quota though this machine has other work."""
_SHARES: Final = 1024
"""The weight of a group by default in v1; in v2 it is 100."""
_PATIENCE_S: Final = 5.0
"""Within it the processes of a group have ended after SIGKILL."""


class NoCgroups(Exception):
    """This machine has no CPU controller that can be used. The text says why."""


@attrs.frozen
class Group:
    """A cgroup. It is in one folder in v2, in those of the controllers cpu and cpuacct in v1."""

    folders: Sequence[Path]

    @property
    def _is_v2(self) -> bool:
        return (self.folders[0] / "cgroup.controllers").exists()

    @property
    def usage(self) -> Path:
        """The file that tells the CPU time, see `usage_s`."""
        return self.folders[0] / "cpu.stat" if self._is_v2 else self.folders[-1] / "cpuacct.usage"

    def limit(self, quota: float) -> None:
        """Limit the group to `quota` cores."""
        quota_us = round(quota * PERIOD_US)
        if self._is_v2:
            self.folders[0].joinpath("cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            self.folders[0].joinpath("cpu.cfs_period_us").write_text(f"{PERIOD_US}")
            self.folders[0].joinpath("cpu.cfs_quota_us").write_text(f"{quota_us}")

    def weigh(self, weight: int) -> None:
        """Give the group `weight` times the CPU of others where CPU is short."""
        if self._is_v2:
            self.folders[0].joinpath("cpu.weight").write_text(f"{100 * weight}")
        else:
            self.folders[0].joinpath("cpu.shares").write_text(f"{_SHARES * weight}")

    @property
    def joining(self) -> list[str]:
        """The start of a command line that runs in the group, as that very process."""
        return shell(" && ".join(f"echo $$ >{folder}/cgroup.procs" for folder in self.folders))

    def child(self, name: str) -> Group:
        """A new group within this one."""
        if self._is_v2:
            self.folders[0].joinpath("cgroup.subtree_control").write_text("+cpu")
        return _made([folder / name for folder in self.folders])

    def remove(self) -> None:
        """Kill all processes in the group, and remove it. Its children must have been removed."""
        deadline = time.monotonic() + _PATIENCE_S
        for folder in self.folders:
            while pids := _pids(folder):
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{folder}: processes {pids} do not end")
                time.sleep(0.01)
            folder.rmdir()


def _pids(folder: Path) -> list[int]:
    return [int(pid) for pid in folder.joinpath("cgroup.procs").read_text().split()]


def usage_s(path: Path) -> float:
    """The CPU time in s that the group with this `Group.usage` has used."""
    text = path.read_text()
    if text.startswith("usage_usec "):
        return int(text.split(None, 2)[1]) / 1e6
    return int(text) / 1e9


def new_group(name: str, mounts: Path = Path("/proc/self/mounts")) -> Group:
    """A group at the top of this machine's hierarchy. Raises `NoCgroups`."""
    folders = roots(mounts.read_text())
    if not folders:
        raise NoCgroups("no CPU controller of cgroups is mounted")
    try:
        return Group(folders).child(name)
    except OSError as error:
        raise NoCgroups(f"cgroups with CPU quotas cannot be made: {error}") from error


def roots(mounts: str) -> list[Path]:
    """The folders in which a group is made: that of v2 if it has the CPU controller, or those of cpu and cpuacct."""
    v1: dict[str, Path] = {}
    for line in mounts.splitlines():
        _, folder, kind, options, *_ = line.split()
        path = Path(folder)
        if kind == "cgroup2" and "cpu" in path.joinpath("cgroup.controllers").read_text().split():
            return [path]
        if kind == "cgroup":
            v1.update(dict.fromkeys({"cpu", "cpuacct"}.intersection(options.split(",")), path))
    return list(dict.fromkeys([v1["cpu"], v1["cpuacct"]])) if len(v1) == 2 else []


def _made(folders: Sequence[Path]) -> Group:
    """The new folders' group. Nothing is left behind if one of them cannot be made."""
    made: list[Path] = []
    try:
        for folder in folders:
            folder.mkdir()
            made.append(folder)
    except BaseException:
        for folder in made:
            folder.rmdir()
        raise
    return Group(folders)
