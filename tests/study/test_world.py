from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Any, Final

import attrs
import pytest

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.policy import Policy
from rproxy.study.agents import Network
from rproxy.study.hosts import Host
from rproxy.study.policies import Choice
from rproxy.study.proxies import Probing
from rproxy.study.reference import AllKnowing
from rproxy.study.scenarios import SCENARIOS, Scenario, unequal
from rproxy.study.world import PolicyFailed, Result, World, quantile

pytestmark = pytest.mark.no_cover

WARM_S: Final = 15.0
"""Slow start is over."""


def shortened(name: str, seconds: float = 10.0) -> Scenario:
    """The scenario with less time to warm up and to measure."""
    scenario = SCENARIOS[name]()
    return attrs.evolve(
        scenario,
        warm_s=WARM_S,
        seconds=WARM_S + seconds,
        restart_s=None if scenario.restart_s is None else WARM_S,
        joins=dict.fromkeys(scenario.joins, WARM_S),
    )


def run(scenario: Scenario, policy: str, seed: int = 1) -> Result:
    return World(scenario, Choice.parse(policy).maker(scenario), seed).run()


def test_a_seed_repeats_a_run_and_another_one_does_not() -> None:
    scenario = shortened("four")
    first, second, other = (attrs.evolve(run(scenario, "report", seed), took_s=0.0) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_policies_meet_the_same_clients() -> None:
    scenario = attrs.evolve(shortened("equal"), traffic=SCENARIOS["equal"]().traffic)
    counts = {policy: sum(run(scenario, policy).chosen) for policy in ("round-robin", "least-connections", "limit")}
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ("large", "hundreds", "fifty")])
def test_every_scenario_runs(name: str) -> None:
    scenario = shortened(name, 3.0)
    result = run(scenario, "least-connections")
    assert result.count > 0
    assert 0 < result.p50 <= result.p99 <= result.p999
    assert len(result.chosen) == len(scenario.hosts)
    assert result.most >= 1


def test_reports_are_as_old_as_the_scenario_says() -> None:
    fresh, stale = shortened("four"), attrs.evolve(shortened("four"), probing=Probing(5.0, None))
    rates = [run(scenario, "least-connections").probes_s / 4 / 10 for scenario in (fresh, stale)]
    assert rates[0] == pytest.approx(10, rel=0.1)
    assert rates[1] == pytest.approx(1 / 5, rel=0.5)


def test_whoever_knows_all_is_better_than_whoever_knows_nothing() -> None:
    scenario = shortened("one", 60.0)
    limit, least, blind = (run(scenario, policy) for policy in ("limit", "least-connections", "random"))
    assert limit.p99 < least.p99 < blind.p99


def test_expected_delay_beats_least_connections_where_proxies_share_unequal_hosts() -> None:
    scenario = shortened("four", 40.0)
    for seed in (1, 2):
        ours, least = (run(scenario, policy, seed) for policy in ("expected-delay", "least-connections"))
        assert ours.count == pytest.approx(least.count, rel=0.02)
        assert ours.p99 < least.p99
        assert ours.mean < least.mean


def test_two_choices_are_better_than_one() -> None:
    scenario = shortened("equal", 60.0)
    assert run(scenario, "two-choices").p99 < run(scenario, "random").p99


def test_sinkholes_fail_clients_that_the_limit_saves() -> None:
    scenario = shortened("sinks-silent", 20.0)
    least, limit = run(scenario, "least-connections"), run(scenario, "limit")
    assert least.failures > 100
    assert limit.failures == 0
    assert least.chosen[3] > 0 == limit.chosen[3]


def test_a_sinkhole_that_closes_connections_is_taken_out() -> None:
    result = run(attrs.evolve(shortened("sinks"), warm_s=0.0), "least-connections")
    assert 6 <= result.failures < 12
    assert result.failures == result.chosen[3] + result.chosen[11]


def test_weights_are_shares_in_turn() -> None:
    chosen = run(shortened("weights-5", 1000.0), "round-robin").chosen
    assert chosen[2] / sum(chosen) == pytest.approx(5 / 205, rel=0.1)


def test_load_from_elsewhere_takes_its_part() -> None:
    shared = attrs.evolve(shortened("elsewhere", 30.0), hog=None, proxies=1)
    alone = attrs.evolve(shared, elsewhere=0.0)
    assert run(shared, "limit").mean > run(alone, "limit").mean
    assert run(shared, "limit").count == pytest.approx(run(alone, "limit").count, rel=0.02)


def test_a_host_that_joins_gets_clients_from_then_on() -> None:
    scenario = shortened("added", 20.0)
    early = attrs.evolve(scenario, warm_s=WARM_S - 5, seconds=WARM_S)
    assert run(early, "least-connections").chosen[3] == 0
    assert run(scenario, "least-connections").chosen[3] > 0


def test_proxies_that_are_restarted_serve_on() -> None:
    result = run(shortened("restarted", 5.0), "least-connections")
    assert result.failures <= 4
    assert min(result.chosen) > 0


def test_idle_sessions_stay_where_they_are_put() -> None:
    scenario = SCENARIOS["busy-and-idle"]()
    world = World(scenario, Choice("round-robin").maker(scenario), 1)
    world.engine.at(15.0, lambda _: counts.extend(host.connections for host in world.hosts))
    counts: list[int] = []
    world.run()
    assert counts[0] >= 100
    assert 10 <= counts[1] < 60


def test_without_a_back_end_clients_fail() -> None:
    lost = attrs.evolve(shortened("equal", 2.0), network=Network(loss=1.0))
    result = run(lost, "least-connections")
    assert result.count == 0
    assert result.failures > 0


class Broken(AllKnowing):
    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        raise ValueError("lost its way")


def test_a_policy_that_raises_ends_the_study() -> None:
    def make(hosts: Mapping[str, Host], _: Random) -> Policy:
        return Broken(hosts, long=False, hog_mean=0.0)

    with pytest.raises(PolicyFailed, match="ValueError: lost its way"):
        World(shortened("one", 1.0), make, 1).run()


def test_the_load_is_of_what_hogs_leave() -> None:
    scenario = unequal("", speeds=(1.0, 3.0), load=0.5, elsewhere=0.25)
    traffic: Any = scenario.traffic
    left = 1 - 0.55 / 3
    assert traffic.gap.rate == pytest.approx(0.75 * 0.5 * left * 4 / 0.1)
    assert scenario.elsewhere == pytest.approx(0.25 * 0.5 * left * 4 / 0.1)


def test_quantiles() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert quantile([1.0], 0.999) == 1.0
    assert str(quantile([], 0.5)) == "nan"
