"""Whose first probe is next, whatever is sent in whose name."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import attrs
import pytest

from rproxy.pool.backend import Backend, Registration
from rproxy.pool.candidates import (
    OUTSTANDING_MAX,
    RETRY_MAX_S,
    RETRY_MIN_S,
    UNANSWERED_MAX,
    USUAL_AGENT_PORT,
    WAITING_MAX,
    Candidates,
)
from tests.pool.driving import agent

SERVICE = 80


def registration(host: int = 1, *, instance: int = 1, port: int = USUAL_AGENT_PORT) -> Registration:
    return Registration((agent(host)[0], port), instance, interval_s=20.0, weight=100)


class Bench:
    """A back-end for each host; `now` is moved by the test."""

    def __init__(self) -> None:
        self.candidates = Candidates()
        self.backends: dict[str, Backend] = {}
        self.now = 100.0

    def backend(self, registered: Registration) -> Backend:
        host = registered.agent[0]
        if host not in self.backends:
            self.backends[host] = Backend(host, SERVICE, registered)
        return self.backends[host]

    def add(self, registered: Registration) -> bool:
        """Whether it may wait."""
        backend = self.backend(registered)
        admitted = self.candidates.admits(backend, SERVICE, registered, self.now)
        if admitted:
            self.candidates.add(backend, registered)
        return admitted

    def next(self) -> Registration | None:
        found = self.candidates.next(self.now)
        return None if found is None else found[1]

    def ask(self, *registered: Registration) -> None:
        """Each has a probe that nobody answers."""
        for each in registered:
            assert self.add(each)
            assert self.next() == each


def test_hosts_take_turns_however_many_wait_of_one() -> None:
    bench = Bench()
    for instance in range(WAITING_MAX):
        bench.add(registration(1, instance=instance))
    bench.add(registration(2))
    bench.add(registration(3))
    order = [bench.next() for _ in range(WAITING_MAX + 2)]
    assert [each.agent[0] for each in order[:4] if each] == [agent(n)[0] for n in (1, 2, 3, 1)]
    assert bench.next() is None
    assert not bench.candidates


def test_an_instance_that_was_not_asked_yet_goes_first() -> None:
    bench = Bench()
    old = [registration(instance=instance) for instance in range(5)]
    bench.ask(*old)
    bench.now += RETRY_MIN_S
    for each in old:
        bench.add(each)
    present = registration(instance=99)
    bench.add(present)
    assert bench.next() == present
    assert bench.next() == old[0]


def test_it_has_its_place_though_old_ones_fill_them_all() -> None:
    bench = Bench()
    old = [registration(instance=instance) for instance in range(WAITING_MAX)]
    bench.ask(*old)
    bench.now += RETRY_MIN_S
    assert all(bench.add(each) for each in old)
    assert bench.add(registration(instance=99))
    assert bench.next() == registration(instance=99)
    assert bench.backend(old[0]).probing.waiting == WAITING_MAX - 1


def test_old_instances_sent_from_many_ports_do_not_keep_the_present_one_out() -> None:
    """One wait in the second is what 50 a second leave to each of 50 hosts."""
    bench = Bench()
    asked: list[Registration | None] = []
    for second in range(10):
        for number in range(200):
            bench.add(registration(instance=number % 3, port=1024 + 200 * second + number))
        if second == 5:
            assert bench.add(registration(instance=99))
        asked.append(bench.next())
        bench.now += 1
    assert asked[5] == registration(instance=99)


def test_the_usual_port_goes_before_others_of_the_same_instance() -> None:
    bench = Bench()
    for port in range(1024, 1024 + WAITING_MAX):
        bench.add(registration(port=port))
    assert bench.add(registration())
    assert bench.next() == registration()


def test_where_all_are_alike_who_waits_is_not_pushed_out() -> None:
    bench = Bench()
    first = [registration(instance=instance) for instance in range(WAITING_MAX)]
    assert all(bench.add(each) for each in first)
    assert not bench.add(registration(instance=99))
    assert [bench.next() for _ in first] == first


def test_one_that_does_not_answer_earns_a_probe_ever_more_seldom() -> None:
    bench = Bench()
    asked: list[float] = []
    for _ in range(1000):
        if bench.add(registration()):
            assert bench.next() is not None
            asked.append(bench.now)
        bench.now += 0.05
    waits = [late - early for early, late in pairwise(asked)]
    assert waits == pytest.approx([0.75, 1.5, 3.0, 6.0, *[RETRY_MAX_S] * (len(waits) - 4)], abs=0.06)


def test_an_agent_registers_when_it_may_be_asked_again() -> None:
    """As `monitoring.agent` does where nothing answers: 1 s, 2 s, 4 s … later, a tenth earlier at most."""
    bench = Bench()
    bench.ask(registration())
    for wait_s in (1, 2, 4, 8, 16, 20):
        bench.now += 0.9 * wait_s
        bench.ask(registration())


def test_one_that_has_answered_is_as_new() -> None:
    bench = Bench()
    bench.ask(registration())
    bench.candidates.confirmed(bench.backend(registration()), registration())
    bench.ask(registration())


def test_one_with_too_many_probes_on_their_way_waits_and_the_others_do_not() -> None:
    bench = Bench()
    bench.add(registration(1))
    bench.add(registration(2))
    busy = bench.backend(registration(1))
    busy.probing.outstanding.update(range(OUTSTANDING_MAX))
    assert bench.next() == registration(2)
    assert bench.next() is None
    assert bench.candidates
    busy.probing.outstanding.pop()
    assert bench.next() == registration(1)


def test_the_newest_of_what_one_agent_says_counts() -> None:
    bench = Bench()
    newest = attrs.evolve(registration(), weight=300)
    bench.add(registration())
    assert bench.add(newest)
    assert bench.next() == newest
    assert bench.next() is None


@pytest.mark.parametrize("instance", [None, 2])
def test_what_is_dropped_waits_no_more(instance: int | None) -> None:
    bench = Bench()
    for each in (1, 2, 3):
        bench.add(registration(instance=each))
    backend = bench.backend(registration())
    bench.candidates.drop(backend, instance)
    left = set() if instance is None else {1, 3}
    assert bench.candidates.instances(backend) == left
    assert backend.probing.waiting == len(left)
    assert bool(bench.candidates) is bool(left)


def test_the_memory_is_bounded() -> None:
    bench = Bench()
    for host in range(UNANSWERED_MAX):
        bench.ask(registration(host))
    assert len(bench.candidates._unanswered) == UNANSWERED_MAX


def test_of_many_hosts_each_has_its_share_of_a_flood() -> None:
    bench = Bench()
    served: Counter[str] = Counter()
    for number in range(2400):
        for host in range(24):
            bench.add(registration(host, instance=number))
        if number % 10 == 0:
            found = bench.next()
            assert found is not None
            served[found.agent[0]] += 1
    assert set(served.values()) == {10}
