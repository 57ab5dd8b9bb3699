"""In which order the parts of a proxy are started and stopped."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from rproxy.sources.saved.keeper import STOP_S
from rproxy.tap.carrier_part import CarrierPart
from rproxy.tap.demo import Demo
from rproxy.tap.listeners import ClientListeners
from rproxy.tap.operators_listener import OperatorsListener
from rproxy.tap.parts import Group, Part
from rproxy.tap.session_timeouts import SessionTimeouts
from rproxy.tap.startup import StartupError
from tests.fakes import run
from tests.tap.services import DRAIN_S, ProxyBench, ended

STEPS = ("privilegedStartService", "startService", "stop_accepting", "stopService")


class NotedBench(ProxyBench):
    """Notes each step of each part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        super().__init__(**{"listen": ("8080",), "admin": ("127.0.0.1", 8082), **settings})
        self.done: list[tuple[str, str]] = []
        for part in self.all_parts():
            for step in STEPS:
                monkeypatch.setattr(part, step, self._noting(part, step))

    def all_parts(self) -> list[Part]:
        """Those of services are in groups."""
        return [part for each in self.service for part in (each if isinstance(each, Group) else [each])]

    def _noting(self, part: Any, step: str) -> Any:
        call = getattr(part, step)

        def noting() -> object:
            self.done.append((step, type(part).__name__))
            return call()

        return noting

    def parts(self, step: str) -> list[str]:
        return [part for done, part in self.done if done == step]


WITHOUT_STATE = [
    "AccessLogPart",
    *("Timers", "Timers"),  # of the process, and of its service
    "AgentsPort",
    "ClientListeners",
    "StaticPart",
    "LivePage",
    "Started",
    "OperatorsListener",
    "Demo",
    "SessionTimeouts",
    "OutboundPart",
    "ClientLimits",
    "CarrierPart",
]
IN_ORDER = ["StateKeeper", *WITHOUT_STATE]


def test_all_parts_open_before_any_starts_and_accept_nothing_before_any_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    bench = NotedBench(monkeypatch, state_file=str(tmp_path / "state"))
    bench.start()
    ended(bench.service.stopService())
    run(bench.reactor, STOP_S + DRAIN_S)
    assert [step for step, _ in bench.done] == [step for step in STEPS for _ in IN_ORDER]
    for step in STEPS[:3]:
        assert bench.parts(step) == IN_ORDER
    assert bench.parts("stopService") == IN_ORDER[::-1]


def test_no_part_is_stopped_while_a_session_may_still_end(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = NotedBench(monkeypatch)
    bench.start()
    bench.backend_up()
    bench.session()
    stopped = ended(bench.service.stopService())
    run(bench.reactor, DRAIN_S / 2)
    assert (bench.parts("stopService"), stopped) == ([], [])
    run(bench.reactor, DRAIN_S)
    assert bench.parts("stopService") == WITHOUT_STATE[::-1]
    assert len(stopped) == 1


def test_a_second_signal_ends_the_sessions_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = NotedBench(monkeypatch)
    bench.start()
    bench.backend_up()
    bench.session()
    stopped = ended(bench.service.stopService())
    bench.service.stop_at_once()
    run(bench.reactor, 0.1)
    assert (bench.service.capacity.sessions, len(stopped)) == (0, 1)


def test_a_part_that_cannot_open_stops_those_that_did(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = NotedBench(monkeypatch)
    bench.reactor.taken.add(8082)
    with pytest.raises(StartupError):
        bench.start()
    assert bench.parts("privilegedStartService") == WITHOUT_STATE[: WITHOUT_STATE.index("OperatorsListener") + 1]
    assert bench.parts("startService") == []
    assert bench.parts("stopService") == WITHOUT_STATE[::-1]
    assert (bench.opened(), bench.reactor.getDelayedCalls()) == ([], [])


def test_waiting_clients_are_let_go_only_when_no_other_can_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = NotedBench(monkeypatch)
    bench.start()
    ended(bench.service.stopService())
    order = bench.parts("stop_accepting")
    assert order.index(SessionTimeouts.__name__) > order.index(ClientListeners.__name__)


def test_a_demos_agents_unregister_when_no_session_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = NotedBench(monkeypatch)
    bench.start()
    ended(bench.service.stopService())
    run(bench.reactor, DRAIN_S)
    order = bench.parts("stopService")
    assert order.index(Demo.__name__) > order.index(CarrierPart.__name__)


def test_operators_can_watch_the_sessions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their port closes with the others, their connections only after the sessions."""
    bench = NotedBench(monkeypatch)
    aborted: list[int] = []
    bench.start()
    bench.backend_up()
    bench.session()
    (operators,) = (part for part in bench.all_parts() if isinstance(part, OperatorsListener))
    monkeypatch.setattr(operators._site, "stop", lambda: aborted.append(1))
    stopped: list[object] = []
    stopping: Deferred[Any] = bench.service.stopService()
    stopping.addBoth(stopped.append)
    run(bench.reactor, DRAIN_S / 2)
    assert (8082 in [port for _, _, port in bench.opened()], aborted) == (False, [])
    run(bench.reactor, DRAIN_S)
    assert (aborted, len(stopped)) == ([1], 1)
