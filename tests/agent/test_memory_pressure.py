"""Memory is reported as nearly exhausted while programs wait for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.agent.memory_pressure import PRESSURE_S, SWAP_S, SWAPPED, MemoryPressure
from tests.agent.cgroup_trees import pressure
from tests.fakes import logged, texts


class Proc:
    """A folder in place of /proc, and the pressure that is read of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        self.pressure = MemoryPressure(str(folder))
        (folder / "pressure").mkdir()

    def host(self, full: float, some: float = 100.0) -> None:
        (self.folder / "pressure" / "memory").write_text(pressure(full, some))

    def cgroup(self, full: float) -> str:
        path = self.folder / "memory.pressure"
        path.write_text(pressure(full))
        return str(path)

    def swapped(self, came: int, went: int) -> None:
        (self.folder / "vmstat").write_text(f"nr_free_pages 1\npswpin {came}\npswpout {went}\npgfault 7\n")

    def raised(self, cgroup: str | None = None, after_s: float = PRESSURE_S) -> int:
        self.now += after_s
        return self.pressure.raised(self.now, cgroup)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.mark.parametrize(
    ("full", "expected"), [(0, 0), (9.99, 0), (10, 96), (14, 96), (20, 97), (30, 98), (49, 100), (50, 100), (100, 100)]
)
def test_time_in_which_all_waited_raises_it(proc: Proc, full: float, expected: int) -> None:
    proc.host(full)
    assert proc.raised() == expected
    proc.pressure.close()


def test_pressure_ends_well_below_where_it_begins_and_both_are_logged(proc: Proc) -> None:
    with logged() as events:
        for full, expected in [(9, 0), (12, 96), (7, 96), (5, 96), (4.9, 0), (9, 0)]:
            proc.host(full)
            assert proc.raised() == expected
    assert texts(events) == [
        "programs wait for memory: reporting it as at least 96 % used",
        "programs no longer wait for memory",
    ]
    proc.pressure.close()


def test_the_cgroups_own_pressure_counts_where_there_is_one(proc: Proc) -> None:
    proc.host(100)
    cgroup = proc.cgroup(0)
    assert proc.raised(cgroup) == 0
    proc.host(0)
    proc.cgroup(20)
    assert proc.raised(cgroup) == 97
    assert proc.raised(f"{cgroup}.not") == 0
    proc.pressure.close()


def test_a_reading_serves_for_some_time(proc: Proc) -> None:
    proc.host(0)
    assert proc.raised() == 0
    proc.host(20)
    assert proc.raised(after_s=PRESSURE_S / 2) == 0
    assert proc.raised(after_s=PRESSURE_S / 2) == 97
    proc.pressure.close()


@pytest.mark.parametrize(
    "text", ["", "garbage\n", "full avg10=x avg60=0 avg300=0 total=0\n", "some avg10=99.00 avg60=1\n"]
)
def test_without_psi_swapping_both_ways_at_once_counts(proc: Proc, text: str) -> None:
    (proc.folder / "pressure" / "memory").write_text(text)
    came, went = 10**6, 10**7
    seen = []
    for in_s, out_s in [(0, 0), (1000, 0), (0, 1000), (99, 1000), (100, 100), (1000, 200), (60, 60), (10, 10)]:
        came, went = came + int(in_s * SWAP_S), went + int(out_s * SWAP_S)
        proc.swapped(came, went)
        seen.append(proc.raised(after_s=SWAP_S))
    assert seen == [0, 0, 0, 0, 96, 97, 96, 0]


def test_swapping_is_an_average_over_some_time(proc: Proc) -> None:
    proc.swapped(0, 0)
    assert proc.raised() == 0
    proc.swapped(int(SWAPPED * SWAP_S), int(SWAPPED * SWAP_S))
    for _ in range(int(SWAP_S / PRESSURE_S) - 1):
        assert proc.raised() == 0
    assert proc.raised() == 96


def test_counters_that_run_backwards_or_end_are_no_swapping(proc: Proc) -> None:
    proc.swapped(10**9, 10**9)
    assert proc.raised() == 0
    proc.swapped(0, 0)
    assert proc.raised(after_s=SWAP_S) == 0
    (proc.folder / "vmstat").write_text("garbage")
    assert proc.raised(after_s=SWAP_S) == 0
    proc.swapped(10**9, 10**9)
    assert proc.raised(after_s=SWAP_S) == 0


def test_where_neither_can_be_read_there_is_no_pressure(proc: Proc) -> None:
    with logged() as events:
        assert proc.raised() == 0
        assert proc.raised(after_s=SWAP_S) == 0
    assert texts(events) == []
