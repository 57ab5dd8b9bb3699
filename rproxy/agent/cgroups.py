"""Which cgroups this process is in, and where their files are (cgroups(7), proc(5)).

There are two versions: one unified hierarchy of all controllers (version 2), and one hierarchy for each controller or
few of them (version 1). A host may use both, each controller in one of them.
"""

from __future__ import annotations

import os
import re
from typing import Final

import attrs

from rproxy.agent.kernel_file import read_file, read_if_there

_ABOVE: Final = ".."
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
"""How mountinfo writes spaces and the like in paths."""


@attrs.frozen
class Place:
    """Where this process is in one hierarchy.

    `mount` is the folder where the hierarchy is mounted, `path` the names of the folders from there to this process's
    own cgroup: nothing above `mount` is visible, as in a container. `controllers` is empty for version 2.
    """

    mount: str
    path: tuple[str, ...] = ()
    controllers: frozenset[str] = frozenset()

    @property
    def is_unified(self) -> bool:
        """Whether it is of version 2."""
        return not self.controllers

    def folders(self) -> list[str]:
        """Of its own cgroup and of all of its visible ancestors, outermost first."""
        return [os.path.join(self.mount, *self.path[:depth]) for depth in range(len(self.path) + 1)]


class OwnCgroups:
    """This process's places, read again when asked: it may be moved to other cgroups at any time."""

    def __init__(self, proc: str) -> None:
        """`proc` is the folder where /proc is mounted."""
        self._cgroup = f"{proc}/self/cgroup"
        self._mountinfo = f"{proc}/self/mountinfo"
        self._text: bytes | None = None
        """Of which `_places` are made. Mounts, of which there may be thousands, are read only if it has changed."""
        self._places: tuple[Place, ...] = ()

    def places(self) -> tuple[Place, ...]:
        """One for each hierarchy that is mounted; empty without cgroups. Raises `UnreadableFigure`."""
        text = read_if_there(self._cgroup)
        if text is None:
            return ()
        if text != self._text:
            self._places = places(text, read_file(self._mountinfo))
            self._text = text
        return self._places


def places(cgroup: bytes, mountinfo: bytes) -> tuple[Place, ...]:
    """The places that are in the texts of /proc/self/cgroup and /proc/self/mountinfo; lines of other forms are ignored.

    A hierarchy may be mounted several times, or only a part of it: the mount that shows most is taken.
    """
    mounts = _mounts(mountinfo)
    found = []
    for line in os.fsdecode(cgroup).split("\n"):
        _, _, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if not colon:
            continue
        controllers = frozenset(filter(None, names.split(",")))
        below = [
            Place(mount.folder, inner, controllers)
            for mount in mounts
            if mount.controllers & controllers or (mount.is_unified and not controllers)
            if (inner := _below(mount.root, path)) is not None
        ]
        if below:
            found.append(max(below, key=lambda place: len(place.path)))
    return tuple(found)


@attrs.frozen
class _Mount:
    folder: str
    root: str
    """The cgroup that is at `folder`, relative to the root of this process's cgroup namespace."""
    controllers: frozenset[str]
    """Empty for version 2."""
    is_unified: bool


def _mounts(mountinfo: bytes) -> list[_Mount]:
    """The mounts of cgroups. One that is hidden by a later one on the same folder is left out."""
    found: dict[str, _Mount] = {}
    for line in os.fsdecode(mountinfo).split("\n"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, folder = (_ESCAPED.sub(_unescaped, field) for field in fields[3:5])
        found.pop(folder, None)
        if kind[0] in ("cgroup", "cgroup2"):
            is_unified = kind[0] == "cgroup2"
            controllers = frozenset() if is_unified else frozenset(kind[2].split(","))
            found[folder] = _Mount(folder, root, controllers, is_unified)
    return list(found.values())


def _unescaped(code: re.Match[str]) -> str:
    return chr(int(code[1], 8))


def _below(root: str, path: str) -> tuple[str, ...] | None:
    """The names from the cgroup `root` down to `path`; None if it is not below `root` or they are not visible.

    Both are relative to the root of the cgroup namespace, and may be above it: ``/..`` is its parent.
    """
    above, own = _names(root), _names(path)
    if own[: len(above)] == above:
        inner = own[len(above) :]
    elif set(above) == {_ABOVE}:
        return ()  # the mount shows an ancestor; the names from there down to this process's cgroup are not visible
    else:
        return None
    return None if _ABOVE in inner else inner


def _names(path: str) -> tuple[str, ...]:
    return tuple(name for name in path.split("/") if name)
