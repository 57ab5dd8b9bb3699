"""The command line of `twistd rproxy`."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.python import usage

from rproxy.observe.scores import ReportScore
from rproxy.policies.registry import POLICIES
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.sources.agents.prober import Timing
from rproxy.tap import options as common
from rproxy.tap.listening import BACKLOG, TcpEndpoint, listen_endpoints
from rproxy.tap.proxy import makeService
from rproxy.tap.settings import Options, Settings
from tests.fakes import Reactor
from tests.tap.commands import ANYBODY, complaint, one_line, parsed, settings


def test_without_options_it_is_the_reports_proxy() -> None:
    assert settings() == Settings(
        listen=("80",),
        monitor=("", 5555),
        backend_port=80,
        timing=Timing(5, 0.5, 10),
        policy="report",
        saturation=0.7,
        allow=(ip_network(ANYBODY[1]),),
        demo=0,
        admin=None,
        trace=False,
        carrier="auto",
        max_connections=None,
        idle_timeout_s=3600,
        half_close_timeout_s=30,
    )


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--listen", "8080"], "listen", ("8080",)),
        (["--listen", "8080", "-l", "tcp:81"], "listen", ("8080", "tcp:81")),
        (["--monitor", "6666"], "monitor", ("", 6666)),
        (["--monitor", "0"], "monitor", ("", 0)),
        (["-m", "10.1.1.10:6666"], "monitor", ("10.1.1.10", 6666)),
        (["--monitor", "[::1]:6666"], "monitor", ("::1", 6666)),
        (["--monitor", "[2001:DB8:0::5]:6666"], "monitor", ("2001:db8::5", 6666)),
        (["--backend-port", "8000"], "backend_port", 8000),
        (["--backend-port", "65535"], "backend_port", 65535),
        (["--probe-interval", "1.5"], "timing", Timing(1.5, 0.5, 10)),
        (["--probe-timeout", "0.25"], "timing", Timing(5, 0.25, 10)),
        (["--liveness", "6"], "timing", Timing(5, 0.5, 6)),
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
    assert getattr(settings(*arguments), name) == value


@pytest.mark.parametrize(
    ("arguments", "host"), [([], "127.0.0.1"), (["--monitor", "6666"], "127.0.0.1"), (["--monitor", "[::1]:1"], "::1")]
)
def test_a_demos_agents_register_on_loopback_unless_told_otherwise(arguments: list[str], host: str) -> None:
    assert settings("--demo", "2", *arguments).monitor[0] == host


NUMBERS = ["-1", "nan", "inf", "-inf", "abc", "", "1e999", "0x10", "1,5"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            (option, value)
            for option in ("--probe-interval", "--probe-timeout", "--liveness", "--saturation")
            for value in ["0", *NUMBERS]
        ),
        ("--probe-interval", "3601"),
        ("--probe-timeout", "3601"),
        ("--liveness", "86401"),
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
    text = complaint(option, value)
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
    assert named in complaint(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [["--liveness", "5.9"], ["--probe-interval", "9"], ["--probe-timeout", "4.6"], ["--probe-interval", "60"]],
)
def test_a_liveness_check_that_would_fire_between_two_probes_is_refused(arguments: list[str]) -> None:
    assert "--liveness" in complaint(*arguments)


@pytest.mark.parametrize(
    ("arguments", "timing"),
    [
        (["--liveness", "6"], Timing(5, 0.5, 6)),
        (["--probe-interval", "3", "--liveness", "3.8"], Timing(3, 0.5, 3.8)),
        (["--probe-interval", "0.7", "--probe-timeout", "0.1", "--liveness", "0.87"], Timing(0.7, 0.1, 0.87)),
    ],
)
def test_the_least_liveness_that_fits_the_probes_is_accepted(arguments: list[str], timing: Timing) -> None:
    assert settings(*arguments).timing == timing


@pytest.mark.parametrize(("option", "form"), [("--monitor", "name:5555"), ("--admin", "name:8081")])
def test_a_host_of_ours_may_be_a_name(monkeypatch: pytest.MonkeyPatch, option: str, form: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.1.10", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
    told = settings(option, form)
    assert (told.admin or told.monitor)[0] == "10.1.1.10"


@pytest.mark.parametrize(("option", "form"), [("--monitor", "name:5555"), ("--admin", "name:8081")])
def test_a_name_of_ours_that_is_not_found_is_one_line(monkeypatch: pytest.MonkeyPatch, option: str, form: str) -> None:
    def not_found(*_: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", not_found)
    text = complaint(option, form)
    assert option in text
    assert "Name or service not known" in text


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
    options = Options()
    options.parent = parent
    options.parseOptions(list(ANYBODY))
    assert parent == {"pidfile": used}


def test_a_folder_where_no_pid_file_can_be_written_is_one_line() -> None:
    parent: Any = {"pidfile": "/nonexistent/folder/mine.pid"}
    options = Options()
    options.parent = parent
    with pytest.raises(SystemExit) as ended:
        options.parseOptions(list(ANYBODY))
    assert "/nonexistent/folder/mine.pid" in one_line(ended.value)


def test_a_folder_without_the_right_to_write_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.os, "access", lambda path, mode: False)  # type: ignore[attr-defined]
    parent: Any = {"pidfile": "twistd.pid"}
    options = Options()
    options.parent = parent
    with pytest.raises(SystemExit) as ended:
        options.parseOptions(list(ANYBODY))
    assert "rproxy.pid" in one_line(ended.value)


def test_no_pid_file_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.os, "access", lambda path, mode: False)  # type: ignore[attr-defined]
    parent: Any = {"pidfile": ""}
    options = Options()
    options.parent = parent
    options.parseOptions(list(ANYBODY))
    assert parent == {"pidfile": ""}


def test_the_help_names_every_option_and_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        settings("--help")
    assert not ended.value.code
    text = capsys.readouterr().out
    options = ("listen", "monitor", "backend-port", "probe-interval", "probe-timeout", "liveness", "policy")
    more = ("saturation", "allow", "demo", "admin", "trace", "wait-for-backend", "redispatch-early", "first-byte")
    for option in (*options, *more, "carrier", "idle-timeout", "half-close-timeout", "on-down", "max-connections"):
        assert f"--{option}" in text
    for policy in POLICIES:
        assert policy in "".join(text.split())  # which a line's end may divide


@pytest.mark.parametrize(
    ("text", "kind", "host", "port"),
    [
        ("8080", TcpEndpoint, "::", 8080),
        ("0", TcpEndpoint, "::", 0),
        ("10.1.1.10:8080", TcpEndpoint, "10.1.1.10", 8080),
        ("[::1]:8080", TcpEndpoint, "::1", 8080),
        ("tcp:8080", TCP4ServerEndpoint, "", 8080),
        ("tcp:8080:interface=127.0.0.1", TCP4ServerEndpoint, "127.0.0.1", 8080),
        ("tcp6:8080", TCP6ServerEndpoint, "::", 8080),
    ],
)
def test_clients_are_accepted_on_a_port_a_host_and_port_or_an_endpoint_string(
    text: str, kind: type[object], host: str, port: int
) -> None:
    reactor = Reactor()
    ((_, endpoint),) = listen_endpoints(reactor, [text])
    assert isinstance(endpoint, kind)
    endpoint.listen(None)  # type: ignore[arg-type]
    ((listened, _, _, interface),) = reactor.tcpServers
    assert (interface, listened) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("8080", "10.1.1.10:8080", "[::1]:8080", "tcp:8080", "tcp6:8080", "tcp:8080:interface=127.0.0.1"),
        *("haproxy:tcp:8080", "tcp:8080:backlog=7", "tcp:backlog=7:port=8080", "haproxy:tcp:8080:backlog=7"),
    ],
)
def test_the_queue_of_clients_not_yet_accepted_is_long(text: str) -> None:
    reactor = Reactor()
    ((_, endpoint),) = listen_endpoints(reactor, [text])
    endpoint.listen(None)  # type: ignore[arg-type]
    ((_, _, backlog, _),) = reactor.tcpServers
    assert backlog == (BACKLOG if "backlog" not in text else 7)


def test_a_unix_endpoint_listens_on_its_path(tmp_path: Path) -> None:
    reactor = Reactor()
    ((_, endpoint),) = listen_endpoints(reactor, [f"unix:{tmp_path}/socket"])
    endpoint.listen(None)  # type: ignore[arg-type]
    assert [server[0] for server in reactor.unixServers] == [f"{tmp_path}/socket"]


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


@pytest.mark.usefixtures("reactor")
def test_an_inherited_socket_that_is_not_there_is_named_so() -> None:
    text = "systemd:domain=INET:index=7"
    with pytest.raises(usage.UsageError) as caught:
        listen_endpoints(Reactor(), [text])
    assert str(caught.value).startswith(f"--listen {text}: so many sockets were not inherited")


def test_a_policy_that_does_not_exist_is_one_line_that_names_it() -> None:
    options = parsed("--policy", "best")
    with pytest.raises(SystemExit) as ended:
        makeService(options)
    assert "--policy best" in one_line(ended.value)


def test_a_proxy_is_made_of_its_settings_and_opens_nothing_yet(reactor: Reactor) -> None:
    options = parsed("--saturation", "off", "--backend-port", "8000", "--probe-timeout", "0.2")
    service = makeService(options)
    table = service.service.pool
    assert (service._served.view.score, table.default_port, table.timeout_s) == (ReportScore(None), 8000, 0.2)
    assert reactor.ports == []


def test_an_empty_monitor_is_a_typo_not_the_default() -> None:
    assert "--monitor" in complaint("--monitor", "")
