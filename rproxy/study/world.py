"""One run: hosts, agents, proxies and clients of a scenario together, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from time import process_time

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.policy import Policy
from rproxy.study.agents import REGISTER_S, Agent, Transport, address_of
from rproxy.study.clients import Clients, Elsewhere, Measured
from rproxy.study.engine import Engine
from rproxy.study.hosts import Host, run_hog
from rproxy.study.proxies import Proxy
from rproxy.study.scenarios import OVERTIME, WORK_S, Scenario
from rproxy.study.traffic import Exponential

MakePolicy = Callable[[Mapping[str, Host], Random], Policy]
"""Makes a proxy's policy. Only a reference may look at the hosts, which are given by address."""


class PolicyFailed(Exception):
    """A policy raised something, or chose what it may not."""


@attrs.frozen
class Result:
    """What a run has measured after the warm-up. Response times in s: of sessions, or of the pieces of long ones."""

    mean: float
    p50: float
    p99: float
    p999: float
    most: float
    """The utilisation of the busiest host, over the mean of all."""
    failures: int
    """Clients that failed, or that were given no host."""
    count: int
    """Response times measured."""
    chosen: tuple[int, ...]
    """Sessions by host."""
    probes_s: float
    """Probes a second of all proxies."""
    took_s: float
    """CPU time that the run took."""


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Of values in ascending order; NaN where there are none."""
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else float("nan")


class World:
    """Each source of randomness has a seed of its own: under one seed, all policies meet the same hosts and clients."""

    def __init__(self, scenario: Scenario, make_policy: MakePolicy, seed: int) -> None:
        self._scenario = scenario
        self._make_policy = make_policy
        self._seed = seed
        self.engine = engine = Engine()
        self.hosts = [
            Host(engine, number, spec, Random(f"noise {seed} {number}")) for number, spec in enumerate(scenario.hosts)
        ]
        self._by_address = {address_of(host.number): host for host in self.hosts}
        instances = Random(f"instances {seed}")
        self._agents = [Agent(engine, host, instances.getrandbits(64)) for host in self.hosts]
        self._by_agent: dict[Address, Agent] = {agent.address: agent for agent in self._agents}
        self._transports = [
            Transport(engine, scenario.network, self._by_agent, number, Random(f"network {seed} {number}"))
            for number in range(scenario.proxies)
        ]
        self.measured = Measured(len(self.hosts), scenario.warm_s, scenario.seconds)
        self.proxies = [self._proxy(number) for number in range(scenario.proxies)]
        self._all_proxies = list(self.proxies)
        self.clients = Clients(engine, scenario.traffic, self.proxies, self.measured, seed)
        self._busy_s: list[float] = []
        """Of every host, at the end of the warm-up."""

    def _proxy(self, number: int, run: int = 1) -> Proxy:
        seed = f"{self._seed} {number} {run}"
        policy = self._make_policy(self._by_address, Random(f"policy {seed}"))
        return Proxy(self.engine, policy, self._by_agent, self._transports[number], Random(f"probes {seed}"))

    def run(self) -> Result:
        """Run it to its end. Raises `PolicyFailed`."""
        started = process_time()
        scenario, engine = self._scenario, self.engine
        for proxy in self.proxies:
            proxy.start(scenario.probing)
        self._start_agents()
        if scenario.hog is not None:
            for host in self.hosts:
                if host.spec.sink is None:
                    run_hog(engine, host, scenario.hog, Random(f"hog {self._seed} {host.number}"))
        if scenario.elsewhere:
            Elsewhere(engine, self.hosts, scenario.elsewhere, Exponential(WORK_S), self._seed).start()
        engine.at(scenario.begin_s, self._begin)
        engine.at(scenario.warm_s, self._measure)
        if scenario.restart_s is not None:
            engine.at(scenario.restart_s, self._restart)
        engine.run(scenario.seconds + scenario.tail_s)
        while scenario.completes and self._is_busy() and engine.now < OVERTIME * scenario.seconds:
            engine.run(engine.now + 1)
        for proxy in self._all_proxies:
            proxy.stop()
            if proxy.failure is not None:
                raise PolicyFailed(f"{type(proxy.failure).__name__}: {proxy.failure}") from proxy.failure
        return self._result(process_time() - started)

    def _is_busy(self) -> bool:
        """Whether clients are served, or will come."""
        return self.clients.coming or any(host.active for host in self.hosts)

    def _start_agents(self) -> None:
        """Each registers at the start or when its host joins, and every `REGISTER_S` from then on."""
        rng = Random(f"registrations {self._seed}")
        for agent in self._agents:
            at = self._scenario.joins.get(agent.host.number, 0.0)
            self.engine.at(at + rng.random() / 2, self._register, agent)

    def _register(self, agent: Agent) -> None:
        self.engine.at(self.engine.now + REGISTER_S, self._register, agent)
        for proxy in self.proxies:
            proxy.register(agent)

    def _begin(self, _: None) -> None:
        """All agents have answered: clients come."""
        for held in self._scenario.held:
            agent = self._agents[held.host]
            self.clients.hold(self.proxies[0], agent, held.sessions, held.pause_s, held.work)
        self.clients.start(self.engine.now)

    def _measure(self, _: None) -> None:
        self._busy_s = [host.busy_s() for host in self.hosts]

    def _restart(self, _: None) -> None:
        """All proxies at once: they have only the rows that a state file holds. Hosts go on with what they have."""
        for number, before in enumerate(self.proxies):
            known = [agent for agent in self._agents if before.backend_of(agent) is not None]
            before.stop()
            proxy = self._proxy(number, run=2)
            proxy.start(self._scenario.probing)
            proxy.restore(known)
            self.proxies[number] = proxy
            self._all_proxies.append(proxy)

    def _result(self, took_s: float) -> Result:
        measured = self.measured
        times = sorted(measured.times_s)
        busy = [host.busy_s() - before for host, before in zip(self.hosts, self._busy_s, strict=True)]
        return Result(
            mean=sum(times) / len(times) if times else float("nan"),
            p50=quantile(times, 0.5),
            p99=quantile(times, 0.99),
            p999=quantile(times, 0.999),
            most=max(busy) * len(busy) / (sum(busy) or 1),
            failures=measured.failures,
            count=len(times),
            chosen=tuple(measured.chosen),
            probes_s=sum(each.sent for each in self._transports) / self._scenario.seconds,
            took_s=took_s,
        )
