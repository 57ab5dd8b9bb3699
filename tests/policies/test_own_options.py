"""A policy's own options: read from texts and numbers, or refused in one line."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import pytest

from rproxy.policies.own_options import NoOptions, PolicyError, described, option, read_options
from rproxy.policies.registry import POLICIES, make_policy


@attrs.frozen
class Options:
    depth_max: float = option(4, 1, 8, "how deep")
    threshold: float | None = option(0.5, 0, 1, "from where", may_be_off=True)
    unset: float | None = option(None, 0, 1, "nothing", may_be_off=True)


@attrs.frozen
class WholeOptions:
    count: int = option(2, 1, 16, "how many", whole=True)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, Options()),
        ({"depth-max": "1"}, Options(depth_max=1)),
        ({"depth-max": "8.0", "threshold": 0}, Options(depth_max=8, threshold=0)),
        ({"threshold": "off"}, Options(threshold=None)),
        ({"threshold": None}, Options(threshold=None)),
        ({"unset": "1e-1"}, Options(unset=0.1)),
    ],
)
def test_texts_and_numbers_within_the_range_are_read(given: dict[str, Any], options: Options) -> None:
    assert read_options(Options, given) == options


@pytest.mark.parametrize("value", ["0.9", "8.1", "nan", "inf", "-1", "1e99", "", "off", "four", None, True, [1]])
def test_what_is_out_of_range_or_no_number_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(PolicyError) as raised:
        read_options(Options, {"depth-max": value})
    assert str(raised.value) == f"option depth-max={value}: must be from 1 to 8"


@pytest.mark.parametrize(("value", "count"), [("16", 16), ("3.0", 3), (1, 1)])
def test_a_whole_number_is_an_int(value: Any, count: int) -> None:
    read = read_options(WholeOptions, {"count": value})
    assert (read, type(read.count)) == (WholeOptions(count), int)


@pytest.mark.parametrize("value", ["2.5", "0", "17", "nan", "inf", "1e999"])
def test_what_is_no_whole_number_is_refused_in_one_line(value: str) -> None:
    with pytest.raises(PolicyError) as raised:
        read_options(WholeOptions, {"count": value})
    assert str(raised.value) == f"option count={value}: must be a whole number from 1 to 16"


def test_an_option_that_may_be_off_says_so() -> None:
    with pytest.raises(PolicyError, match="option threshold=Off: must be from 0 to 1, or off"):
        read_options(Options, {"threshold": "Off"})


@pytest.mark.parametrize("name", ["depth", "depth_max", "Depth-Max", ""])
def test_an_unknown_option_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(PolicyError) as raised:
        read_options(Options, {name: "2"})
    assert str(raised.value) == f"no option {name}; there are depth-max, threshold, unset"
    with pytest.raises(PolicyError, match="there are none"):
        read_options(NoOptions, {name: "2"})


def test_each_option_is_described_in_a_line() -> None:
    assert described(Options) == ["depth-max=4: how deep", "threshold=0.5: from where", "unset=off: nothing"]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_built_in_policy_takes_its_defaults_and_refuses_what_it_does_not_have(name: str) -> None:
    defaults = {field.name.replace("_", "-"): field.default for field in attrs.fields(POLICIES[name].options)}
    make_policy(name, defaults, Random(1))
    with pytest.raises(PolicyError, match="no option nonsense"):
        make_policy(name, {"nonsense": "1"}, Random(1))
