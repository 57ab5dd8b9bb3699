"""What a policy says of a back-end: why it is passed over, and what it compares."""

from __future__ import annotations

import math
from typing import Any

import pytest
from attrs import evolve

from rproxy.pool.events import Events, PassedOver
from rproxy.pool.policy import Explanation
from rproxy.pool.states import Administration
from tests.fakes import CountingPolicy, RaisingPolicy, logged
from tests.pool.driving import AGENT, REGISTER, Driver


def passed_over(events: Events) -> list[str]:
    return [event.reason for event in events if isinstance(event, PassedOver)]


def test_a_change_is_an_event_and_in_the_back_end() -> None:
    policy = CountingPolicy()
    driver = Driver(policy)
    backend = driver.up()
    policy.reason = "memory 97 %"
    assert passed_over(driver.report(backend).events) == ["memory 97 %"]
    assert backend.passed_over == "memory 97 %"
    assert passed_over(driver.report(backend).events) == []
    policy.reason = ""
    assert passed_over(driver.report(backend).events) == [""]
    assert backend.passed_over == ""


@pytest.mark.parametrize("nothing", ["", None])
def test_nothing_is_said_of_one_that_is_not(nothing: str | None) -> None:
    policy = CountingPolicy()
    driver = Driver(policy)
    backend = driver.up()
    policy.reason = nothing  # type: ignore[assignment]
    assert passed_over(driver.report(backend).events) == []
    assert backend.passed_over == ""


def test_other_changes_are_asked_about_too() -> None:
    policy = CountingPolicy()
    driver = Driver(policy)
    backend = driver.up()
    policy.reason = "a"
    assert passed_over(driver.pool.administer(backend, Administration.DRAIN, driver.now)) == ["a"]
    policy.reason = "b"
    events = driver.pool.register(AGENT, evolve(REGISTER, weight=50), driver.now)
    assert passed_over(events) == ["b"]
    policy.reason = "c"
    driver.down(backend)
    assert backend.passed_over == "b", "it could not be reached: that is no news of its load"


def test_an_explanation_is_the_policys() -> None:
    driver = Driver()
    backend = driver.up()
    assert driver.pool.explain(backend, driver.now) == Explanation(0.0, {"slot": 0.0})


def test_one_that_cannot_explain_is_logged_and_shows_nothing() -> None:
    policy = RaisingPolicy("explain")
    driver = Driver(policy)
    backend = driver.up()
    with logged() as events:
        assert math.isnan(driver.pool.explain(backend, driver.now).value)
    assert len(events) == 1


NOT_A_NUMBER: Any = "much"


@pytest.mark.parametrize(
    "returned", [None, 7, (1.0, {}), Explanation(NOT_A_NUMBER), Explanation(1.0, {"term": NOT_A_NUMBER})]
)
def test_an_explanation_that_is_none_is_logged_and_shows_nothing(
    returned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = CountingPolicy()
    driver = Driver(policy)
    backend = driver.up()
    monkeypatch.setattr(policy, "explain", lambda backend, now: returned)
    with logged() as events:
        explained = driver.pool.explain(backend, driver.now)
    assert math.isnan(explained.value)
    assert (explained.terms, len(events)) == ({}, 1)


def test_a_reason_is_a_text_whatever_the_policy_returns() -> None:
    policy = CountingPolicy()
    driver = Driver(policy)
    policy.reason = 97  # type: ignore[assignment]
    assert passed_over(driver.report(driver.up()).events) == []
    assert next(iter(driver.pool)).passed_over == "97"
