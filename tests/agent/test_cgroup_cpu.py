"""CPU times of the tightest limit of this process's cgroups, of versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.agent.cgroup_cpu import LIMITS_S, CgroupCpu, CpuLimit, cpu_limits
from rproxy.agent.cgroups import OwnCgroups
from rproxy.agent.kernel_file import UnreadableFigure
from tests.agent.cgroup_trees import CPUS, Tree

QUOTA_1 = {"cpu_cfs_period_us": 100_000}


class Machine:
    """One of `CPUS` CPUs, and a process in its cgroups."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder)
        self.now = 1000.0

    def cpu(self, *, unlimited: bool = False) -> CgroupCpu:
        return CgroupCpu(OwnCgroups(str(self.tree.proc)), lambda now: CPUS, unlimited=unlimited)

    def limit(self) -> CpuLimit | None:
        places = OwnCgroups(str(self.tree.proc)).places()
        return min(cpu_limits(places), key=lambda limit: limit.cpus, default=None)

    def path(self, name: str) -> str:
        return str(self.tree.sys / name)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def usage(usec: int) -> str:
    return f"usage_usec {usec}\nuser_usec 1\nsystem_usec 1\nnr_periods 0"


def test_the_tightest_quota_of_its_own_and_its_ancestors_counts(machine: Machine) -> None:
    machine.tree.mount_2("/a/b")
    assert machine.limit() is None
    machine.tree.cgroup("a/b", cpu_max="150000 100000")
    assert machine.limit() == CpuLimit(1.5, machine.path("a/b/cpu.stat"), True)
    machine.tree.cgroup("a", cpu_max="50000 100000")
    assert machine.limit() == CpuLimit(0.5, machine.path("a/cpu.stat"), True)
    machine.tree.cgroup("a", cpu_max="max 100000")
    assert machine.limit() == CpuLimit(1.5, machine.path("a/b/cpu.stat"), True)


def test_in_a_container_the_mount_itself_may_have_the_limit(machine: Machine) -> None:
    machine.tree.mount_2("/")
    machine.tree.cgroup("", cpu_max="200000 100000")
    assert machine.limit() == CpuLimit(2, machine.path("cpu.stat"), True)


def test_of_equal_limits_the_outermost_counts(machine: Machine) -> None:
    """A pod and its only container with a limit: the others' use is in the pod's."""
    machine.tree.mount_2("/pod/container")
    for path in ("pod", "pod/container"):
        machine.tree.cgroup(path, cpu_max="100000 100000")
    assert machine.limit() == CpuLimit(1, machine.path("pod/cpu.stat"), True)


@pytest.mark.parametrize(("cpus", "count"), [("0-1", 2), ("3", 1), ("0-1,4,6-7", 5)])
def test_the_cpus_that_it_is_confined_to_are_a_limit(machine: Machine, cpus: str, count: int) -> None:
    machine.tree.mount_2("/a")
    machine.tree.cgroup("a", cpuset_cpus_effective=cpus, cpu_max="max 100000")
    assert machine.limit() == CpuLimit(count, machine.path("a/cpu.stat"), True)
    machine.tree.cgroup("a", cpu_max="50000 100000")
    assert machine.limit() == CpuLimit(0.5, machine.path("a/cpu.stat"), True)


def test_version_1_counts_time_in_another_hierarchy(machine: Machine) -> None:
    machine.tree.mount_1("cpu", "/a/b")
    machine.tree.mount_1("cpuacct", "/a/b")
    machine.tree.mount_1("cpuset", "/a/b")
    machine.tree.cgroup("cpu/a/b", cpu_cfs_quota_us=-1, **QUOTA_1)
    assert machine.limit() is None
    machine.tree.cgroup("cpu/a", cpu_cfs_quota_us=250_000, **QUOTA_1)
    assert machine.limit() == CpuLimit(2.5, machine.path("cpuacct/a/cpuacct.usage"), False)
    machine.tree.cgroup("cpuset/a/b", cpuset_cpus="0,1")
    machine.tree.cgroup("cpuacct/a/b", cpuacct_usage=0)
    assert machine.limit() == CpuLimit(2, machine.path("cpuacct/a/b/cpuacct.usage"), False)
    machine.tree.cgroup("cpuset/a/b", cpuset_effective_cpus="1")
    assert machine.limit() == CpuLimit(1, machine.path("cpuacct/a/b/cpuacct.usage"), False)


def test_a_cpuset_of_version_1_whose_use_is_not_counted_leaves_the_machines(machine: Machine) -> None:
    machine.tree.mount_1("cpuacct", "/")
    machine.tree.mount_1("cpuset", "/job")
    machine.tree.cgroup("cpuacct", cpuacct_usage=0)
    machine.tree.cgroup("cpuset/job", cpuset_effective_cpus="0-1")
    assert machine.cpu().times(1000) is None


def test_a_quota_of_version_1_whose_use_is_not_counted_is_unreadable(machine: Machine) -> None:
    machine.tree.mount_1("cpuacct", "/")
    machine.tree.mount_1("cpu", "/a")
    machine.tree.cgroup("cpu/a", cpu_cfs_quota_us=50_000, **QUOTA_1)
    with pytest.raises(UnreadableFigure, match=r"cpuacct/a/cpuacct\.usage: No such file"):
        machine.cpu().times(1000)


def test_controllers_of_version_1_may_be_mounted_together(machine: Machine) -> None:
    machine.tree.mount_1("cpu,cpuacct", "/docker/0", "/docker/0")
    machine.tree.cgroup("cpu,cpuacct", cpu_cfs_quota_us=50_000, **QUOTA_1)
    assert machine.limit() == CpuLimit(0.5, machine.path("cpu,cpuacct/cpuacct.usage"), False)


def test_a_hybrid_machine_has_limits_of_either_version(machine: Machine) -> None:
    machine.tree.mount_1("cpu,cpuacct", "/a")
    machine.tree.mount_2("/b", below="unified")
    machine.tree.cgroup("unified/b", cpu_stat=usage(1))
    machine.tree.cgroup("cpu,cpuacct/a", cpu_cfs_quota_us=300_000, **QUOTA_1)
    assert machine.limit() == CpuLimit(3, machine.path("cpu,cpuacct/a/cpuacct.usage"), False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cpu.max", ""),
        ("cpu.max", "garbage\n"),
        ("cpu.max", "0 100000\n"),
        ("cpu.max", "100000 0\n"),
        ("cpu.max", "-1 100000\n"),
        ("cpu.max", "max\n"),
        ("cpu.max", "9" * 30 + " 1\n"),
        ("cpuset.cpus.effective", "garbage\n"),
        ("cpuset.cpus.effective", "5-2\n"),
        ("cpuset.cpus.effective", "0-\n"),
        ("cpuset.cpus.effective", "9999999999\n"),
    ],
)
def test_limits_that_make_no_sense_are_unreadable(machine: Machine, name: str, text: str) -> None:
    machine.tree.mount_2("/")
    path = machine.tree.write(f"cgroup/{name}", text)
    with pytest.raises(UnreadableFigure, match=f"{path}: "):
        machine.cpu().times(0)


@pytest.mark.parametrize(
    ("quota", "period"), [("0", "100000"), ("1", "0"), ("1", "-5"), ("x", "100000"), ("1", ""), ("9" * 40, "1")]
)
def test_limits_of_version_1_that_make_no_sense_are_unreadable(machine: Machine, quota: str, period: str) -> None:
    machine.tree.mount_1("cpu,cpuacct", "/")
    machine.tree.cgroup("cpu,cpuacct", cpu_cfs_quota_us=quota, cpu_cfs_period_us=period)
    with pytest.raises(UnreadableFigure, match=r"/cpu\.cfs_"):
        machine.cpu().times(0)


def test_an_empty_cpuset_is_no_limit(machine: Machine) -> None:
    """As in version 1 before CPUs are given to it."""
    machine.tree.mount_1("cpuset", "/")
    machine.tree.mount_1("cpuacct", "/")
    machine.tree.cgroup("cpuset", cpuset_cpus="")
    assert machine.limit() is None


def test_use_is_measured_in_what_is_allowed(machine: Machine) -> None:
    machine.tree.mount_2("/a")
    machine.tree.cgroup("a", cpu_max="50000 100000", cpu_stat=usage(7_000_000))
    cpu = machine.cpu()
    first = cpu.times(1000)
    machine.tree.cgroup("a", cpu_stat=usage(7_250_000))
    second = cpu.times(1001)
    assert first is not None
    assert second is not None
    assert (second.busy - first.busy, second.total - first.total, second.per_s) == (0.5, 1, 1)
    cpu.close()


def test_use_of_version_1_is_in_nanoseconds(machine: Machine) -> None:
    machine.tree.mount_1("cpu,cpuacct", "/a")
    machine.tree.cgroup("cpu,cpuacct/a", cpu_cfs_quota_us=200_000, cpuacct_usage=0, **QUOTA_1)
    cpu = machine.cpu()
    assert cpu.times(1000) is not None
    machine.tree.cgroup("cpu,cpuacct/a", cpuacct_usage=500_000_000)
    times = cpu.times(1001)
    assert times is not None
    assert times.busy == 0.25
    cpu.close()


@pytest.mark.parametrize("limit", ["max 100000", f"{CPUS}00000 100000", f"{2 * CPUS}00000 100000"])
def test_without_a_limit_below_the_machines_cpus_the_machine_counts(machine: Machine, limit: str) -> None:
    machine.tree.mount_2("/a")
    machine.tree.cgroup("a", cpu_max=limit, cpu_stat=usage(0), cpuset_cpus_effective=f"0-{CPUS - 1}")
    assert machine.cpu().times(0) is None


def test_without_cgroups_the_machine_counts(machine: Machine) -> None:
    assert machine.cpu().times(0) is None
    machine.tree.write("proc/self/cgroup", "0::/a\n")
    machine.tree.write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/root rw\n")
    assert machine.cpu().times(0) is None


def test_a_limit_may_change_and_end(machine: Machine) -> None:
    machine.tree.mount_2("/a")
    machine.tree.cgroup("a", cpu_max="100000 100000", cpu_stat=usage(0))
    cpu = machine.cpu()
    cpu.times(1000)
    machine.tree.cgroup("a", cpu_max="200000 100000", cpu_stat=usage(1_000_000))
    times = cpu.times(1001)
    assert times is not None
    assert times.busy == 1
    machine.tree.cgroup("a", cpu_stat=usage(3_000_000))
    times = cpu.times(1000 + LIMITS_S)
    assert times is not None
    assert times.busy == 2  # what was used before counts as it was allowed then
    machine.tree.cgroup("a", cpu_max="max 100000")
    assert cpu.times(1000 + 2 * LIMITS_S) is None
    cpu.close()


def test_a_process_that_is_moved_has_the_times_of_its_new_cgroup(machine: Machine) -> None:
    machine.tree.mount_2("/a")
    for path, used in (("a", 5), ("b", 1)):
        machine.tree.cgroup(path, cpu_max="100000 100000", cpu_stat=usage(used))
    cpu = machine.cpu()
    first = cpu.times(1000)
    machine.tree.move("/b")
    second = cpu.times(1000 + LIMITS_S)
    assert first is not None
    assert second is not None
    assert (first.of, second.of) == (machine.path("a/cpu.stat"), machine.path("b/cpu.stat"))
    cpu.close()


def test_time_that_runs_backwards_is_none(machine: Machine) -> None:
    """A cgroup of the same name has been made anew."""
    machine.tree.mount_2("/a")
    machine.tree.cgroup("a", cpu_max="100000 100000", cpu_stat=usage(9_000_000))
    cpu = machine.cpu()
    cpu.times(1000)
    machine.tree.cgroup("a", cpu_stat=usage(0))
    assert cpu.times(1001) is not None
    machine.tree.cgroup("a", cpu_stat=usage(500_000))
    times = cpu.times(1002)
    assert times is not None
    assert times.busy == 0.5
    cpu.close()


@pytest.mark.parametrize("text", [None, "", "garbage\n", "usage_usec\n", "usage_usec -1\n", "usage_usec 1"])
def test_a_limit_whose_use_cannot_be_read_is_unreadable_until_it_can(machine: Machine, text: str | None) -> None:
    machine.tree.mount_2("/a")
    machine.tree.cgroup("a", cpu_max="100000 100000")
    if text is not None:
        machine.tree.write("cgroup/a/cpu.stat", text)
    cpu = machine.cpu()
    for _ in range(2):
        with pytest.raises(UnreadableFigure, match=f"{machine.path('a/cpu.stat')}: "):
            cpu.times(1000)
    machine.tree.cgroup("a", cpu_stat=usage(0))
    assert cpu.times(1001) is not None
    cpu.close()


def test_limits_that_could_not_be_read_are_tried_again_each_time(machine: Machine) -> None:
    machine.tree.mount_2("/a")
    machine.tree.cgroup("a", cpu_max="garbage", cpu_stat=usage(0))
    cpu = machine.cpu()
    with pytest.raises(UnreadableFigure):
        cpu.times(1000)
    machine.tree.cgroup("a", cpu_max="100000 100000")
    assert cpu.times(1000.5) is not None
    cpu.close()


def test_with_no_limit_asked_for_its_own_use_is_of_the_whole_machine(machine: Machine) -> None:
    machine.tree.mount_2("/a/b")
    machine.tree.cgroup("a/b", cpu_stat=usage(0))
    cpu = machine.cpu(unlimited=True)
    cpu.times(1000)
    machine.tree.cgroup("a/b", cpu_stat=usage(CPUS * 250_000))
    times = cpu.times(1001)
    assert times is not None
    assert times.busy == 0.25
    cpu.close()


def test_on_a_hybrid_machine_that_is_version_1s(machine: Machine) -> None:
    machine.tree.mount_2("/a", below="unified")
    machine.tree.mount_1("cpu,cpuacct", "/b")
    machine.tree.cgroup("unified/a", cpu_stat=usage(0))
    machine.tree.cgroup("cpu,cpuacct/b", cpuacct_usage=0)
    times = machine.cpu(unlimited=True).times(1000)
    assert times is not None
    assert times.of == machine.path("cpu,cpuacct/b/cpuacct.usage")


def test_where_no_cgroup_is_that_is_unreadable(machine: Machine) -> None:
    with pytest.raises(UnreadableFigure, match=r"^no cgroup is mounted"):
        machine.cpu(unlimited=True).times(1000)
