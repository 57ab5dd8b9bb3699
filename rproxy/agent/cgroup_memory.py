"""Memory use of the cgroup whose limit is the tightest on this process: its own, or one that contains it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from rproxy.agent.cgroup_cpu import LIMITS_S
from rproxy.agent.cgroups import OwnCgroups, Place
from rproxy.agent.kernel_file import KernelFile, UnreadableFigure, read_if_there

_BYTES: Final = re.compile(rb"(max|\d{1,19})\n?")
_RECLAIMABLE: Final = re.compile(rb"^(?:inactive_file|active_file|slab_reclaimable) (\d{1,19})\n", re.MULTILINE)
_RECLAIMABLE_1: Final = re.compile(rb"^total_(?:inactive|active)_file (\d{1,19})\n", re.MULTILINE)


@attrs.frozen
class MemoryLimit:
    """How many bytes the cgroup at `folder` may use; `is_unified` is whether it is of version 2."""

    size: int
    folder: str
    is_unified: bool

    @property
    def usage(self) -> str:
        """The path of the file with the bytes in use."""
        return f"{self.folder}/{'memory.current' if self.is_unified else 'memory.usage_in_bytes'}"

    @property
    def pressure(self) -> str | None:
        """The path of its file of pressure stall information, which version 1 does not have."""
        return f"{self.folder}/memory.pressure" if self.is_unified else None


class CgroupMemory:
    """Memory of the cgroup with the lowest limit, if that is less than the host has.

    Page cache and other memory that the kernel can reclaim does not count as used, as in the host's own figure
    (MemAvailable): a service that reads files fills any limit with them. Files that are in use all the time are
    reclaimable, too; taking them away slows the service down, which is then seen as memory pressure. Kubernetes' and
    Docker's figures take off the inactive ones only, which are fewer and fewer the larger the cgroup is.

    Of several cgroups with the same limit, the outermost is taken: its use includes that of the others.
    """

    def __init__(self, own: OwnCgroups, host_memory: Callable[[float], int], *, unlimited: bool) -> None:
        """`host_memory` returns the bytes that the host has; it gets the time.

        With `unlimited`, the memory of a process without limits is that of its own cgroup, out of all that the host
        has.
        """
        self._own = own
        self._host_memory = host_memory
        self._unlimited = unlimited
        self._limit: MemoryLimit | None = None
        self._files: tuple[KernelFile[int], KernelFile[int]] | None = None
        """What is used, and what of that is reclaimable."""
        self._found_at = float("-inf")

    @property
    def limit(self) -> MemoryLimit | None:
        """The limit that applied when the percentage was last read; None if none did."""
        return self._limit

    def percentage(self, now: float) -> int | None:
        """Memory in use, 0..100; None if no limit applies: the host's is to be used. `now` is in seconds, monotonic.

        Raises `UnreadableFigure`.
        """
        if now - self._found_at >= LIMITS_S:
            self._find(now)
        if self._limit is None or self._files is None:
            return None
        used, reclaimable = (file.read(now) for file in self._files)
        return min(round(100 * max(used - reclaimable, 0) / self._limit.size), 100)

    def close(self) -> None:
        """Close the files until the percentage is read again."""
        for file in self._files or ():
            file.close()

    def _find(self, now: float) -> None:
        self._found_at = float("-inf")
        places = self._own.places()
        host = self._host_memory(now)
        limit = min(memory_limits(places), key=lambda each: each.size, default=None)
        if limit is None or limit.size >= host:
            limit = _own_memory(places, host) if self._unlimited else None
        if limit is None or self._limit is None or limit.folder != self._limit.folder:
            self.close()
            self._files = None if limit is None else _files(limit)
        self._limit, self._found_at = limit, now


def memory_limits(places: Sequence[Place]) -> Iterator[MemoryLimit]:
    """All limits of this process's cgroups, the outermost of each hierarchy first. Raises `UnreadableFigure`."""
    for place in _accounting(places):
        for folder in place.folders():
            path = f"{folder}/{'memory.max' if place.is_unified else 'memory.limit_in_bytes'}"
            size = _size(path)
            if size is not None:
                yield MemoryLimit(max(size, 1), folder, place.is_unified)


def _own_memory(places: Sequence[Place], host: int) -> MemoryLimit | None:
    """The innermost cgroup that accounts for this process's memory; None if that is the root's, which is the host.

    Raises `UnreadableFigure` if there are no cgroups of memory.
    """
    accounting = _accounting(places)
    if not accounting:
        raise UnreadableFigure("no cgroup is mounted that accounts for it")
    for place in accounting:
        for folder in reversed(place.folders()):
            limit = MemoryLimit(host, folder, place.is_unified)
            if _size(limit.usage) is not None:
                return limit
    return None


def _accounting(places: Sequence[Place]) -> list[Place]:
    return [place for place in places if place.is_unified or "memory" in place.controllers]


def _size(path: str) -> int | None:
    """The bytes in a file; None for no limit, or without that file: the controller is not enabled there."""
    text = read_if_there(path)
    if text is None:
        return None
    line = _BYTES.fullmatch(text)
    if line is None:
        raise UnreadableFigure(f"{path}: not a number of bytes")
    return None if line[1] == b"max" else int(line[1])


def _files(limit: MemoryLimit) -> tuple[KernelFile[int], KernelFile[int]]:
    pattern = _RECLAIMABLE if limit.is_unified else _RECLAIMABLE_1

    def parse_stat(text: bytes) -> int:
        found = pattern.findall(text)
        if not found:
            raise UnreadableFigure("no sizes of page cache")
        return sum(map(int, found))

    return KernelFile(limit.usage, _parse_usage), KernelFile(f"{limit.folder}/memory.stat", parse_stat)


def _parse_usage(text: bytes) -> int:
    line = _BYTES.fullmatch(text)
    if line is None or line[1] == b"max":
        raise UnreadableFigure("not a number of bytes")
    return int(line[1])
