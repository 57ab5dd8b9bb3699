"""The load that is sampled; one figure that cannot be read does not affect the others."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from rproxy.agent.host_figures import CpuTimes
from rproxy.agent.kernel_file import UnreadableFigure
from rproxy.agent.sampler import (
    CPU_STALL_S,
    LOG_INTERVAL_S,
    MEMORY_INTERVAL_S,
    SAMPLE_INTERVAL_S,
    FixedSampler,
    HostSampler,
    Load,
)
from rproxy.agent.scope import Scope, figures
from tests.fakes import StubSampler, logged, texts

PER_S = 100.0


class Host:
    """A host whose CPUs are busy by `busy` (0..1). Reading a figure raises its entry of `errors`, if there is one."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.busy = 0.5
        self.idle = 1e6
        self.total = 2e6
        self.of = "this host"
        self.used = 89
        self.tcp = 5
        self.errors: dict[str, Exception] = {}
        self.closed = 0

    def sampler(self) -> HostSampler:
        return HostSampler(self.clock.seconds, self)

    def cpu_times(self, now: float) -> CpuTimes:
        self._maybe_raise("cpu_times", now)
        return CpuTimes(self.total - self.idle, self.total, PER_S, self.of)

    def memory(self, now: float) -> int:
        self._maybe_raise("memory", now)
        return self.used

    def established(self, now: float) -> int:
        self._maybe_raise("established", now)
        return self.tcp

    def close(self) -> None:
        self.closed += 1

    def _maybe_raise(self, name: str, now: float) -> None:
        assert now == self.clock.seconds()
        if name in self.errors:
            raise self.errors[name]

    def work(self, seconds: float, ticks: float | None = None) -> None:
        """Let `seconds` pass, by the host's own count `ticks` seconds."""
        self.clock.advance(seconds)
        grown = (seconds if ticks is None else ticks) * PER_S
        self.total += grown
        self.idle += grown * (1 - self.busy)


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_host_has_percentages_and_a_count() -> None:
    sampler = HostSampler(Clock().seconds, figures(Scope.AUTO))
    load = sampler.sample()
    sampler.close()
    assert load.memory is not None
    assert 0 < load.memory <= 100
    assert load.tcp is not None
    assert load.tcp >= 0
    assert load.application is None


def test_cpu_use_is_unknown_at_first_and_then_the_average_since_the_sample_before(host: Host) -> None:
    sampler = host.sampler()
    assert sampler.sample() == Load(None, 89, 5)
    host.work(5)
    assert sampler.sample() == Load(50, 89, 5)
    host.busy = 0.25
    host.work(5)
    assert sampler.sample().cpu == 25


def test_no_burst_of_probes_gets_an_average_of_less_than_half_a_second(host: Host) -> None:
    sampler = host.sampler()
    seen = []
    for _ in range(12):
        host.work(SAMPLE_INTERVAL_S / 4)
        seen.append(sampler.sample().cpu)
        host.busy = 1.0
    assert seen == [None] * 3 + [88] * 4 + [100] * 5


def test_a_clock_that_jumps_makes_no_average_of_a_moment(host: Host) -> None:
    """The kernel has counted little time."""
    sampler = host.sampler()
    host.work(3, ticks=0.01)
    assert sampler.sample().cpu is None
    host.work(1, ticks=0.6)
    assert sampler.sample().cpu == 50


def test_a_clock_that_stands_still_makes_none(host: Host) -> None:
    sampler = host.sampler()
    host.work(0, ticks=5)
    assert sampler.sample().cpu is None
    host.work(1)
    assert sampler.sample().cpu == 50


def test_an_average_is_not_given_out_for_long_when_the_hosts_times_stand_still(host: Host) -> None:
    sampler = host.sampler()
    host.work(1)
    sampler.sample()
    with logged() as events:
        host.work(CPU_STALL_S / 2, ticks=0)
        assert sampler.sample().cpu == 50
        host.work(CPU_STALL_S / 2, ticks=0)
        assert sampler.sample().cpu is None
    assert texts(events) == ["this host's CPU use cannot be read and is reported as unknown: its times stand still"]


def test_times_that_run_backwards_begin_a_new_average(host: Host) -> None:
    sampler = host.sampler()
    host.work(1)
    assert sampler.sample().cpu == 50
    host.total, host.idle = 1000, 500
    host.work(1)
    assert sampler.sample().cpu is None
    host.work(1)
    assert sampler.sample().cpu == 50


def test_fresh_memory_is_reported_again_and_an_old_one_read_anew(host: Host) -> None:
    sampler = host.sampler()
    taken = []
    for wait_s in (0, MEMORY_INTERVAL_S / 2, MEMORY_INTERVAL_S / 4, MEMORY_INTERVAL_S / 4, 10):
        host.work(wait_s)
        taken.append(sampler.sample().memory)
        host.used += 1
    assert taken == [89, 89, 89, 92, 93]


def test_connections_are_counted_for_every_answer(host: Host) -> None:
    sampler = host.sampler()
    for host.tcp in (6, 7, 3):
        assert sampler.sample().tcp == host.tcp


def test_cpu_times_of_another_cgroup_begin_a_new_average(host: Host) -> None:
    sampler = host.sampler()
    host.work(1)
    assert sampler.sample().cpu == 50
    host.of = "/another"
    host.work(1)
    assert sampler.sample().cpu is None
    host.work(1)
    assert sampler.sample().cpu == 50


def test_closing_closes_the_figures_files(host: Host) -> None:
    host.sampler().close()
    assert host.closed == 1


def test_a_count_beyond_what_a_pdu_can_say_is_cut(host: Host) -> None:
    host.tcp = 2**40
    assert host.sampler().sample().tcp == 2**32 - 2


@pytest.mark.parametrize(
    ("name", "unknown"),
    [("cpu_times", Load(None, 89, 5)), ("memory", Load(50, None, 5)), ("established", Load(50, 89, None))],
)
@pytest.mark.parametrize("error", [UnreadableFigure("gone"), PermissionError(13, "no"), KeyError("x"), RuntimeError()])
def test_one_figure_that_cannot_be_read_is_one_unknown_figure(
    host: Host, name: str, unknown: Load, error: Exception
) -> None:
    sampler = host.sampler()
    host.work(1)
    sampler.sample()
    host.errors[name] = error
    for _ in range(3):
        host.work(1)
        assert sampler.sample() == unknown
    host.errors.clear()
    host.work(1)
    sampler.sample()
    host.work(1)
    assert sampler.sample() == Load(50, 89, 5)


def test_all_figures_may_be_unreadable_from_the_start(host: Host) -> None:
    host.errors = {name: UnreadableFigure("gone") for name in ("cpu_times", "memory", "established")}
    with logged() as events:
        sampler = host.sampler()
        assert sampler.sample() == Load()
        host.work(5)
        assert sampler.sample() == Load()
    assert len(texts(events)) == 3
    host.errors.clear()
    host.work(5)
    assert sampler.sample() == Load(None, 89, 5)


def test_an_unreadable_figure_is_logged_once_and_once_more_when_it_is_readable(host: Host) -> None:
    sampler = host.sampler()
    with logged() as events:
        for _ in range(20):
            host.work(5)
            sampler.sample()
            host.errors["memory"] = UnreadableFigure("/proc/meminfo: Permission denied\nreally")
        host.errors.clear()
        for _ in range(20):
            host.work(5)
            sampler.sample()
    assert texts(events) == [
        "this host's memory cannot be read and is reported as unknown: /proc/meminfo: Permission denied really",
        "this host's memory can be read again",
    ]


def test_a_figure_that_is_readable_now_and_then_is_logged_seldom_and_correctly_in_the_end(host: Host) -> None:
    sampler = host.sampler()
    with logged() as events:
        for _ in range(100):
            host.errors["memory"] = UnreadableFigure("gone")
            host.work(MEMORY_INTERVAL_S)
            sampler.sample()
            host.errors.clear()
            host.work(MEMORY_INTERVAL_S)
            sampler.sample()
        assert len(texts(events)) <= 200 * MEMORY_INTERVAL_S / LOG_INTERVAL_S + 1
        host.work(LOG_INTERVAL_S)
        sampler.sample()
    assert texts(events)[-1] == "this host's memory can be read again"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({}, Load(17, 89, 5, 7)),
        ({"cpu": 100, "memory": 100, "tcp": 100}, Load(100, 100, 100, 7)),
        ({"cpu": 0}, Load(0, 89, 5, 7)),
        ({"memory": 1}, Load(17, 1, 5, 7)),
        ({"tcp": 0}, Load(17, 89, 0, 7)),
        ({"cpu": 1, "tcp": 2}, Load(1, 89, 2, 7)),
    ],
)
def test_a_fixed_report_replaces_any_of_the_figures(report: dict[str, int], expected: Load) -> None:
    assert FixedSampler(StubSampler(Load(17, 89, 5, 7)), **report).sample() == expected


@pytest.mark.parametrize("report", [{"cpu": 100}, {"memory": 0}, {"tcp": 3}])
def test_a_fixed_report_replaces_what_is_unknown(report: dict[str, int]) -> None:
    assert FixedSampler(StubSampler(Load()), **report).sample() == Load(**report)
