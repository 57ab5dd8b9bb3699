"""Both commands' options: what they become, and the one line about each that is wrong."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from rproxy.tap import agent, proxy
from rproxy.tap.options import CommandOptions

PROXY = proxy.Options
AGENT = agent.Options


def parsed(options: type[CommandOptions], line: str) -> Any:
    command: Any = options()
    command.parseOptions(line.split())
    return command.settings


def test_proxy_without_options_has_the_reports_values() -> None:
    settings = parsed(PROXY, "")
    assert settings == proxy.Settings()
    assert settings.listen == ("80",)
    assert settings.monitor == ("", 5555)
    timing = settings.timing
    assert (timing.probe_interval_s, timing.probe_timeout_s, timing.liveness_s) == (5, 0.5, 10)
    assert settings.saturation == 0.70


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--listen 81 --listen [::1]:82", "listen", ("81", "[::1]:82")),
        ("--monitor 6000", "monitor", ("", 6000)),
        ("--monitor 10.1.1.10:6000", "monitor", ("10.1.1.10", 6000)),
        ("--monitor [::]:6000", "monitor", ("::", 6000)),
        ("--demo 3", "monitor", ("127.0.0.1", 5555)),
        ("--backend-port 8000", "backend_port", 8000),
        ("--saturation off", "saturation", None),
        ("--saturation 0.5", "saturation", 0.5),
        ("--allow 10.0.0.0/8 --allow ::1", "allow", (ip_network("10.0.0.0/8"), ip_network("::1"))),
        ("--admin 127.0.0.1:8081", "admin", ("127.0.0.1", 8081)),
        ("--policy random", "policy", "random"),
        ("--trace", "trace", True),
    ],
)
def test_a_proxy_option_becomes_its_setting(line: str, name: str, value: object) -> None:
    assert getattr(parsed(PROXY, line), name) == value


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("", "proxies", (("10.1.1.10", 5555),)),
        ("--proxy [::1]:6000", "proxies", (("10.1.1.10", 5555), ("::1", 6000))),
        ("", "interval_s", 20.0),
        ("--interval 0.5", "interval_s", 0.5),
        ("--port 0", "port", 0),
        ("--service-port 8000", "service_port", 8000),
        ("--weight 65535", "weight", 65535),
        ("--report cpu=100,tcp=7", "report", {"cpu": 100, "tcp": 7}),
    ],
)
def test_an_agent_option_becomes_its_setting(line: str, name: str, value: object) -> None:
    assert getattr(parsed(AGENT, f"--proxy 10.1.1.10 {line}"), name) == value


@pytest.mark.parametrize(
    ("options", "line", "told"),
    [
        (PROXY, "--lisen 80", "lisen"),
        (PROXY, "stray", "stray"),
        (PROXY, "--monitor 70000", "--monitor"),
        (PROXY, "--monitor ::1:5555", "--monitor"),
        (PROXY, "--backend-port 0", "--backend-port"),
        (PROXY, "--probe-interval 0", "--probe-interval"),
        (PROXY, "--probe-interval nan", "--probe-interval"),
        (PROXY, "--probe-timeout -1", "--probe-timeout"),
        (PROXY, "--liveness inf", "--liveness"),
        (PROXY, "--liveness 5", "--liveness"),
        (PROXY, "--saturation 900", "--saturation"),
        (PROXY, "--saturation 0", "--saturation"),
        (PROXY, "--allow 10.0.0.1/8", "--allow"),
        (PROXY, "--demo -1", "--demo"),
        (PROXY, "--admin 8081", "--admin"),
        (AGENT, "", "--proxy"),
        (AGENT, "--proxy :5555", "--proxy"),
        (AGENT, "--proxy a:0", "--proxy"),
        (AGENT, "--proxy a --interval 0", "--interval"),
        (AGENT, "--proxy a --interval abc", "--interval"),
        (AGENT, "--proxy a --weight 0", "--weight"),
        (AGENT, "--proxy a --port 65536", "--port"),
        (AGENT, "--proxy a --report cpu=101", "--report cpu"),
        (AGENT, "--proxy a --report disk=1", "--report disk"),
    ],
)
def test_a_wrong_option_ends_with_one_line_that_names_it(options: type[CommandOptions], line: str, told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(options, line)
    text = str(ended.value)
    assert told in text
    assert "\n" not in text


def test_an_unknown_policy_is_told_with_the_known_ones() -> None:
    with pytest.raises(Exception, match="--policy best: no such policy; there are report"):
        proxy.policy_factory("best")


@pytest.mark.parametrize(("options", "name"), [(PROXY, "rproxy.pid"), (AGENT, "rproxy-agent.pid")])
def test_each_command_has_a_pid_file_of_its_own(
    options: type[CommandOptions], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command: Any = options()
    command.parent = {"pidfile": "twistd.pid"}
    command.parseOptions(["--proxy", "a"] if options is AGENT else [])
    assert command.parent["pidfile"] == name


def test_a_pid_file_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    command: Any = PROXY()
    command.parent = {"pidfile": str(tmp_path / "mine")}
    command.parseOptions([])
    assert command.parent["pidfile"] == str(tmp_path / "mine")
