"""Which figures are the cgroup's, and which the host's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from rproxy.agent.cgroup_cpu import LIMITS_S
from rproxy.agent.memory_pressure import PRESSURE_S
from rproxy.agent.sampler import MEMORY_INTERVAL_S, HostSampler, Load
from rproxy.agent.scope import Scope, ScopedFigures
from rproxy.config.model import AUTO_SCOPE, CGROUP_SCOPE, HOST_SCOPE
from tests.agent.cgroup_trees import CPUS, MB, Tree, meminfo, pressure, stat
from tests.fakes import logged, texts

HOST = Load(25, 50, None)
"""What the machine itself reports here."""


class Machine:
    """One that is a quarter busy, and a service in a cgroup that uses half of a CPU."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder)
        self.clock = Clock()
        self.clock.advance(1000)
        self.sampler: HostSampler | None = None
        self._spend(0)

    def load(self, scope: Scope, after_s: float = 1.0) -> Load:
        """What is reported when that time has passed since the sampler was made, or last asked."""
        if self.sampler is None:
            self.sampler = HostSampler(self.clock.seconds, ScopedFigures(scope, str(self.tree.proc)))
        self.clock.advance(after_s)
        self._spend(self.clock.seconds() - 1000)
        return self.sampler.sample()

    def _spend(self, seconds: float) -> None:
        ticks = int(seconds * 100 * CPUS)
        self.tree.write("proc/stat", stat(ticks // 4, ticks - ticks // 4))
        self.tree.cgroup("a", cpu_stat=f"usage_usec {int(seconds * 500_000)}\nuser_usec 0")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    if machine.sampler is not None:
        machine.sampler.close()


def limit(machine: Machine, cpu: str = "max 100000", memory: object = "max") -> None:
    machine.tree.cgroup("a", cpu_max=cpu)
    machine.tree.memory_2("a", 30 * MB, memory)


def test_the_scopes_are_those_of_the_option() -> None:
    assert {scope.value for scope in Scope} == {HOST_SCOPE, CGROUP_SCOPE, AUTO_SCOPE}


@pytest.mark.parametrize(
    ("scope", "cpu", "memory"), [(Scope.HOST, 25, 50), (Scope.AUTO, 100, 30), (Scope.CGROUP, 100, 30)]
)
def test_a_cgroup_with_limits_has_figures_of_its_own(machine: Machine, scope: Scope, cpu: int, memory: int) -> None:
    machine.tree.mount_2("/a")
    limit(machine, "50000 100000", 100 * MB)
    assert machine.load(scope) == Load(cpu, memory, None)


def test_figures_are_the_cgroups_one_by_one(machine: Machine) -> None:
    machine.tree.mount_2("/a")
    limit(machine, "200000 100000")
    assert machine.load(Scope.AUTO) == Load(25, 50, None)
    limit(machine, memory=100 * MB)
    machine.load(Scope.AUTO, LIMITS_S)
    assert machine.load(Scope.AUTO) == Load(25, 30, None)


def test_use_of_more_than_the_quota_is_all_of_it(machine: Machine) -> None:
    """Bursts, and what is used just after a quota was lowered."""
    machine.tree.mount_2("/a")
    limit(machine, "10000 100000")
    assert machine.load(Scope.AUTO).cpu == 100


@pytest.mark.parametrize(("scope", "cpu", "memory"), [(Scope.AUTO, 25, 50), (Scope.CGROUP, 6, 3)])
def test_without_limits_its_own_use_is_reported_only_if_asked_for(
    machine: Machine, scope: Scope, cpu: int, memory: int
) -> None:
    machine.tree.mount_2("/a")
    limit(machine)
    assert machine.load(scope) == Load(cpu, memory, None)


@pytest.mark.parametrize("scope", [Scope.HOST, Scope.AUTO])
def test_without_cgroups_the_host_is_reported(machine: Machine, scope: Scope) -> None:
    assert machine.load(scope) == HOST


def test_a_cgroup_that_is_asked_for_and_missing_is_unknown_and_logged(machine: Machine) -> None:
    with logged() as events:
        assert machine.load(Scope.CGROUP) == Load()
    assert [text for text in texts(events) if "TCP" not in text] == [
        f"this host's {name} cannot be read and is reported as unknown: no cgroup is mounted that accounts for it"
        for name in ("CPU use", "memory")
    ]


def test_a_limit_that_comes_begins_a_new_average(machine: Machine) -> None:
    machine.tree.mount_2("/a")
    limit(machine)
    assert machine.load(Scope.AUTO).cpu == 25
    limit(machine, "50000 100000")
    assert machine.load(Scope.AUTO, LIMITS_S).cpu is None
    assert machine.load(Scope.AUTO).cpu == 100


@pytest.mark.parametrize(
    ("file", "unknown"),
    [("cpu.max", Load(None, 30, None)), ("cpu.stat", Load(None, 30, None)), ("memory.max", Load(100, None, None))],
)
def test_an_unreadable_file_of_the_cgroup_is_one_unknown_figure(machine: Machine, file: str, unknown: Load) -> None:
    machine.tree.mount_2("/a")
    limit(machine, "50000 100000", 100 * MB)
    path = machine.tree.sys / "a" / file
    spend = machine._spend
    path.unlink()
    path.mkdir()
    machine._spend = lambda seconds: None if file == "cpu.stat" else spend(seconds)  # type: ignore[method-assign]
    with logged() as events:
        assert machine.load(Scope.AUTO) == unknown
    assert any(f"is reported as unknown: {path}: Is a directory" in text for text in texts(events))


def test_memory_is_raised_under_pressure_of_the_host(machine: Machine) -> None:
    machine.tree.write("proc/pressure/memory", pressure(full=25))
    assert machine.load(Scope.AUTO).memory == 98
    machine.tree.write("proc/meminfo", meminfo(0))
    assert machine.load(Scope.AUTO).memory == 100


@pytest.mark.parametrize(("scope", "memory"), [(Scope.HOST, 50), (Scope.AUTO, 96), (Scope.CGROUP, 96)])
def test_in_a_cgroup_its_own_pressure_counts(machine: Machine, scope: Scope, memory: int) -> None:
    machine.tree.mount_2("/a")
    limit(machine, memory=100 * MB)
    machine.tree.write("proc/pressure/memory", pressure(full=0))
    machine.tree.cgroup("a", memory_pressure=pressure(full=12))
    assert machine.load(scope, PRESSURE_S).memory == memory


def test_a_kernel_without_psi_shows_swapping(machine: Machine) -> None:
    def swapped(pages: int) -> Callable[[], object]:
        return lambda: machine.tree.write("proc/vmstat", f"pswpin {pages}\npswpout {pages}\n")

    swapped(0)()
    machine.load(Scope.AUTO)
    swapped(10_000)()
    assert machine.load(Scope.AUTO, 12).memory == 100


def test_descriptors_are_closed_with_the_sampler(machine: Machine) -> None:
    machine.tree.mount_2("/a")
    limit(machine, "50000 100000", 100 * MB)
    machine.tree.write("proc/pressure/memory", pressure(0))
    machine.load(Scope.AUTO, MEMORY_INTERVAL_S)
    assert machine.sampler is not None
    assert opened_below(machine.tree)
    machine.sampler.close()
    assert opened_below(machine.tree) == []


def opened_below(tree: Tree) -> list[str]:
    """The files of the tree that this process has open."""
    links = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    return [str(path) for path in links if path.is_relative_to(tree.proc.parent.resolve())]
