"""Pools of back-ends with agents and without: nothing but figures is missing, and neither kind starves."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Final

import pytest

from rproxy.policies.formula import SATURATION
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend, StaticTerms
from tests.policies.balancing import Balance, policy, shares
from tests.pool.driving import agent

pytestmark = pytest.mark.no_cover

REPORTS_S: Final = 0.1
CHECKS_S: Final = 2.0
CONNECT_MS: Final = 0.3


def static(balance: Balance, number: int, *, weight: int = 100, check: str = "connect") -> Backend:
    """A static back-end that is up."""
    key = (f"10.9.0.{number}", 80)
    balance.pool.static.put(key, StaticTerms(weight, check), balance.now)
    backend = balance.pool.get(*key)
    assert backend is not None
    checked(balance, backend)
    return backend


def checked(balance: Balance, backend: Backend) -> None:
    is_dialled = backend.static is not None and backend.static.configured.check != "none"
    balance.pool.static.checked(backend, balance.now, rtt_ms=CONNECT_MS if is_dialled else None)


class Hosts:
    """A pool of hosts with agents, and hosts without. A host serves its sessions side by side on one CPU.

    Each session needs `work_s` of CPU on average (exponential), and lasts `idle_s` longer, which needs none. On a host
    with an agent others' work takes `busy` of the CPU; the agent reports it, with noise.
    """

    def __init__(
        self, name: str, *, agents: int, statics: int, check: str = "connect", busy: float = 0.05, others: int = 0
    ) -> None:
        self.rng = Random(11)
        self.balance = Balance(policy(name, saturation=SATURATION, seed=5))
        self.busy, self.others = busy, others
        self.agents = [self.balance.up(agent(number)) for number in range(1, agents + 1)]
        self.statics = [static(self.balance, number, check=check) for number in range(1, statics + 1)]
        self.cpu = dict.fromkeys(self.agents, busy)
        self.used_s = dict.fromkeys(self.agents, 0.0)

    @property
    def backends(self) -> list[Backend]:
        return [*self.agents, *self.statics]

    def serve(self, clients: int, load: float, *, work_s: float = 0.02, idle_s: float = 0.0) -> list[float]:
        """The share of each back-end in percent, where clients keep all hosts busy for the fraction `load`."""
        balance, rng, order = self.balance, self.rng, count()
        due: list[tuple[float, int, str, Backend | None, float]] = []
        served: list[Backend] = []
        rate = load * len(self.backends) / work_s
        heappush(due, (balance.now, next(order), "client", None, 0.0))
        heappush(due, (balance.now, next(order), "reports", None, 0.0))
        heappush(due, (balance.now, next(order), "checks", None, 0.0))
        while len(served) < clients:
            at, _, what, backend, lasted_s = heappop(due)
            balance.now = max(balance.now, at)
            if what == "client":
                backend = balance.open()
                served.append(backend)
                sharing = backend.counts.established + self.others
                work = rng.expovariate(1 / work_s)
                lasted_s = work * sharing + idle_s
                if backend in self.used_s:
                    self.used_s[backend] += work
                heappush(due, (balance.now + lasted_s, next(order), "end", backend, lasted_s))
                heappush(due, (balance.now + rng.expovariate(rate), next(order), "client", None, 0.0))
            elif what == "end":
                assert backend is not None
                balance.close(backend, served_s=lasted_s)
            elif what == "reports":
                self.report()
                heappush(due, (balance.now + REPORTS_S, next(order), "reports", None, 0.0))
            else:
                for each in self.statics:
                    checked(balance, each)
                heappush(due, (balance.now + CHECKS_S, next(order), "checks", None, 0.0))
        return [100 * each / clients for each in shares(served, self.backends)]

    def report(self) -> None:
        for backend in self.agents:
            used = min(1.0, self.used_s[backend] / REPORTS_S)
            self.used_s[backend] = 0.0
            self.cpu[backend] += (used + self.busy - self.cpu[backend]) * 0.2
            noisy = min(100, max(0, round(100 * self.cpu[backend] + self.rng.uniform(-3, 3))))
            memory, tcp = self.rng.randrange(20, 24), backend.counts.established + self.others
            told = {"memory": memory, "tcp": tcp, "load": 0, "others": self.others}
            self.balance.report(backend, after_s=0.0005, cpu=noisy, **told)


@pytest.mark.parametrize("load", [0.1, 0.4])
@pytest.mark.parametrize(("agents", "statics"), [(2, 2), (1, 3)])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_equal_hosts_get_equal_shares_with_or_without_an_agent(
    name: str, agents: int, statics: int, load: float
) -> None:
    served = Hosts(name, agents=agents, statics=statics).serve(1500, load)
    assert sum(served[agents:]) == pytest.approx(25 * statics, abs=10)
    assert min(served) > 10


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_of_long_sessions_too(name: str) -> None:
    served = Hosts(name, agents=2, statics=2).serve(1000, 0.4, work_s=0.2, idle_s=10.0)
    assert sum(served[2:]) == pytest.approx(50, abs=10)
    assert min(served) > 10


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_those_that_are_not_checked_get_their_share_too(name: str) -> None:
    served = Hosts(name, agents=2, statics=2, check="none").serve(1000, 0.3)
    assert sum(served[2:]) == pytest.approx(50, abs=10)
    assert min(served) > 10


@pytest.mark.parametrize("busy", [0.4, 0.9])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_hosts_without_an_agent_are_taken_to_be_as_busy_as_the_others(name: str, busy: float) -> None:
    """They get no more than where all are idle, and no less."""
    served = Hosts(name, agents=2, statics=2, busy=busy).serve(1000, 0.2)
    assert sum(served[2:]) == pytest.approx(50, abs=12)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_sessions_of_other_proxies_are_expected_there_too(name: str) -> None:
    served = Hosts(name, agents=2, statics=2, others=20).serve(1000, 0.3)
    assert sum(served[2:]) == pytest.approx(50, abs=12)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_pool_without_any_agent_is_balanced(name: str) -> None:
    served = Hosts(name, agents=0, statics=4).serve(1000, 0.3)
    assert served == [pytest.approx(25, abs=10)] * 4


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_weights_are_shares_without_an_agent(name: str) -> None:
    balance = Balance(policy(name))
    backends = [static(balance, 1, weight=300), static(balance, 2, weight=100)]
    of_heavy, of_normal = shares(balance.serve(2000, held=True), backends)
    assert of_heavy / of_normal == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_long_sessions_are_shared_by_weight_with_hosts_that_tell_their_cpu(name: str) -> None:
    hosts = Hosts(name, agents=2, statics=0)
    hosts.statics = [static(hosts.balance, 1, weight=200)]
    served = hosts.serve(1000, 0.3, work_s=0.2, idle_s=10.0)
    assert served[2] == pytest.approx(50, abs=12)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_one_that_fails_its_checks_comes_last_until_it_passes_one(name: str) -> None:
    balance = Balance(policy(name))
    other, failing = balance.up(agent(1)), static(balance, 1)
    balance.pool.static.checked(failing, balance.now, "Connection refused")
    assert set(balance.serve(20, held=True)) == {other}
    checked(balance, failing)
    for backend in balance.serve(40, held=True):
        balance.close(backend)
    balance.now += 60
    balance.report(other)
    checked(balance, failing)
    assert failing in balance.serve(60, held=True)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_failed_connect_counts_until_a_check_long_enough_after_it(name: str) -> None:
    balance = Balance(policy(name))
    other, failed = balance.up(agent(1)), static(balance, 1, check="none")
    balance.refuse(failed)
    assert set(balance.serve(10, held=True)) == {other}
    balance.now += 60
    balance.report(other)
    checked(balance, failed)
    assert failed in balance.serve(60, held=True)
