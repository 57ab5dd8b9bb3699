"""`/api/explain`: of every service, and of back-ends that there are not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.observe.explanations import Explanations
from rproxy.observe.parameters import BadParameter, Missing
from rproxy.observe.scores import ReportScore
from rproxy.observe.session_counters import SessionCounters
from rproxy.observe.status_json import ServiceView
from rproxy.pool.admission import Refusal
from rproxy.pool.states import Administration
from rproxy.sessions.service import Service
from rproxy.wire.pdu import Flaw
from tests.observe.explaining import Told
from tests.policies.balancing import policy
from tests.pool.driving import agent


class Bench:
    """Services with a pool each, of which the first one is driven."""

    def __init__(self, *names: str, takes_agents: bool = True) -> None:
        self.told = told = Told(policy("least-connections"))
        clock = Clock()
        clock.advance(told.now)
        pools = [told.real, *(Told(policy("random")).real for _ in names[1:])]
        services = [Service(pool, clock, name=name) for name, pool in zip(names, pools, strict=True)]
        views = [ServiceView(each, SessionCounters(), ReportScore()) for each in services]
        self.drops: dict[str, tuple[float, str]] = {}
        self.explanations = Explanations(
            lambda: views, told.book, told.history, self.drops.get, lambda name: takes_agents, lambda: told.wall
        )

    def ask(self, **parameters: str) -> list[dict[str, Any]]:
        document = json.loads(b"".join(self.explanations.rendered(parameters)))
        assert list(document) == ["explanations"]
        found: list[dict[str, Any]] = document["explanations"]
        return found

    def text(self, backend: str) -> str:
        (explained,) = self.ask(backend=backend)
        assert not explained["known"]
        assert not explained["eligible"]
        return str(explained["text"])


@pytest.fixture
def bench() -> Bench:
    return Bench("default")


def test_one_that_is_known(bench: Bench) -> None:
    bench.told.up(agent(1))
    (explained,) = bench.ask(backend="10.0.0.1:80")
    assert (explained["service"], explained["backend"]) == ("default", "10.0.0.1:80")
    assert (explained["known"], explained["eligible"]) == (True, True)
    assert explained["text"].startswith("up; ")


def test_only_services_that_know_it_explain_it() -> None:
    bench = Bench("default", "web")
    bench.told.up(agent(1))
    assert [each["service"] for each in bench.ask(backend="10.0.0.1:80")] == ["default"]
    assert [each["known"] for each in bench.ask(backend="10.0.0.1:80", service="web")] == [False]
    assert [each["service"] for each in bench.ask(backend="10.0.0.2:80")] == ["default", "web"]


def test_what_is_asked_for_must_be_there(bench: Bench) -> None:
    with pytest.raises(BadParameter, match="backend must be given"):
        bench.ask()
    with pytest.raises(BadParameter, match="ADDRESS:PORT"):
        bench.ask(backend="web")
    with pytest.raises(Missing, match="no service has that name"):
        bench.ask(backend="10.0.0.1:80", service="web")


def test_nobody_has_registered_it(bench: Bench) -> None:
    assert bench.text("10.0.0.1:80") == "not registered: nobody has registered it"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (Flaw.UNSEALED, "it is not sealed with a key, and this proxy has a --keyring"),
        (Refusal.NOT_ALLOWED, "its network is not one that may register (--allow, from)"),
        (Refusal.LATE, "late"),
    ],
)
def test_the_last_datagram_of_its_host_was_dropped(bench: Bench, reason: str, said: str) -> None:
    bench.drops["2001:db8::1"] = (bench.told.now, str(reason))
    bench.told.now += 30
    expected = "not registered: nobody has registered it; the last datagram from 2001:db8::1 that was dropped came at "
    assert bench.text("[2001:db8::1]:80") == f"{expected}12:00:30: {said}"


def test_it_has_gone(bench: Bench) -> None:
    backend = bench.told.up(agent(1))
    bench.told.now += 60
    bench.told.unregister((backend.address, 5555))
    assert bench.text("10.0.0.1:80") == "gone since 12:01:00: unregistered"


def test_an_operator_waits_for_it(bench: Bench) -> None:
    bench.told.real.overrides.administer(("10.0.0.1", 80), Administration.MAINT, bench.told.now, bench.told.wall)
    assert bench.text("10.0.0.1:80").endswith("; it will be in maintenance when it comes, because an operator says so")


def test_one_that_has_gone_is_said_once_to_be_drained(bench: Bench) -> None:
    backend = bench.told.up(agent(1))
    bench.told.real.overrides.administer((backend.address, 80), Administration.DRAIN, bench.told.now, bench.told.wall)
    bench.told.unregister((backend.address, 5555))
    text = bench.text("10.0.0.1:80")
    assert text == "gone since 12:00:00: unregistered; it will drain when it comes, because an operator says so"


def test_others_of_its_host(bench: Bench) -> None:
    bench.told.up(agent(1))
    assert bench.text("10.0.0.1:8080").endswith("; of this host there is 10.0.0.1:80")


def test_a_service_that_takes_no_agents() -> None:
    assert Bench("default", takes_agents=False).text("10.0.0.1:80") == (
        "not configured, and this service takes no agents"
    )
