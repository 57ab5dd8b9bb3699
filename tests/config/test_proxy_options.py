"""The command line of `twistd rproxy`."""

from __future__ import annotations

import socket
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import pytest

from rproxy.carriers import registry
from rproxy.config import schema
from rproxy.config.model import ProxyConfig, ServiceConfig
from rproxy.net import binding
from rproxy.policies.registry import POLICIES
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.sources.agents.prober import Timing
from tests.config.commands import ANY_HOST, config_of, field, message_of


def test_without_options_it_is_the_reports_proxy() -> None:
    service = ServiceConfig(
        listen=("80",),
        backend_port=80,
        policy="expected-delay",
        saturation=0.7,
        idle_timeout_s=3600,
        half_close_timeout_s=30,
    )
    assert config_of() == ProxyConfig(
        services=(service,),
        monitors=(("", 5555),),
        timing=Timing(5, 0.5, 10, freshness_s=0.1, probe_budget=500),
        allow=(ip_network(ANY_HOST[1]),),
        max_connections=None,
        demo=0,
        admin=None,
        trace=False,
        carrier="auto",
    )


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--listen", "8080"], "listen", ("8080",)),
        (["--listen", "8080", "-l", "tcp:81"], "listen", ("8080", "tcp:81")),
        (["--monitor", "6666"], "monitors", (("", 6666),)),
        (["--monitor", "0"], "monitors", (("", 0),)),
        (["-m", "10.1.1.10:6666"], "monitors", (("10.1.1.10", 6666),)),
        (["--monitor", "[::1]:6666"], "monitors", (("::1", 6666),)),
        (["--monitor", "[2001:DB8:0::5]:6666"], "monitors", (("2001:db8::5", 6666),)),
        (["--backend-port", "8000"], "backend_port", 8000),
        (["--backend-port", "65535"], "backend_port", 65535),
        (["--probe-interval", "1.5"], "timing", Timing(1.5, 0.5, 10)),
        (["--probe-timeout", "0.25"], "timing", Timing(5, 0.25, 10)),
        (["--liveness", "6"], "timing", Timing(5, 0.5, 6)),
        (["--freshness", "0.25"], "timing", Timing(freshness_s=0.25)),
        (["--freshness", "off"], "timing", Timing(freshness_s=None)),
        (["--probe-budget", "2000"], "timing", Timing(probe_budget=2000)),
        (["--policy", "round-robin"], "policy", "round-robin"),
        (["--saturation", "0.9"], "saturation", 0.9),
        (["--saturation", "1"], "saturation", 1.0),
        (["--saturation", "off"], "saturation", None),
        (["--allow", "10.0.0.0/8"], "allow", (ip_network("10.0.0.0/8"),)),
        (["--allow", "10.1.1.1"], "allow", (ip_network("10.1.1.1/32"),)),
        (
            ["--allow", "10.0.0.0/8", "--allow", "2001:db8::/32"],
            "allow",
            (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
        ),
        (["--demo", "3"], "demo", 3),
        (["--admin", "127.0.0.1:8081"], "admin", ("127.0.0.1", 8081)),
        (["--admin", "[::1]:8081"], "admin", ("::1", 8081)),
        (["--trace"], "trace", True),
        (["--carrier", "splice"], "carrier", "splice"),
        (["--carrier", "portable"], "carrier", "portable"),
        (["--carrier", "auto"], "carrier", "auto"),
        (["--idle-timeout", "7200"], "idle_timeout_s", 7200),
        (["--idle-timeout", "0.5"], "idle_timeout_s", 0.5),
        (["--idle-timeout", "0"], "idle_timeout_s", 0),
        (["--half-close-timeout", "1.5"], "half_close_timeout_s", 1.5),
        (["--half-close-timeout", "2592000"], "half_close_timeout_s", 30 * 86400),
        (["--half-close-timeout", "0"], "half_close_timeout_s", 0),
        ([], "end_on_down", True),
        (["--on-down", "end"], "end_on_down", True),
        (["--on-down", "keep"], "end_on_down", False),
        (["--max-connections", "1"], "max_connections", 1),
        (["--max-connections", "1000000"], "max_connections", SESSIONS_MAX),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_each_option_is_taken(arguments: list[str], name: str, value: object) -> None:
    assert field(config_of(*arguments), name) == value


@pytest.mark.parametrize(
    ("arguments", "host"), [([], "127.0.0.1"), (["--monitor", "6666"], "127.0.0.1"), (["--monitor", "[::1]:1"], "::1")]
)
def test_a_demos_agents_register_on_loopback_by_default(arguments: list[str], host: str) -> None:
    assert [at for at, _ in config_of("--demo", "2", *arguments).monitors] == [host]


NUMBERS = ["-1", "nan", "inf", "-inf", "abc", "", "1e999", "0x10", "1,5"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            (option, value)
            for option in (
                *("--probe-interval", "--probe-timeout", "--liveness", "--saturation"),
                *("--freshness", "--probe-budget"),
            )
            for value in ["0", *NUMBERS]
        ),
        ("--probe-interval", "3601"),
        ("--probe-timeout", "3601"),
        ("--liveness", "86401"),
        ("--freshness", "3601"),
        ("--freshness", "Off"),
        ("--probe-budget", "off"),
        ("--probe-budget", "0.9"),
        ("--probe-budget", "100001"),
        ("--saturation", "900"),
        ("--saturation", "70%"),
        ("--saturation", "1.01"),
        ("--saturation", "Off"),
        *(
            (option, value)
            for option in ("--backend-port", "--demo")
            for value in [*NUMBERS, "1.5", "70000", "9" * 400, "٣"]
        ),
        ("--backend-port", "0"),
        ("--demo", "101"),
        *(
            ("--monitor", value)
            for value in ["abc", "-1", "70000", "1.5", "10.1.1.10:70000", "10.1.1.10:", ":5555", "::1", "[::1]"]
        ),
        *(("--monitor", value) for value in ["::1:5555", "[nonsense]:5555", "[::1]x:5555", "a b:5555", "[::1:5555"]),
        *(("--admin", value) for value in ["8081", "abc", "", "localhost", "127.0.0.1:70000", "127.0.0.1:x", "::1:80"]),
        *((option, value) for option in ("--idle-timeout", "--half-close-timeout") for value in [*NUMBERS, "2592001"]),
        *(("--max-connections", value) for value in [*NUMBERS, "0", "1.5", "1000001", "9" * 400]),
        *(("--carrier", value) for value in ["", "Splice", "auto ", "tcp"]),
        *(("--on-down", value) for value in ["", "End", "reset"]),
        *(("--allow", value) for value in ["", "abc", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "300.1.1.1", "10/8"]),
    ],
)
def test_a_value_that_cannot_be_is_one_line_that_names_the_option(option: str, value: str) -> None:
    text = message_of(option, value)
    assert option in text
    assert "twistd rproxy --help" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--probe-intervall", "5"], "probe-intervall"),
        (["-z"], "-z"),
        (["8080"], "8080"),
        (["--trace", "yes"], "yes"),
        (["--trace=yes"], "--trace"),
        (["--policy"], "--policy"),
    ],
)
def test_what_is_no_option_is_one_line_that_names_it(arguments: list[str], named: str) -> None:
    assert named in message_of(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [["--liveness", "5.9"], ["--probe-interval", "9"], ["--probe-timeout", "4.6"], ["--probe-interval", "60"]],
)
def test_a_liveness_check_that_would_fire_between_two_probes_is_refused(arguments: list[str]) -> None:
    assert "--liveness" in message_of(*arguments)


@pytest.mark.parametrize(
    ("arguments", "timing"),
    [
        (["--liveness", "6"], Timing(5, 0.5, 6)),
        (["--probe-interval", "3", "--liveness", "3.8"], Timing(3, 0.5, 3.8)),
        (["--probe-interval", "0.7", "--probe-timeout", "0.1", "--liveness", "0.87"], Timing(0.7, 0.1, 0.87)),
    ],
)
def test_the_least_liveness_that_fits_the_probes_is_accepted(arguments: list[str], timing: Timing) -> None:
    assert config_of(*arguments).timing == timing


@pytest.mark.parametrize(("option", "form"), [("--monitor", "name:5555"), ("--admin", "name:8081")])
def test_a_local_host_may_be_a_name(monkeypatch: pytest.MonkeyPatch, option: str, form: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.1.1.10", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
    config = config_of(option, form)
    assert (config.admin or config.monitors[0])[0] == "127.1.1.10"


@pytest.mark.parametrize(("option", "form"), [("--monitor", "name:5555"), ("--admin", "name:8081")])
def test_a_local_name_that_is_not_found_is_one_line(monkeypatch: pytest.MonkeyPatch, option: str, form: str) -> None:
    def not_found(*_: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", not_found)
    text = message_of(option, form)
    assert option in text
    assert "Name or service not known" in text


def test_the_help_names_every_option_and_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        config_of("--help")
    assert not ended.value.code
    text = capsys.readouterr().out
    options = ("listen", "monitor", "backend-port", "probe-interval", "probe-timeout", "liveness", "policy")
    more = ("saturation", "allow", "demo", "admin", "trace", "wait-for-backend", "redispatch-early", "first-byte")
    for option in (*options, *more, "carrier", "idle-timeout", "half-close-timeout", "on-down", "max-connections"):
        assert f"--{option}" in text
    for policy in POLICIES:
        assert policy in "".join(text.split())  # which a line's end may divide


def test_an_empty_monitor_is_a_typo_not_the_default() -> None:
    assert "--monitor" in message_of("--monitor", "")


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:10.0.0.0/104", IPv4Network("10.0.0.0/8")),
        ("::ffff:10.0.0.5", IPv4Network("10.0.0.5/32")),
        ("::ffff:0:0/96", IPv4Network("0.0.0.0/0")),
        ("::/0", IPv6Network("::/0")),
        ("::ffff:0:0/95", None),
        ("::fffe:0:0/95", IPv6Network("::fffe:0:0/95")),
        ("2001:db8::/32", IPv6Network("2001:db8::/32")),
    ],
)
def test_a_mapped_network_is_an_ipv4_one(text: str, network: Any) -> None:
    if network is None:
        assert "has host bits set" in message_of("--allow", text)
    else:
        assert config_of("--allow", text).allow == (network,)


@pytest.mark.parametrize("text", ["10.0.0.5/24", "::ffff:10.0.0.5/104"])
def test_host_bits_are_told(text: str) -> None:
    assert f"--allow {text}: " in message_of("--allow", text)
    assert "has host bits set" in message_of("--allow", text)


def test_free_binding_is_linuxs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_of("--freebind").freebind is binding.CAN_FREEBIND is True
    monkeypatch.setattr(schema, "CAN_FREEBIND", False)
    assert message_of("--freebind").startswith("twistd rproxy: --freebind: needs Linux")


def test_the_carriers_there_are_are_named_where_one_is_not_known() -> None:
    assert "must be auto, splice or portable" in message_of("--carrier", "fast")


def test_where_nothing_splices_only_the_splice_carrier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "CAN_SPLICE", False)
    text = message_of("--carrier", "splice")
    assert "--carrier splice: needs Linux; auto takes what there is" in text
    assert [config_of("--carrier", carrier).carrier for carrier in ("auto", "portable")] == ["auto", "portable"]
