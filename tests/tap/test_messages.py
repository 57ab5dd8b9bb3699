"""What both commands say of an option that cannot be: what was typed, and what would be right, in one line."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.scripts._twistd_unix import ServerOptions

from rproxy.config.endpoints import listen_endpoints
from rproxy.config.validators import ConfigError
from rproxy.tap import agent, proxy
from tests.config import commands

PROXY_HELP = " (twistd rproxy --help lists the options)"


def of_agent(*arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        agent.Options().parseOptions(["--proxy", "10.1.1.10", *arguments])
    return str(ended.value.code).removesuffix(" (twistd rproxy-agent --help lists the options)")


def of_proxy(*arguments: str) -> str:
    return commands.message_of(*arguments).removesuffix(PROXY_HELP)


def of_listener(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        listen_endpoints(MemoryReactorClock(), [text])
    return str(caught.value)


LONG = "x" * 64


@pytest.mark.parametrize("host", ["a..b", ".a", "..", LONG, "ß" * 60])
def test_a_name_that_no_host_can_have_is_one_line(host: str) -> None:
    message = f"{host}:80: {host} is not a host name"
    assert of_listener(f"{host}:80").startswith(f"--listen {message} (")
    for option in ("--monitor", "--admin"):
        assert of_proxy(option, f"{host}:80").startswith(f"twistd rproxy: {option} {message} (")
    assert of_agent("--proxy", f"{host}:80").startswith(f"twistd rproxy-agent: --proxy {message} (")
    assert of_agent("--proxy", host).startswith(f"twistd rproxy-agent: --proxy {host}: {host} is not a host name (")


@pytest.mark.parametrize("host", ["a\0b", "a\x01b", "no-such-host.invalid", "bücher.invalid", "a."])
def test_a_name_that_is_not_known_is_one_line(host: str) -> None:
    for text in (of_listener(f"{host}:80"), of_proxy("--monitor", f"{host}:80"), of_proxy("--admin", f"{host}:80")):
        assert host in text
        assert "\n" not in text


@pytest.mark.parametrize("host", ["1.2.3", "010.1.1.1", "1.2.3.4.5", "0x7f000001", "256.1.1.1", "1"])
def test_an_address_in_a_form_that_only_the_system_knows_is_refused(host: str) -> None:
    assert of_listener(f"{host}:80") == f"--listen {host}:80: {host} is not an IP address"
    assert of_agent("--proxy", f"{host}:80") == f"twistd rproxy-agent: --proxy {host}:80: {host} is not an IP address"


def test_a_proxy_that_is_a_port_alone_lacks_its_host() -> None:
    assert "not of the form HOST[:PORT]" in of_agent("--proxy", "5555")


NUMBERS = ["nan", "inf", "-inf", "0x10", "1_000", " 5", "5 ", "", "1e", "٣", "1,5", "five", "--5", "."]


@pytest.mark.parametrize("text", NUMBERS)
@pytest.mark.parametrize(
    "option", ["probe-interval", "probe-timeout", "liveness", "idle-timeout", "half-close-timeout"]
)
def test_what_is_no_number_is_told(option: str, text: str) -> None:
    assert of_proxy(f"--{option}={text}") == f"twistd rproxy: --{option} {text}: not a number"
    assert of_agent(f"--interval={text}") == f"twistd rproxy-agent: --interval {text}: not a number"


RANGES: list[tuple[str, str, list[str]]] = [
    ("probe-interval", "from 0.01 to 3600", ["0", "-1", "1e-9", "1e-306", "0.0099", "1e400", "3601"]),
    ("probe-timeout", "from 0.01 to 3600", ["0", "-1", "1e-9", "1e-306", "1e400"]),
    ("liveness", "from 0.01 to 86400", ["0", "-1", "1e-306", "1e400", "86401"]),
    ("idle-timeout", "0, or from 0.01 to 2592000", ["-5", "1e-9", "1e-306", "2592001", "1e400"]),
    ("half-close-timeout", "0, or from 0.01 to 2592000", ["-5", "1e-9", "1e-306", "2592001", "1e400"]),
    ("saturation", "from 0.001 to 1", ["0", "-1", "1.1", "1e-306"]),
    ("max-connections", "from 1 to 1000000", ["0", "-1", "9" * 30, "9" * 5000]),
]


@pytest.mark.parametrize(
    ("option", "message", "text"), [(option, message, text) for option, message, texts in RANGES for text in texts]
)
def test_a_number_out_of_range_is_reported_with_the_range(option: str, message: str, text: str) -> None:
    assert of_proxy(f"--{option}={text}") == f"twistd rproxy: --{option} {text}: must be {message}"


@pytest.mark.parametrize("text", ["0.01", ".5", "5.", "1e1", "+3", "0.5E1"])
def test_a_number_may_be_written_in_the_usual_ways(text: str) -> None:
    timing = commands.config_of("--probe-interval", text, "--liveness", "60").timing
    assert timing.probe_interval_s == float(text)


TIMES: list[tuple[list[str], str]] = [
    (["--probe-timeout", "10"], "--probe-timeout 10: --liveness, 10 by default, must be given then, and at least 15.5"),
    (
        ["--probe-interval", "60"],
        "--probe-interval 60: --liveness, 10 by default, must be given then, and at least 66.5",
    ),
    (
        ["--probe-interval", "60", "--probe-timeout", "9"],
        "--probe-interval 60 and --probe-timeout 9: --liveness, 10 by default, must be given then, and at least 75",
    ),
    (["--liveness", "3"], "--liveness 3: must be at least 6"),
    (["--liveness", "10.0", "--probe-timeout", "10"], "--liveness 10.0: must be at least 15.5"),
]


@pytest.mark.parametrize(("arguments", "message"), TIMES)
def test_times_that_do_not_go_together_name_the_option_that_was_given(arguments: list[str], message: str) -> None:
    assert of_proxy(*arguments).startswith(f"twistd rproxy: {message}")


TYPOS = [
    (["--lisen", "80"], "there is no option --lisen; do you mean --listen?"),
    (["--probe-intervall=5"], "there is no option --probe-intervall; do you mean --probe-interval?"),
    (["--xyzzy"], "there is no option --xyzzy"),
    (["-q"], "there is no option -q"),
]


@pytest.mark.parametrize(("arguments", "message"), TYPOS)
def test_for_a_mistyped_option_the_nearest_is_named(arguments: list[str], message: str) -> None:
    assert of_proxy(*arguments) == f"twistd rproxy: {message}"


def by_twistd(*arguments: str) -> str:
    """What it ends with, all of it."""
    with pytest.raises(SystemExit) as ended:
        ServerOptions().parseOptions(arguments)
    return str(ended.value.code)


@pytest.mark.parametrize("option", ["-n", "--nodaemon", "--pidfile=x", "--uid=0"])
def test_an_option_of_twistds_after_the_command_is_reported_with_its_place(option: str) -> None:
    name = option.partition("=")[0]
    assert by_twistd("rproxy", option) == f"twistd rproxy: {name} is an option of twistd itself: it goes before rproxy"


MISTYPED = {
    "rporxy": "rproxy",
    "rproxi": "rproxy",
    "Rproxy": "rproxy",
    "rprox": "rproxy",
    "rproxy-agnet": "rproxy-agent",
    "rproxyagent": "rproxy-agent",
    "rproxy_agent": "rproxy-agent",
    "agent": "rproxy-agent",
}


@pytest.mark.parametrize("asked", MISTYPED)
def test_for_a_mistyped_command_the_nearest_is_named(asked: str) -> None:
    message = f"twistd: there is no command {asked}; do you mean {MISTYPED[asked]}? (twistd --help lists all)"
    assert by_twistd("-n", asked, "--listen", "80") == message


@pytest.mark.parametrize("other", ["portforward", "procmon", "socks", "ftp"])
def test_other_packages_commands_are_left_alone(other: str) -> None:
    options = ServerOptions()
    with pytest.raises(SystemExit) as ended:
        options.parseOptions([other, "--help"])
    assert not ended.value.code
    assert (options.subCommand, type(options.subOptions).__module__.partition(".")[0]) == (other, "twisted")


@pytest.mark.parametrize("options", [proxy.Options, agent.Options])
def test_the_version_is_this_programs(options: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options().parseOptions(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("rproxy 0.")


ENDPOINTS = [
    ("ssl:443:cert=x", "ssl: takes no cert="),
    ("tcp:80:foo=bar", "tcp: takes no foo="),
    ("tcp:80:port=81", "tcp: has two of port"),
    ("tcp:1:2:3:4", "tcp: has too many parts between colons"),
    ("haproxy:tcp", "haproxy: lacks its port"),
    ("tcp:abc", "'abc' is not a number"),
    ("tcp:", "'' is not a number"),
    ("unix:/x:mode=999", "'999' is not a number"),
    ("systemd:domain=INET:name=web", "no inherited socket is called 'web' (LISTEN_FDNAMES)"),
    (
        "ssl:443:privateKey=/etc/passwd:certKey=/etc/passwd",
        "there is no usable certificate or key in its files; they are of the PEM format, without a passphrase",
    ),
]


@pytest.mark.parametrize(("text", "message"), ENDPOINTS)
def test_a_wrong_endpoint_is_reported_without_pythons_names(text: str, message: str) -> None:
    assert of_listener(text) == f"--listen {text}: {message}"


@pytest.mark.parametrize("text", ["https:443", "TLS:443", "udp:53", "SSL:443:privateKey=x", "TCP:80", "fd:3"])
def test_what_is_meant_as_a_type_of_endpoint_is_not_looked_up_as_a_host(text: str) -> None:
    message = of_listener(text)
    assert message.startswith(
        f"--listen {text}: {text.partition(':')[0]} is taken for a type of endpoint, and these there"
    )
    assert "systemd, tcp, tcp4, tcp6" in message


@pytest.mark.parametrize("text", ["tls:443", "tls:/nowhere:443", "tls:"])
def test_a_missing_folder_of_keys_is_reported_at_the_start(text: str) -> None:
    message = of_listener(text)
    assert message.startswith(f"--listen {text}: ")
    assert "ssl:443:privateKey=FILE:certKey=FILE" in message


def test_a_host_that_has_an_ordinary_name_is_looked_up() -> None:
    assert listen_endpoints(MemoryReactorClock(), ["localhost:80"])
