"""Policies by name: found, made, or refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, EntryPoints
from random import Random
from typing import Any

import pytest

from rproxy.policies import registry
from rproxy.policies.own_options import PolicyError
from rproxy.policies.registry import METHODS, POLICIES, make_policy, policy_factory
from tests.fakes import CountingPolicy


@pytest.mark.parametrize(
    "name",
    [
        *("report", "round-robin", "least-connections"),
        *("random", "weighted-random", "p2c", "peak-ewma", "prequal"),
    ],
)
def test_a_built_in_policy_is_found_by_its_name(name: str) -> None:
    assert policy_factory(name) is POLICIES[name]
    policy_factory(name)({}, Random(1))


def installed(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda *, group: EntryPoints(entries).select(group=group))


def external(options: Mapping[str, Any], _: object) -> CountingPolicy:
    policy = CountingPolicy()
    policy.error = ValueError(f"made with {options}")
    return policy


def test_a_policy_of_another_package_is_loaded_from_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, EntryPoint("mine", f"{__name__}:external", "rproxy.policies"))
    policy = policy_factory("mine")({"depth": "3"}, Random(1))
    assert isinstance(policy, CountingPolicy)
    assert str(policy.error) == "made with {'depth': '3'}"


def test_a_built_in_policy_is_not_replaced_by_another_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, EntryPoint("report", "nowhere:external", "rproxy.policies"))
    assert policy_factory("report") is POLICIES["report"]


def test_an_entry_point_of_another_group_is_no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, EntryPoint("mine", "nowhere:external", "console_scripts"))
    with pytest.raises(PolicyError, match="no such policy"):
        policy_factory("mine")


def test_an_unknown_policy_is_told_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, EntryPoint("mine", "nowhere:external", "rproxy.policies"))
    with pytest.raises(PolicyError) as raised:
        policy_factory("best")
    for name in (*POLICIES, "mine"):
        assert name in str(raised.value)


def refusing(_: object, __: object) -> CountingPolicy:
    raise ValueError("not today\nnor tomorrow")


def exiting(_: object, __: object) -> CountingPolicy:
    raise SystemExit(3)


def interrupting(_: object, __: object) -> CountingPolicy:
    raise KeyboardInterrupt


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def unspeakable(_: object, __: object) -> CountingPolicy:
    raise Unspeakable


def nothing(_: object, __: object) -> None:
    return None


def half(_: object, __: object) -> Any:
    policy: Any = CountingPolicy()
    policy.closed = "not a method"
    policy.failed = None
    return policy


def endless(options: Mapping[str, Any], rng: object) -> CountingPolicy:
    return endless(options, rng)


not_callable = 7


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no.such.module:thing", "cannot load no.such.module:thing: ModuleNotFoundError"),
        (f"{__name__}:absent", "AttributeError"),
        (f"{__name__}:not_callable", "cannot be called"),
        (f"{__name__}:refusing", "it cannot be made: ValueError: not today"),
        (f"{__name__}:exiting", "SystemExit: 3"),
        (f"{__name__}:interrupting", "KeyboardInterrupt"),
        (f"{__name__}:unspeakable", "Unspeakable"),
        (f"{__name__}:endless", "RecursionError"),
        (
            f"{__name__}:nothing",
            "(NoneType) has no method choose, opened, closed, failed, reported, explain",
        ),
        (f"{__name__}:half", "(CountingPolicy) has no method closed, failed"),
        (f"{__name__}:CountingPolicy.choose", "it cannot be made: TypeError"),
        ("not a reference", "cannot load not a reference"),
    ],
)
def test_a_policy_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    installed(monkeypatch, EntryPoint("mine", value, "rproxy.policies"))
    with pytest.raises(PolicyError) as raised:
        make_policy("mine", {"depth": "3"}, Random(1))
    text = str(raised.value)
    assert said in text
    assert "\n" not in text


def test_the_methods_asked_for_are_those_of_the_seam() -> None:
    assert all(callable(getattr(POLICIES["report"]({}, Random(1)), method)) for method in METHODS)
