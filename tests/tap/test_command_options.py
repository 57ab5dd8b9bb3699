"""What a command line comes to: pid files, and services that are made and open nothing yet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import twisted.internet

from rproxy.observe.scores import ReportScore
from rproxy.tap import agent, pidfile, proxy
from rproxy.tap.proxy import makeService
from tests.config.commands import ANY_HOST, one_line, parsed
from tests.fakes import Reactor


@pytest.mark.parametrize(
    ("given", "used"),
    [("twistd.pid", "rproxy.pid"), ("mine.pid", "mine.pid"), ("", ""), (None, None)],
    ids=["twistd's default", "of one's own", "none", "not asked"],
)
def test_the_pid_file_is_the_commands_own_unless_it_is_chosen(
    given: str | None, used: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parent: Any = {"pidfile": given}
    options = proxy.Options()
    options.parent = parent
    options.parseOptions(list(ANY_HOST))
    assert parent == {"pidfile": used}


def test_a_folder_where_no_pid_file_can_be_written_is_one_line() -> None:
    parent: Any = {"pidfile": "/nonexistent/folder/mine.pid"}
    options = proxy.Options()
    options.parent = parent
    with pytest.raises(SystemExit) as ended:
        options.parseOptions(list(ANY_HOST))
    assert "/nonexistent/folder/mine.pid" in one_line(ended.value)


def test_a_folder_without_the_right_to_write_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfile.os, "access", lambda path, mode: False)  # type: ignore[attr-defined]
    parent: Any = {"pidfile": "twistd.pid"}
    options = proxy.Options()
    options.parent = parent
    with pytest.raises(SystemExit) as ended:
        options.parseOptions(list(ANY_HOST))
    assert "rproxy.pid" in one_line(ended.value)


def test_no_pid_file_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfile.os, "access", lambda path, mode: False)  # type: ignore[attr-defined]
    parent: Any = {"pidfile": ""}
    options = proxy.Options()
    options.parent = parent
    options.parseOptions(list(ANY_HOST))
    assert parent == {"pidfile": ""}


NO_LISTENERS = [
    *("", "abc", "-1", "70000", "10.1.1.10:", "10.1.1.10:70000", "::1:80", "[zz]:80", ":80", "80 81"),
    *("tcp:abc", "tcp:", "tcp:80:nope=1", "ssl:443:privateKey=/nonexistent.pem", "ssl:443", "systemd:"),
]


@pytest.mark.parametrize("text", NO_LISTENERS)
def test_a_listener_that_cannot_be_is_one_line_that_names_it(text: str, reactor: Reactor) -> None:
    options = parsed("--listen", text)
    with pytest.raises(SystemExit) as ended:
        makeService(options)
    assert "--listen" in one_line(ended.value)
    assert reactor.ports == []


def test_a_policy_that_does_not_exist_is_one_line_that_names_it() -> None:
    options = parsed("--policy", "best")
    with pytest.raises(SystemExit) as ended:
        makeService(options)
    assert "--policy best" in one_line(ended.value)


def test_a_proxy_is_made_of_its_settings_and_opens_nothing_yet(reactor: Reactor) -> None:
    options = parsed("--saturation", "off", "--backend-port", "8000", "--probe-timeout", "0.2")
    service = makeService(options)
    table, (wiring,) = service.service.pool, service._services
    assert (wiring.served.view.report_score, table.default_port, table.timeout_s) == (
        ReportScore(None),
        8000,
        0.2,
    )
    assert reactor.ports == []


@pytest.mark.parametrize(
    ("given", "used"),
    [("twistd.pid", "rproxy-agent.pid"), ("mine.pid", "mine.pid"), ("", "")],
    ids=["twistd's default", "of one's own", "none"],
)
def test_an_agents_pid_file_is_its_own_unless_it_is_chosen(
    given: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parent: Any = {"pidfile": given}
    options = agent.Options()
    options.parent = parent
    options.parseOptions(["--proxy", "10.1.1.10"])
    assert parent == {"pidfile": used}


def test_an_agent_is_made_of_its_settings_and_opens_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    reactor = Reactor()
    monkeypatch.setattr(twisted.internet, "reactor", reactor, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    options = agent.Options()
    options.parseOptions(["--proxy", "10.1.1.10", "--interval", "30", "--service-port", "8000", "--weight", "7"])
    registration = agent.makeService(options).agent.registration
    assert (registration.interval_s, registration.port, registration.weight) == (30, 8000, 7)
    assert reactor.ports == []


def test_every_agent_is_an_instance_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twisted.internet, "reactor", Reactor(), raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    options = agent.Options()
    options.parseOptions(["--proxy", "10.1.1.10"])
    assert (
        agent.makeService(options).agent.registration.instance != agent.makeService(options).agent.registration.instance
    )
