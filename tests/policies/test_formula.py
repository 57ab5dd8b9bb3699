"""The report's score, against the values it printed and at the ends of every field."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.policies.formula import SATURATED, SATURATION, score
from rproxy.wire.pdu import UINT32_MAX

IDLE: dict[str, Any] = {"rtt_ms": 0.0, "tcp": 0, "loss": 0.0, "cpu": 0, "memory": 0}
ENDS: list[tuple[Any, ...]] = [(0.0, 1e9), (0, UINT32_MAX), (0.0, 1.0), (0, 100, None), (0, 100, None)]
"""The least and the most of every field, in the order of `IDLE`, and where it may be unknown."""


@pytest.mark.parametrize(
    ("rtt_ms", "tcp", "cpu", "memory", "printed"),
    [(11, 0, 17, 89, 0.695), (8, 0, 7, 89, 0.6), (4, 100, 100, 100, 4.06), (3, 100, 100, 100, 4.045)],
)
def test_a_published_score_is_met(rtt_ms: float, tcp: int, cpu: int, memory: int, printed: float) -> None:
    """Figure 5.10, where the threshold did not act."""
    result = score(rtt_ms=rtt_ms, tcp=tcp, loss=0, cpu=cpu, memory=memory, saturation=None)
    assert result == pytest.approx(printed, abs=1e-9)


@pytest.mark.parametrize(
    ("field", "value", "term"),
    [("rtt_ms", 20.0, 0.30), ("tcp", 10, 0.30), ("loss", 0.01, 0.30), ("cpu", 10, 0.05), ("memory", 10, 0.05)],
)
def test_every_term_has_its_weight_at_its_ideal(field: str, value: float, term: float) -> None:
    assert score(**IDLE | {field: value}) == pytest.approx(term, abs=1e-9)


def test_an_idle_host_scores_nothing() -> None:
    assert score(**IDLE) == 0


@pytest.mark.parametrize(
    ("field", "below", "at", "above"),
    [("cpu", 69, 70, 71), ("memory", 69, 70, 71), ("loss", 0.69, 0.70, 0.71)],
)
def test_from_the_threshold_on_a_host_is_saturated(field: str, below: float, at: float, above: float) -> None:
    assert SATURATION == 0.70
    assert score(**IDLE | {field: below}) < SATURATED
    assert score(**IDLE | {field: at}) == score(**IDLE | {field: above}) == SATURATED


@pytest.mark.parametrize("field", ["cpu", "memory"])
def test_every_percentage_may_be_the_threshold(field: str) -> None:
    for percent in range(1, 101):
        assert score(**IDLE | {field: percent}, saturation=percent / 100) == SATURATED
        assert score(**IDLE | {field: percent - 1}, saturation=percent / 100) < SATURATED


@pytest.mark.parametrize("field", ["rtt_ms", "tcp"])
def test_neither_round_trip_time_nor_connections_saturate(field: str) -> None:
    assert score(**IDLE | {field: 20}) < SATURATED


@pytest.mark.parametrize("field", ["cpu", "memory", "loss"])
def test_without_a_threshold_nothing_is_saturated(field: str) -> None:
    full = IDLE | {field: 1.0 if field == "loss" else 100}
    assert score(**full) == SATURATED
    assert score(**full, saturation=None) != SATURATED


@pytest.mark.parametrize("field", ["cpu", "memory"])
def test_an_unknown_percentage_counts_as_half(field: str) -> None:
    assert score(**IDLE | {field: None}) == score(**IDLE | {field: 50})


@pytest.mark.parametrize("saturation", [0.01, 0.5, 0.7])
def test_an_unknown_percentage_never_saturates(saturation: float) -> None:
    assert score(rtt_ms=0, tcp=0, loss=0, cpu=None, memory=None, saturation=saturation) < SATURATED


@pytest.mark.parametrize("saturation", [None, SATURATION])
def test_the_ends_of_every_field_give_a_number(saturation: float | None) -> None:
    for values in product(*ENDS):
        fields: dict[str, Any] = dict(zip(IDLE, values, strict=True))
        result = score(**fields, saturation=saturation)
        assert math.isfinite(result), values
        assert result >= 0, values


@given(
    field=st.sampled_from(sorted(IDLE)),
    host=st.fixed_dictionaries(
        {
            "rtt_ms": st.floats(0, 1000),
            "tcp": st.integers(0, UINT32_MAX),
            "loss": st.floats(0, 0.69),
            "cpu": st.integers(0, 69),
            "memory": st.integers(0, 69),
        }
    ),
)
def test_more_of_anything_is_never_better(field: str, host: dict[str, Any]) -> None:
    more = host | {field: host[field] + (0.01 if field == "loss" else 1)}
    assert score(**more, saturation=None) > score(**host, saturation=None)
