"""`rproxy prometheus`: files that promtool finds nothing wrong with, and a dashboard of metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from rproxy.observe.backend_metrics import BACKEND_FAMILIES
from rproxy.observe.metric_family import Family
from rproxy.observe.process_metrics import PROCESS_FAMILIES
from rproxy.observe.service_metrics import SERVICE_FAMILIES
from rproxy.observe.shadow_metrics import SHADOW_FAMILIES
from rproxy.tap import prometheus
from rproxy.tap.command import main
from tests.conftest import output_of

Captured = pytest.CaptureFixture[str]
RULE_TESTS: Final = Path(__file__).parents[1] / "data" / "alerts_test.yml"
FAMILIES: Final[list[Family[Any]]] = [*BACKEND_FAMILIES, *SERVICE_FAMILIES, *SHADOW_FAMILIES, *PROCESS_FAMILIES]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the files are, by the names that they have in each other."""
    tmp_path.joinpath("prometheus.yml").write_text(prometheus.text_of("config"))
    for name in ("alerts.yml", "rproxy-alerts.yml"):
        tmp_path.joinpath(name).write_text(prometheus.text_of("alerts"))
    shutil.copy(RULE_TESTS, tmp_path)
    return tmp_path


def promtool(folder: Path, *arguments: str) -> str:
    return output_of("promtool", *arguments, folder=folder)


def test_the_rules_are_valid(folder: Path) -> None:
    assert "SUCCESS" in promtool(folder, "check", "rules", "alerts.yml")


def test_the_configuration_is_valid_with_the_rules_beside_it(folder: Path) -> None:
    assert "1 rule files found" in promtool(folder, "check", "config", "prometheus.yml")


def test_each_alert_fires_where_it_should_and_nowhere_else(folder: Path) -> None:
    assert "SUCCESS" in promtool(folder, "test", "rules", RULE_TESTS.name)
    tested = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", RULE_TESTS.read_text()))
    assert tested == set(re.findall(r"alert: (\w+)", prometheus.text_of("alerts")))


@pytest.mark.parametrize("name", prometheus.FILES)
def test_a_file_is_printed_by_its_name(capfd: Captured, name: str) -> None:
    assert main(["prometheus", name]) == 0
    assert capfd.readouterr() == (prometheus.text_of(name), "")


def test_without_a_name_they_are_listed(capfd: Captured) -> None:
    assert main(["prometheus"]) == 0
    printed, _ = capfd.readouterr()
    assert [line.split()[0] for line in printed.splitlines()] == list(prometheus.FILES)


def test_an_unknown_name_is_one_line(capfd: Captured) -> None:
    assert main(["prometheus", "rules"]) == 2
    assert capfd.readouterr() == (
        "",
        "rproxy prometheus: error: there is no 'rules', but config, alerts, dashboard\n",
    )


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(prometheus.text_of("dashboard"))
    return document


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (variable["definition"] for variable in dashboard()["templating"]["list"] if "definition" in variable)
    yield prometheus.text_of("alerts")


def test_dashboard_and_rules_name_only_metrics_that_there_are() -> None:
    series = {family.name for family in FAMILIES if family.kind != "histogram"}
    series |= {f"{family.name}_bucket" for family in FAMILIES if family.kind == "histogram"}
    named = set(re.findall(r"\b(?:r?proxy_|process_)\w+(?=[{\[ )])", "\n".join(expressions())))
    assert named - series == set()
    assert len(named) > 40


def test_every_histogram_is_on_the_dashboard() -> None:
    shown = "\n".join(expressions())
    assert [family.name for family in FAMILIES if family.kind == "histogram" and family.name not in shown] == []


def test_panels_have_titles_numbers_and_a_place_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_every_panel_asks_the_data_source_that_is_chosen() -> None:
    sources = [target["datasource"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    assert {source["uid"] for source in sources} == {"${datasource}"}
