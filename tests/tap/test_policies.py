"""The policy of a service, and what it does wrong later."""

from __future__ import annotations

from random import Random

import attrs
import pytest
from twisted.internet.task import Clock

from rproxy.config.model import SOURCE_AFFINITY, ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.policies.affinity import Affinity
from rproxy.policies.registry import POLICIES
from rproxy.policies.report import ReportPolicy
from rproxy.pool.pool import Pool
from rproxy.pool.states import Administration
from rproxy.tap.policies import PolicyFailureLog, changed_policies, policies_of, policy_of, saturation_of
from tests.fakes import RaisingPolicy, logged, pool_with, registered, texts


@pytest.mark.parametrize("prefix", ["--", "service[1]."])
def test_an_unknown_policy_is_reported_with_its_key(prefix: str) -> None:
    with pytest.raises(ConfigError) as raised:
        policy_of(ServiceConfig(policy="best", prefix=prefix), Random(1))
    assert str(raised.value) == f"{prefix}policy best: no such policy; there are {', '.join(POLICIES)}"


@pytest.mark.parametrize("name", POLICIES)
def test_affinity_is_around_whatever_policy_is_configured(name: str) -> None:
    policy = policy_of(ServiceConfig(policy=name, affinity=SOURCE_AFFINITY), Random(1))
    assert isinstance(policy, Affinity)
    assert type(policy._wrapped) is type(policy_of(ServiceConfig(policy=name), Random(1)))


def test_what_a_policy_raises_is_logged_once_in_ten_seconds_with_its_traceback() -> None:
    clock = Clock()
    pool = Pool(RaisingPolicy("choose", "reported"), PolicyFailureLog(clock.seconds))
    with logged():
        backend = registered(pool, "10.0.0.1")
    clock.advance(10)
    with logged() as events:
        for _ in range(5):
            pool.would_choose(0.0)
            pool.administer(backend, Administration.READY, 0.0)
        assert len(events) == 1
        clock.advance(10)
        pool.would_choose(0.0)
    assert len(events) == 2
    assert isinstance(events[0]["log_failure"].value, ValueError)


@pytest.mark.parametrize(
    ("policy", "expected"), [("report", 0.6), ("expected-delay", 0.8)], ids=["of the policy", "of the option"]
)
def test_the_score_shown_is_saturated_where_the_policy_is(policy: str, expected: float) -> None:
    options = {"saturation": "0.6"} if policy == "report" else {}
    assert saturation_of(ServiceConfig(policy=policy, policy_options=options, saturation=0.8)) == expected


class TestShadow:
    def test_without_one_the_pool_gets_the_policy_itself(self) -> None:
        policies = policies_of(ServiceConfig(policy="p2c"), Clock().seconds)
        assert (policies.whole, policies.shadow) == (policies.acting, None)

    def test_both_have_the_affinity(self) -> None:
        config = ServiceConfig(policy="p2c", shadow="report", affinity=SOURCE_AFFINITY)
        shadow = policies_of(config, Clock().seconds).shadow
        assert shadow is not None
        assert isinstance(shadow.acting, Affinity)
        assert isinstance(shadow._shadow, Affinity)
        assert isinstance(shadow._shadow._wrapped, ReportPolicy)

    def test_an_unknown_one_is_reported_with_its_key(self) -> None:
        with pytest.raises(ConfigError, match=r"^service\[1\]\.shadow best: no such policy"):
            policies_of(ServiceConfig(shadow="best", prefix="service[1]."), Clock().seconds)

    def test_its_failures_are_logged_as_its_own(self) -> None:
        policies = policies_of(ServiceConfig(shadow="random"), Clock().seconds)
        assert policies.shadow is not None
        policies.shadow._shadow = RaisingPolicy("reported")
        with logged() as events:
            pool_with(1, policies.whole)
        assert texts(events) == ["the shadow policy failed; further failures in the next seconds are not logged"]

    def test_another_one_leaves_the_acting_policy_as_it_is(self) -> None:
        before = ServiceConfig(shadow="random")
        seconds = Clock().seconds
        policies = policies_of(before, seconds)
        assert changed_policies(before, attrs.evolve(before, name="b"), policies, seconds) is None
        for shadow, options in (("p2c", {}), (None, {}), ("report", {"saturation": 0.5})):
            changed = changed_policies(
                before, attrs.evolve(before, shadow=shadow, shadow_options=options), policies, seconds
            )
            assert changed is not None
            assert changed.acting is policies.acting
            assert (changed.shadow is None) is (shadow is None)
        changed = changed_policies(before, attrs.evolve(before, policy="p2c"), policies, seconds)
        assert changed is not None
        assert changed.acting is not policies.acting
