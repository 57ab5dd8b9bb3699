"""A real Prometheus scrapes a proxy, evaluates the alert rules, and answers what the dashboard asks."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any, Final

import attrs
import pytest

from rproxy.agent.sampler import Load
from rproxy.net.addresses import written
from rproxy.tap import prometheus
from tests.integration.addresses import RefusingPort
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.prometheus import Prometheus
from tests.integration.proxies import Proxy
from tests.integration.servers import Server
from tests.integration.sockets import connect, receive

LOAD: Final = Load(cpu=30, memory=40, tcp=5, application=50)
OPTIONS: Final = (
    "--policy",
    "round-robin",
    "--shadow",
    "least-connections",
    "--probe-interval",
    "1",
    "--liveness",
    "3",
)
CLIENTS_S: Final = 20.0
TRAFFIC_S: Final = 4.0
"""Several scrapes."""
VARIABLES: Final = {"$__rate_interval": "20s", "$instance": ".*", "$service": ".*", "$backend": ".*"}
DASHBOARD: Final = json.loads(prometheus.text_of("dashboard"))


@attrs.frozen
class Scraped:
    proxy: Proxy
    prometheus: Prometheus
    server: Server
    refusing: RefusingPort
    clients: int
    """That were served meanwhile."""


def answer(client: Any) -> None:
    with client:
        client.sendall(b"hi")


def visit(proxy: Proxy) -> int:
    """Clients come for `TRAFFIC_S`. Returns how many."""
    clients, end = 0, time.monotonic() + TRAFFIC_S
    while (now := time.monotonic()) < end:
        with connect(proxy.address) as client:
            assert receive(client, 2) == b"hi"
        clients += 1
        time.sleep(max(now + 1 / CLIENTS_S - time.monotonic(), 0))
    return clients


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """Beside two back-ends that serve, one refuses, and then its agent falls silent, so that it goes down."""
    folder = tmp_path_factory.mktemp("prometheus")
    with Proxy(folder, *OPTIONS) as proxy, Prometheus(folder, proxy.admin) as scraping:
        pool = Pool(proxy)
        server, _, refusing = pool.serve(answer, LOAD), pool.serve(answer, LOAD), pool.refuse(LOAD)
        poll(lambda: len(scraping.values('rproxy_server_status{state="up"} == 1')) == 3, READY_S, "all are scraped")
        clients = visit(proxy)
        poll(lambda: proxy.sessions().get("closed") == clients, READY_S, "all sessions have ended")
        pool.agent_of(refusing.address).close(unregister=False)
        poll(lambda: scraping.values('rproxy_server_status{state="down"} == 1'), READY_S, "it is down")
        poll(lambda: scraping.values("rproxy_frontend_sessions_total") == [clients], READY_S, "that is scraped")
        poll(lambda: scraping.values('ALERTS{alertname="RproxyBackendDown"}'), READY_S, "the rules are evaluated")
        yield Scraped(proxy, scraping, server, refusing, clients)
        pool.abandon()


def substituted(expression: str) -> str:
    """As Grafana asks it."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def panels() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{panel['id']}-{panel['title']}-{target['refId']}")
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]


@pytest.mark.parametrize("expression", panels())
def test_each_panel_has_something_to_show(scraped: Scraped, expression: str) -> None:
    values = scraped.prometheus.values(substituted(expression))
    assert [value for value in values if not math.isnan(value)] != []


def test_the_dashboards_variables_have_values(scraped: Scraped) -> None:
    found = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert match is not None
            selector, label = match.groups()
            found[variable["name"]] = scraped.prometheus.ask(
                f"label/{label}/values", **{"match[]": substituted(selector)}
            )
    assert list(found) == ["instance", "service", "backend"]
    assert (found["service"], len(found["backend"])) == (["default"], 3)


def test_what_is_scraped_is_what_has_happened(scraped: Scraped) -> None:
    clients, values = scraped.clients, scraped.prometheus.values
    refusing = written(scraped.refusing.address)
    assert values('rproxy_frontend_session_endings_total{ending="closed"}') == [clients]
    assert values("sum(rproxy_server_sessions_total)") == [clients]
    assert values("rproxy_frontend_bytes_out_total") == [2 * clients]
    assert values('rproxy_backend_connect_time_seconds_bucket{le="+Inf"}') == [clients]
    (errors,) = values(f'rproxy_server_connection_errors_total{{backend="{refusing}"}}')
    assert errors >= 1
    assert values("sum(rproxy_server_connection_errors_total)") == [errors]
    assert values(f'rproxy_server_redispatch_warnings_total{{backend="{refusing}"}}') == [errors]
    assert values(f'rproxy_server_check_up_down_total{{backend="{refusing}"}}') == [1]
    assert values("rproxy_backend_active_servers") == [2]
    assert values("avg(rproxy_server_cpu_ratio)") == [pytest.approx(0.3)]


def test_the_rules_are_evaluated_and_the_back_end_that_is_down_is_noticed(scraped: Scraped) -> None:
    (group,) = scraped.prometheus.ask("rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    states = {rule["name"]: rule["state"] for rule in group["rules"]}
    assert states.pop("RproxyBackendDown") == "pending"
    assert states.pop("RproxyConnectErrors") == "pending"
    assert set(states.values()) == {"inactive"}
