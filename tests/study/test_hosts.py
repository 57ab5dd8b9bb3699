from __future__ import annotations

from random import Random
from typing import Any

import pytest

from rproxy.study.engine import Engine
from rproxy.study.hosts import Hog, Host, HostSpec, Job, run_hog


class Bench:
    """A host, and when its jobs were done."""

    def __init__(self, **spec: Any) -> None:
        self.engine = Engine()
        self.host = Host(self.engine, 0, HostSpec(**spec), Random(1))
        self.done: dict[str, float] = {}

    def give(self, name: str, work: float, at: float = 0.0) -> None:
        self.engine.at(at, lambda _: self.host.accept(Job(work, name, self._note)))

    def _note(self, job: Job) -> None:
        self.done[job.session] = round(self.engine.now, 9)


def test_a_job_alone_takes_its_work_over_the_speed() -> None:
    bench = Bench(speed=2.0)
    bench.give("a", 1.0, at=1.0)
    bench.engine.run(10.0)
    assert bench.done == {"a": 1.5}


def test_a_core_is_shared_equally_and_what_is_short_leaves_first() -> None:
    bench = Bench()
    bench.give("long", 2.0)
    bench.give("short", 0.5)
    bench.give("late", 1.0, at=1.0)
    bench.engine.run(10.0)
    # two share until 1 s; then long has 1.5 left, late 1: at 3 s late is done
    assert bench.done == {"short": 1.0, "late": 3.0, "long": 3.5}


def test_a_job_uses_one_core_at_most() -> None:
    bench = Bench(cores=4)
    for name in "abcdefgh":
        bench.give(name, 1.0)
    bench.give("alone", 1.0, at=5.0)
    bench.engine.run(10.0)
    assert {bench.done[name] for name in "abcdefgh"} == {2.0}
    assert bench.done["alone"] == 6.0
    assert bench.host.busy_s() == pytest.approx(2.0 + 0.25)


def test_a_hog_slows_what_is_there() -> None:
    bench = Bench()
    bench.give("a", 1.0)
    bench.engine.at(0.5, lambda _: bench.host.set_hog(0.75))
    bench.engine.run(2.0)
    assert bench.host.capacity == 0.25
    bench.engine.at(2.0, lambda _: bench.host.set_hog(0.0))
    bench.engine.run(10.0)
    assert bench.done == {"a": 2.125}
    assert bench.host.busy_s() == pytest.approx(2.125)


def test_a_hog_of_everything_stops_the_host() -> None:
    bench = Bench()
    bench.host.set_hog(1.0)
    bench.give("a", 1.0)
    bench.engine.run(5.0)
    bench.engine.at(5.0, lambda _: bench.host.set_hog(0.0))
    bench.engine.run(7.0)
    assert bench.done == {"a": 6.0}


def test_workers_leave_the_rest_waiting_and_a_full_queue_refuses() -> None:
    bench = Bench(workers=1, backlog=2)
    for name in "abcd":
        bench.give(name, 1.0)
    bench.engine.run(0.5)
    assert bench.host.active == 3
    assert bench.host.load() == 100
    bench.engine.run(10.0)
    assert bench.done == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert bench.host.load() == 0


def test_a_service_without_a_limit_has_no_load() -> None:
    assert Bench().host.load() is None


def test_cpu_is_measured_over_half_a_second_at_least() -> None:
    bench = Bench()
    bench.give("a", 1.0)
    bench.engine.run(1.0)
    assert bench.host.cpu() >= 90  # noise of a few points
    bench.engine.run(1.4)
    assert bench.host.cpu() >= 90
    bench.engine.run(1.6)
    assert bench.host.cpu() <= 10


def test_hogs_take_what_they_say_on_average() -> None:
    hog, used = Hog(off_s=2.0, on_s=1.0), []
    for seed in range(5):
        bench = Bench()
        run_hog(bench.engine, bench.host, hog, Random(seed))
        bench.engine.run(2000.0)
        used.append(bench.host.busy_s() / 2000.0)
    assert sum(used) / 5 == pytest.approx(hog.mean, rel=0.05)
