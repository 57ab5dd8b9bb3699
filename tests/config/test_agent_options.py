"""The command line of `twistd rproxy-agent`."""

from __future__ import annotations

import os

import pytest

from rproxy.config.model import AgentConfig
from rproxy.config.options import AgentOptions

PROXY = ("10.1.1.10", 5555)


def config_of(*arguments: str) -> AgentConfig:
    options = AgentOptions()
    options.parseOptions(list(arguments))
    return options.config


def message_of(*arguments: str) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        config_of(*arguments)
    text = str(ended.value.code)
    assert text.startswith("twistd rproxy-agent: ")
    assert "\n" not in text
    return text


def test_with_a_proxy_alone_it_is_the_reports_agent() -> None:
    assert config_of("--proxy", "10.1.1.10") == AgentConfig(
        proxies=(PROXY,), interval_s=20, port=None, service_port=0, weight=100, report={}, trace=False
    )


@pytest.mark.parametrize(
    ("given", "proxies"),
    [
        (["10.1.1.10"], [PROXY]),
        (["10.1.1.10:6666"], [("10.1.1.10", 6666)]),
        (["proxy.example"], [("proxy.example", 5555)]),
        (["proxy.example:6666"], [("proxy.example", 6666)]),
        (["[::1]"], [("::1", 5555)]),
        (["[2001:DB8:0::5]:6666"], [("2001:db8::5", 6666)]),
        (["10.1.1.10", "10.1.1.11:6666"], [PROXY, ("10.1.1.11", 6666)]),
        (["10.1.1.10", "10.1.1.10:5555"], [PROXY]),
    ],
)
def test_a_proxy_is_a_host_with_or_without_a_port_and_there_may_be_several(
    given: list[str], proxies: list[tuple[str, int]]
) -> None:
    assert config_of(*(f"--proxy={proxy}" for proxy in given)).proxies == tuple(proxies)


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--interval", "30"], "interval_s", 30),
        (["-i", "0.5"], "interval_s", 0.5),
        (["--interval", "4294967.295"], "interval_s", 4294967.295),
        (["--port", "6666"], "port", 6666),
        (["--port", "0"], "port", 0),
        (["--service-port", "8000"], "service_port", 8000),
        (["-s", "65535"], "service_port", 65535),
        (["--weight", "1"], "weight", 1),
        (["--max-connections", "1"], "max_connections", 1),
        (["--max-connections", "4294967295"], "max_connections", 4294967295),
        ([], "max_connections", None),
        (["-w", "65535"], "weight", 65535),
        ([], "scope", "auto"),
        (["--scope", "host"], "scope", "host"),
        (["--scope", "cgroup"], "scope", "cgroup"),
        (["--scope", "auto"], "scope", "auto"),
        (["--report", "cpu=100,memory=100,tcp=100"], "report", {"cpu": 100, "memory": 100, "tcp": 100}),
        (["--report", "memory=0"], "report", {"memory": 0}),
        (["--report", "tcp=4294967294"], "report", {"tcp": 4294967294}),
        (["--drain-file", "/run/drain"], "drain_file", "/run/drain"),
        (["--drain-file", "drain"], "drain_file", os.path.abspath("drain")),
        ([], "check", "none"),
        (["--service-port", "80"], "check", "connect"),
        (["--service-port", "80", "--check", "none"], "check", "none"),
        (["--service-port", "80", "--check", "connect"], "check", "connect"),
        (["--service-port", "80", "--check", "http:/health?a=%20"], "check", "http:/health?a=%20"),
        (["--check", "command:true && true"], "check", "command:true && true"),
        (["--check", "none"], "check", "none"),
        (["--load-command", "cat /run/load"], "load_command", "cat /run/load"),
        (["--load-file", "/run/load"], "load_file", "/run/load"),
        (["--load-file", "load"], "load_file", os.path.abspath("load")),
        ([], "load_command", None),
        ([], "load_file", None),
        (["--trace"], "trace", True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_option_is_taken(arguments: list[str], name: str, value: object) -> None:
    assert getattr(config_of("--proxy", "10.1.1.10", *arguments), name) == value


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--interval", value) for value in ["0", "-1", "nan", "inf", "-inf", "abc", "", "4294968", "1e999", "20s"]),
        *(
            (option, value)
            for option in ("--port", "--service-port", "--weight")
            for value in ["-1", "70000", "nan", "inf", "abc", "", "1.5", "0x10", "9" * 400]
        ),
        ("--weight", "0"),
        ("--scope", ""),
        ("--scope", "container"),
        ("--scope", "HOST"),
        *(("--report", value) for value in ["cpu=101", "cpu=900", "cpu=-1", "memory=101", "tcp=-1", "tcp=4294967296"]),
        *(
            ("--report", value)
            for value in ["cpu=nan", "cpu=", "cpu", "cpu=1.5", "disk=1", "=1", "cpu:100", "cpu=100%"]
        ),
        ("--report", "cpu=1,memory=900"),
        *(("--check", value) for value in ["", "connect", "connect:80", "Connect", "http:/", "http", "command", "tcp"]),
        *(("--check", value) for value in ["command:", "command: ", "none:", "https:/", "file:/x"]),
        *(("--proxy", value) for value in ["", ":5555", "a:", "a:abc", "a:0", "a:70000", "a:-1", "::1", "::1:5555"]),
        *(
            ("--proxy", value)
            for value in ["[fe80::1%eth0]", "[::1", "[zz]", "[zz]:5555", "[::1]x", "a b", "a b:5555", "a:1:2"]
        ),
    ],
)
def test_a_value_that_cannot_be_is_one_line_that_names_the_option(option: str, value: str) -> None:
    text = message_of("--proxy", "10.1.1.10", option, value)
    assert option in text
    assert "twistd rproxy-agent --help" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--proxy"),
        (["--interval", "20"], "--proxy"),
        (["--proxy", "a", "--intervall", "5"], "intervall"),
        (["--proxy", "a", "20"], "20"),
        (["--proxy"], "--proxy"),
        (["--proxy", "a", "--trace=yes"], "--trace"),
        (["--proxy", "a", "--drain-file", ""], "--drain-file"),
        (["--proxy", "a", "--load-file", ""], "--load-file: no file is named"),
        (["--proxy", "a", "--load-command", ""], "--load-command: no command is named"),
        (["--proxy", "a", "--load-command", " \t"], "--load-command: no command is named"),
        (["--proxy", "a", "--load-command", "x", "--load-file", "y"], "--load-command and --load-file both"),
        (["--proxy", "a", "--load-command", "", "--load-file", ""], "--load-command and --load-file both"),
        *(
            (["--proxy", "a", "--service-port", "80", "--check", check], "--check")
            for check in [
                "http:",
                "http:health",
                "http://localhost/",
                "http:/a b",
                "http:/\u00e9",
                "http:/\n",
                "http:/\0",
            ]
        ),
        (["--proxy", "a", "--service-port", "80", "--check", "http:/" + "x" * 5000], "--check"),
        (["--proxy", "a", "--check", "connect"], "--service-port"),
        (["--proxy", "a", "--service-port", "0", "--check", "http:/"], "--service-port"),
    ],
)
def test_what_is_missing_or_no_option_is_one_line_that_names_it(arguments: list[str], named: str) -> None:
    assert named in message_of(*arguments)


def test_the_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        config_of("--help")
    assert not ended.value.code
    text = capsys.readouterr().out
    assert "[default: ]" not in text
    for option in (
        "proxy",
        "interval",
        "port",
        "service-port",
        "weight",
        "drain-file",
        "check",
        "scope",
        "report",
        "trace",
    ):
        assert f"--{option}" in text


def test_an_interval_below_the_wires_resolution_is_refused() -> None:
    assert "--interval" in message_of("--proxy", "10.1.1.10", "--interval", "1e-9")
    assert config_of("--proxy", "10.1.1.10", "--interval", "0.001").interval_s == 0.001


def test_an_ipv4_mapped_proxy_is_the_ipv4_one_its_probes_come_from() -> None:
    assert config_of("--proxy", "[::ffff:10.1.1.10]").proxies == (("10.1.1.10", 5555),)
