"""Memory of the tightest limit of this process's cgroups, of versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.agent.cgroup_cpu import LIMITS_S
from rproxy.agent.cgroup_memory import CgroupMemory
from rproxy.agent.cgroups import OwnCgroups
from rproxy.agent.kernel_file import UnreadableFigure
from tests.agent.cgroup_trees import MB, MEMORY, Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def memory(tree: Tree, *, unlimited: bool = False) -> CgroupMemory:
    return CgroupMemory(OwnCgroups(str(tree.proc)), lambda now: MEMORY, unlimited=unlimited)


def percentage(tree: Tree, *, unlimited: bool = False) -> int | None:
    read = memory(tree, unlimited=unlimited)
    found = read.percentage(1000)
    read.close()
    return found


def test_the_tightest_limit_of_its_own_and_its_ancestors_counts(tree: Tree) -> None:
    tree.mount_2("/a/b")
    tree.memory_2("a", 60 * MB)
    tree.memory_2("a/b", 20 * MB, 100 * MB)
    assert percentage(tree) == 20
    tree.memory_2("a", 60 * MB, 80 * MB)
    assert percentage(tree) == 75
    tree.memory_2("a/b", 20 * MB, 80 * MB)
    assert percentage(tree) == 75  # the outermost of equal ones
    tree.memory_2("a/b", 20 * MB, 40 * MB)
    assert percentage(tree) == 50


def test_the_same_in_version_1(tree: Tree) -> None:
    tree.mount_1("memory", "/a/b")
    tree.memory_1("a", 60 * MB, 80 * MB)
    tree.memory_1("a/b", 20 * MB)
    assert percentage(tree) == 75
    tree.memory_1("a/b", 20 * MB, 40 * MB)
    assert percentage(tree) == 50


def test_page_cache_does_not_count_as_used(tree: Tree) -> None:
    tree.mount_2("/")
    tree.memory_2("", 100 * MB, 100 * MB, cache=90 * MB)
    assert percentage(tree) == 10
    tree.memory_2("", 100 * MB, 100 * MB, cache=200 * MB)  # read a moment later
    assert percentage(tree) == 0


def test_nor_does_it_in_version_1(tree: Tree) -> None:
    tree.mount_1("memory", "/docker/0", "/docker/0")
    tree.memory_1("", 100 * MB, 100 * MB, cache=60 * MB)
    assert percentage(tree) == 40


def test_more_than_the_limit_is_all_of_it(tree: Tree) -> None:
    """The kernel lets it be exceeded for a moment, and a limit may be lowered below what is used, even to 0."""
    tree.mount_2("/")
    tree.memory_2("", 101 * MB, 100 * MB)
    assert percentage(tree) == 100
    tree.memory_2("", 1, 0)
    assert percentage(tree) == 100


@pytest.mark.parametrize("limit", ["max", MEMORY, 2 * MEMORY, 9223372036854771712])
def test_without_a_limit_below_the_machines_memory_the_machine_counts(tree: Tree, limit: object) -> None:
    tree.mount_2("/a")
    tree.memory_2("a", 20 * MB, limit)
    assert percentage(tree) is None
    assert memory(tree).limit is None


def test_without_the_controller_or_without_cgroups_the_machine_counts(tree: Tree) -> None:
    assert percentage(tree) is None
    tree.mount_1("cpu", "/a")
    tree.mount_2("/a")
    assert percentage(tree) is None


def test_a_limit_may_change_and_end_and_the_process_may_move(tree: Tree) -> None:
    tree.mount_2("/a")
    tree.memory_2("a", 20 * MB, 40 * MB)
    tree.memory_2("b", 30 * MB, 300 * MB)
    read = memory(tree)
    assert read.percentage(1000) == 50
    tree.memory_2("a", 20 * MB, 80 * MB)
    assert read.percentage(1000 + LIMITS_S - 1) == 50
    assert read.percentage(1000 + LIMITS_S) == 25
    tree.move("/b")
    assert read.percentage(1000 + 2 * LIMITS_S) == 10
    tree.memory_2("b", 30 * MB)
    assert read.percentage(1000 + 3 * LIMITS_S) is None
    read.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.max", ""),
        ("memory.max", "-1\n"),
        ("memory.max", "garbage\n"),
        ("memory.max", "9" * 30 + "\n"),
        ("memory.current", ""),
        ("memory.current", "max\n"),
        ("memory.current", "1 2\n"),
        ("memory.stat", ""),
        ("memory.stat", "garbage\n"),
        ("memory.stat", "inactive_file -1\n"),
    ],
)
def test_files_that_make_no_sense_are_unreadable(tree: Tree, name: str, text: str) -> None:
    tree.mount_2("/a")
    tree.memory_2("a", 20 * MB, 40 * MB)
    path = tree.write(f"cgroup/a/{name}", text)
    read = memory(tree)
    for _ in range(2):
        with pytest.raises(UnreadableFigure, match=f"{path}: "):
            read.percentage(1000)
    tree.memory_2("a", 20 * MB, 40 * MB)
    assert read.percentage(1001) == 50
    read.close()


@pytest.mark.parametrize("name", ["memory.current", "memory.stat"])
def test_a_limit_without_its_other_files_is_unreadable(tree: Tree, name: str) -> None:
    tree.mount_2("/a")
    tree.memory_2("a", 20 * MB, 40 * MB)
    (tree.sys / "a" / name).unlink()
    with pytest.raises(UnreadableFigure, match=f"{name}: No such file"):
        percentage(tree)


def test_with_no_limit_asked_for_its_own_use_is_of_the_whole_machine(tree: Tree) -> None:
    """The innermost cgroup that has its memory counted: the controller may not be enabled further down."""
    tree.mount_2("/a/b")
    tree.memory_2("a", MEMORY // 4)
    assert percentage(tree, unlimited=True) == 25
    tree.memory_2("a/b", MEMORY // 10)
    assert percentage(tree, unlimited=True) == 10
    tree.memory_2("a/b", MEMORY // 10, MEMORY // 5)
    assert percentage(tree, unlimited=True) == 50


def test_the_root_of_all_cgroups_is_the_machine(tree: Tree) -> None:
    tree.mount_2("/")
    assert percentage(tree, unlimited=True) is None


def test_where_no_cgroup_is_that_is_unreadable(tree: Tree) -> None:
    with pytest.raises(UnreadableFigure, match=r"^no cgroup is mounted"):
        percentage(tree, unlimited=True)


def test_version_2_alone_has_a_file_of_pressure(tree: Tree) -> None:
    tree.mount_2("/a", below="unified")
    tree.mount_1("memory", "/b")
    tree.memory_1("b", 20 * MB, 40 * MB)
    read = memory(tree)
    read.percentage(1000)
    assert read.limit is not None
    assert read.limit.pressure is None
    tree.memory_2("unified/a", 20 * MB, 30 * MB)
    read.percentage(1000 + LIMITS_S)
    assert read.limit.pressure == str(tree.sys / "unified/a/memory.pressure")
    read.close()
