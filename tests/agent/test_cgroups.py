"""Where a process is in hierarchies of cgroups, of both versions, in containers and out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.agent.cgroups import OwnCgroups, Place, places
from rproxy.agent.kernel_file import UnreadableFigure

UNIFIED = b"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = b"22 1 8:1 / / rw - ext4 /dev/root rw\n28 22 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
VERSION_1 = (
    OTHERS + b"31 28 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    b"32 28 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    b"33 28 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def unified(root: str, mount: str = "/sys/fs/cgroup") -> bytes:
    return OTHERS + f"30 23 0:26 {root} {mount} rw - cgroup2 cgroup2 rw\n".encode()


def test_a_service_of_systemd_sees_its_slices_outermost_first() -> None:
    (place,) = places(b"0::/system.slice/web.service\n", OTHERS + UNIFIED)
    assert place == Place("/sys/fs/cgroup", ("system.slice", "web.service"))
    assert place.is_unified
    assert place.folders() == [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/system.slice",
        "/sys/fs/cgroup/system.slice/web.service",
    ]


@pytest.mark.parametrize(
    ("own", "root", "path"),
    [
        ("/", "/", ()),  # a container with a cgroup namespace, as they are today
        ("/docker/0123", "/docker/0123", ()),  # one without
        ("/docker/0123/inner", "/docker/0123", ("inner",)),
        ("/", "/..", ()),  # a namespace, and a mount made outside of it, which shows the parent
        ("/inner", "/../..", ()),
        ("/../neighbour", "/..", ("neighbour",)),
        ("/../neighbour", "/../..", ()),
    ],
)
def test_what_is_mounted_in_a_container_may_begin_anywhere(own: str, root: str, path: tuple[str, ...]) -> None:
    assert places(f"0::{own}\n".encode(), unified(root)) == (Place("/sys/fs/cgroup", path),)


@pytest.mark.parametrize(
    ("own", "root"), [("/../neighbour", "/"), ("/docker/0123", "/docker/0"), ("/", "/docker/0123"), ("/a", "/../b")]
)
def test_a_cgroup_that_is_not_below_the_mount_is_not_visible(own: str, root: str) -> None:
    assert places(f"0::{own}\n".encode(), unified(root)) == ()


def test_version_1_has_a_place_for_each_hierarchy() -> None:
    cgroup = b"4:memory:/web\n3:cpu,cpuacct:/web/worker\n2:freezer:/\n1:name=systemd:/user.slice\n"
    assert {place.controllers: place.folders()[-1] for place in places(cgroup, VERSION_1)} == {
        frozenset({"memory"}): "/sys/fs/cgroup/memory/web",
        frozenset({"cpu", "cpuacct"}): "/sys/fs/cgroup/cpu,cpuacct/web/worker",
        frozenset({"name=systemd"}): "/sys/fs/cgroup/systemd/user.slice",
    }


def test_a_hybrid_host_has_places_of_both_versions() -> None:
    mountinfo = VERSION_1 + b"34 28 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    found = places(b"1:memory:/a\n0::/b\n", mountinfo)
    assert [place.is_unified for place in found] == [False, True]
    assert found[1] == Place("/sys/fs/cgroup/unified", ("b",))


def test_of_several_mounts_the_one_that_shows_most_is_taken() -> None:
    mountinfo = unified("/a/b", "/part") + unified("/", "/all") + unified("/a", "/more")
    assert places(b"0::/a/b\n", mountinfo) == (Place("/all", ("a", "b")),)


def test_a_mount_over_another_hides_it() -> None:
    hidden = unified("/") + b"40 23 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    assert places(b"0::/a\n", hidden) == ()
    assert places(b"0::/a\n", hidden + unified("/", "/elsewhere")) == (Place("/elsewhere", ("a",)),)


def test_spaces_and_other_bytes_in_paths() -> None:
    mountinfo = unified("/", "/mnt/my\\040groups").replace(b"my", b"m\xff")
    (place,) = places("0::/a: b\u2028c\n".encode(), mountinfo)
    assert place.folders()[-1].encode(errors="surrogateescape") == "/mnt/m\udcff groups/a: b\u2028c".encode(
        errors="surrogateescape"
    )


@pytest.mark.parametrize(
    "garbage", [b"", b"\n", b"garbage\n", b"::\n", b"1:2\n", b"\xff\x00", b" - cgroup2 x y\n", b" - \n"]
)
def test_lines_of_another_form_are_ignored(garbage: bytes) -> None:
    assert places(garbage, OTHERS + UNIFIED)[1:] == ()
    assert places(b"0::/\n", garbage) == ()
    assert places(garbage + b"\n0::/a\n", garbage + b"\n" + UNIFIED)[-1] == Place("/sys/fs/cgroup", ("a",))


def test_places_follow_the_process_and_mounts_are_read_only_then(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    own, mounts = tmp_path / "self" / "cgroup", tmp_path / "self" / "mountinfo"
    cgroups = OwnCgroups(str(tmp_path))
    assert cgroups.places() == ()
    own.write_bytes(b"0::/a\n")
    with pytest.raises(UnreadableFigure, match="mountinfo: No such file"):
        cgroups.places()
    mounts.write_bytes(UNIFIED)
    assert cgroups.places() == (Place("/sys/fs/cgroup", ("a",)),)
    mounts.unlink()
    assert cgroups.places() == (Place("/sys/fs/cgroup", ("a",)),)
    mounts.write_bytes(UNIFIED)
    own.write_bytes(b"0::/b\n")
    assert cgroups.places() == (Place("/sys/fs/cgroup", ("b",)),)
