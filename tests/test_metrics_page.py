"""The manual's page of metrics agrees with the program."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest

from rproxy.observe.backend_metrics import BACKEND_FAMILIES
from rproxy.observe.metric_family import Family
from rproxy.observe.process_metrics import PROCESS_FAMILIES
from rproxy.observe.service_metrics import SERVICE_FAMILIES
from rproxy.observe.shadow_metrics import SHADOW_FAMILIES
from rproxy.tap import docs, prometheus

WIDTHS = (44, 9, 8, 56)


def table(families: Sequence[Family[Any]]) -> str:
    """The table that the page must have."""
    rule = " ".join("=" * width for width in WIDTHS)
    lines = [rule, row("metric", "type", "label", "meaning"), rule]
    for family in families:
        first, *more = textwrap.wrap(family.text.removesuffix("."), WIDTHS[-1])
        lines.append(row(f"``{family.name}``", family.kind, family.label, first))
        lines += [row("", "", "", text) for text in more]
    return "\n".join([*lines, rule, ""])


def row(*cells: str) -> str:
    return " ".join(map(str.ljust, cells, WIDTHS)).rstrip()


@pytest.mark.parametrize(
    "families",
    [BACKEND_FAMILIES, SERVICE_FAMILIES, SHADOW_FAMILIES, PROCESS_FAMILIES],
    ids=["back-ends", "services", "shadows", "process"],
)
def test_the_tables_are_the_programs(families: Sequence[Family[Any]]) -> None:
    assert table(families) in docs.pages()["metrics"]


def test_no_other_metric_is_described() -> None:
    named = set(re.findall(r"^``(\w+)`` +(?:gauge|counter|histogram)", docs.pages()["metrics"], re.MULTILINE))
    families: list[Family[Any]] = [*BACKEND_FAMILIES, *SERVICE_FAMILIES, *SHADOW_FAMILIES, *PROCESS_FAMILIES]
    assert named == {family.name for family in families}


def test_every_alert_is_described_with_its_severity() -> None:
    shown = dict(re.findall(r"^``(Rproxy\w+)`` +(\w+) ", docs.pages()["metrics"], re.MULTILINE))
    rules = prometheus.text_of("alerts")
    assert shown == dict(re.findall(r"alert: (\w+)\n(?:.*\n)+? +severity: (\w+)", rules))
