from __future__ import annotations

from random import Random
from typing import Any, Final

import pytest

from rproxy.policies.own_options import PolicyError
from rproxy.policies.registry import POLICIES
from rproxy.policies.report import ReportPolicy
from rproxy.pool.backend import Backend
from rproxy.study.engine import Engine
from rproxy.study.formula import FormulaOptions, FormulaPolicy
from rproxy.study.hosts import Host, HostSpec, Job, Sink
from rproxy.study.policies import Choice, known
from rproxy.study.reference import AllKnowing, TwoChoices
from rproxy.study.scenarios import SCENARIOS
from tests.policies.balancing import Balance
from tests.pool.driving import agent


@pytest.mark.parametrize("name", known())
def test_every_policy_can_be_made(name: str) -> None:
    policy = Choice.parse(name).maker(SCENARIOS["one"]())({}, Random(1))
    assert callable(policy.choose)


def test_those_of_the_registry_are_known() -> None:
    assert set(POLICIES) < set(known())


def test_options_follow_the_name() -> None:
    assert Choice.parse("report:saturation=0.9") == Choice("report", {"saturation": "0.9"})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no such policy"),
        ("best", "no such policy"),
        ("report:saturation", "'saturation' is no OPTION=VALUE"),
        ("report:saturation=0.6:saturation=0.7", "given twice"),
        ("report:saturation=7", "must be from"),
        ("random:speed=1", "no option speed"),
        ("limit:speed=1", "no option speed"),
        ("two-choices:speed=1", "no option speed"),
    ],
)
def test_what_cannot_be_made_is_said(text: str, error: str) -> None:
    with pytest.raises(PolicyError, match=error):
        Choice.parse(text)


FIGURES: Final[list[dict[str, Any]]] = [
    {"cpu": 10, "memory": 30, "tcp": 4},
    {"cpu": 80, "memory": 20, "tcp": 0},
    {"cpu": 20, "memory": 20, "tcp": 3, "after_s": 0.04},
    {"cpu": None, "memory": None, "tcp": None},
    {"cpu": 15, "memory": 90, "tcp": 2},
]


def chosen(policy: Any, count: int = 40) -> list[str]:
    """The back-ends that it gives to clients, every third of whom stays."""
    balance = Balance(policy)
    backends = [balance.up(agent(number), weight=100 + 50 * (number % 2)) for number in range(len(FIGURES))]
    for backend, figures in zip(backends, FIGURES, strict=True):
        balance.report(backend, **figures)
    names = []
    for number in range(count):
        backend = balance.open()
        names.append(backend.name)
        if number % 3:
            balance.close(backend)
    return names


def test_the_formula_as_it_is_chooses_as_the_report_does() -> None:
    assert chosen(FormulaPolicy()) == chosen(ReportPolicy())


@pytest.mark.parametrize(
    "options", [{"tcp": 0.0}, {"rtt": 0.0}, {"cpu": 5.0}, {"memory": 5.0}, {"saturation": None}], ids=str
)
def test_every_weight_of_the_formula_counts(options: dict[str, Any]) -> None:
    assert chosen(FormulaPolicy(FormulaOptions(**options))) != chosen(FormulaPolicy())


class Hosts:
    """Simulated hosts behind the back-ends of a pool."""

    def __init__(self, *specs: HostSpec, long: bool = False) -> None:
        self.engine = Engine()
        self.hosts = [Host(self.engine, number, spec, Random(number)) for number, spec in enumerate(specs)]
        self.balance = Balance(None)  # type: ignore[arg-type]
        addresses = [agent(number)[0] for number in range(len(specs))]
        policy = AllKnowing(dict(zip(addresses, self.hosts, strict=True)), long=long, hog_mean=0.0)
        self.balance = Balance(policy)
        self.backends = self.balance.all_up(len(specs))

    def busy(self, number: int, jobs: int) -> None:
        for _ in range(jobs):
            self.hosts[number].accept(Job(100.0, None, lambda job: None))

    def chosen(self) -> int:
        backend = self.balance.choose()
        assert backend is not None
        return self.backends.index(backend)


def test_the_limit_weighs_sessions_by_what_a_host_can_do_now() -> None:
    bench = Hosts(HostSpec(1.0), HostSpec(4.0))
    bench.busy(1, 2)
    assert bench.chosen() == 1  # a third job there takes 3/4 of the time that it takes alone on the other
    bench.busy(1, 2)
    assert bench.chosen() == 0
    bench.hosts[0].set_hog(0.9)
    assert bench.chosen() == 1


def test_the_limit_leaves_failed_services_alone() -> None:
    bench = Hosts(HostSpec(sink=Sink.ERROR), HostSpec())
    bench.busy(1, 9)
    assert bench.chosen() == 1


def test_the_limit_knows_what_long_sessions_ask_for() -> None:
    bench = Hosts(HostSpec(), HostSpec(), long=True)
    bench.hosts[0].demand, bench.hosts[1].demand = 0.5, 0.2
    assert bench.chosen() == 1
    bench.hosts[0].demand, bench.hosts[1].demand = 1.5, 2.5
    assert bench.chosen() == 0


def test_of_two_choices_the_one_with_fewer_sessions_is_taken() -> None:
    balance = Balance(TwoChoices(Random(1)))
    busy, *idle = balance.all_up(3)
    busy.counts.established = 5
    taken: set[Backend | None] = {balance.choose() for _ in range(50)}
    assert taken == set(idle)
    assert balance.choose(*idle) is busy
    assert balance.choose(busy, *idle) is None
