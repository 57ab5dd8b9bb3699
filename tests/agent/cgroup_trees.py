"""Folders in place of /proc and /sys/fs/cgroup."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CPUS: Final = 8
MEMORY: Final = 1 << 30
"""Of the machine, in bytes."""
MB: Final = 1 << 20
NO_LIMIT_1: Final = "9223372036854771712"
"""What version 1 says for no limit of memory."""


def stat(busy: int, idle: int) -> str:
    """/proc/stat of `CPUS` CPUs, with times in ticks."""
    return f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n" + "".join(f"cpu{n} 1 0 0 1 0 0 0 0 0 0\n" for n in range(CPUS))


def meminfo(available: int) -> str:
    """/proc/meminfo with that many bytes available."""
    return f"MemTotal: {MEMORY // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n"


def pressure(full: float, some: float = 0.0) -> str:
    """A file of PSI."""
    return "".join(
        f"{kind} avg10={average:.2f} avg60=0.00 avg300=0.00 total=1\n"
        for kind, average in (("some", some), ("full", full))
    )


class Tree:
    """A machine with half of its memory available, at first without cgroups."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.sys = folder / "cgroup"
        self._lines: list[str] = []
        self._mounts = ["22 1 0:20 / / rw - ext4 /dev/root rw"]
        self.write("proc/stat", stat(0, 0))
        self.write("proc/meminfo", meminfo(MEMORY // 2))
        self.write("proc/net/snmp", "")

    def write(self, path: str, text: str) -> Path:
        """Write a file, named below this tree's folder."""
        file = self.proc.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def mount_2(self, own: str, root: str = "/", below: str = "") -> None:
        """Mount the unified hierarchy, of which `root` is visible; this process is in its cgroup `own`."""
        self._lines.append(f"0::{own}")
        self._mounts.append(f"30 22 0:30 {root} {self.sys / below} rw shared:4 - cgroup2 cgroup2 rw")
        self._write_own()

    def mount_1(self, controllers: str, own: str, root: str = "/") -> None:
        """As `mount_2`, of version 1, with `controllers` such as ``cpu,cpuacct``."""
        self._lines.append(f"{len(self._lines) + 1}:{controllers}:{own}")
        self._mounts.append(f"31 22 0:31 {root} {self.sys}/{controllers} rw - cgroup cgroup rw,{controllers}")
        self._write_own()

    def move(self, *own: str) -> None:
        """Move this process to other cgroups, of the hierarchies in the order in which they were mounted."""
        self._lines = [f"{line.rpartition(':')[0]}:{path}" for line, path in zip(self._lines, own, strict=True)]
        self._write_own()

    def cgroup(self, path: str, **files: object) -> None:
        """Write files of a cgroup, by their names with an underscore for each dot: cpu_max, memory_max."""
        for name, text in files.items():
            dotted = name.replace("_", ".", 1).replace("cpus_effective", "cpus.effective")
            self.write(f"cgroup/{path}/{dotted}", f"{text}\n")

    def memory_2(self, path: str, current: int, limit: object = "max", cache: int = 0) -> None:
        """A cgroup of version 2 that uses `current` bytes, `cache` of them for files."""
        stat = f"anon 1\nfile {cache}\ninactive_file {cache // 2}\nactive_file {cache - cache // 2}\nslab_reclaimable 0"
        self.cgroup(path, memory_max=limit, memory_current=current, memory_stat=stat)

    def memory_1(self, path: str, current: int, limit: object = NO_LIMIT_1, cache: int = 0) -> None:
        """The same of version 1."""
        stat = f"cache 1\ninactive_file 1\ntotal_inactive_file {cache // 2}\ntotal_active_file {cache - cache // 2}"
        self.cgroup(f"memory/{path}", memory_limit_in_bytes=limit, memory_usage_in_bytes=current, memory_stat=stat)

    def _write_own(self) -> None:
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in self._lines))
        self.write("proc/self/mountinfo", "".join(f"{line}\n" for line in self._mounts))
