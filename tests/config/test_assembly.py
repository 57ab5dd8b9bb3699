"""Options and a file together: who wins, whose agents are whose, and what cannot go together."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import attrs
import pytest

from rproxy.config.validators import ConfigError
from tests.certificates import Authority
from tests.config.commands import config_of, message_of, parsed
from tests.config.files import NAME, error_of, errors_of, file_config, only_service, toml
from tests.config.keyfiles import FIRST, SECOND, key_file

STATIC = '[[service.backend]]\naddress = "10.1.1.9:80"\n'
ANY = "where 0.0.0.0/0 and ::/0 stand for any host at all"
WHO = f"who may register? give keyring or allow in [proxy], or from here, {ANY}"


def service(name: str, listen: int, text: str = "") -> str:
    return f'[[service]]\nname = "{name}"\nlisten = {listen}\n{text}\n'


def test_an_empty_file_is_the_command_line_alone(tmp_path: Path) -> None:
    assert file_config(tmp_path, "") == attrs.evolve(config_of(), file=str(tmp_path / NAME))


def test_options_win_over_the_file(tmp_path: Path) -> None:
    text = '[proxy]\nmonitor = [1, 2]\nadmin = "127.0.0.1:1"\nprobe-interval = 1\nallow = "10.0.0.0/8"\n'
    text += '[[service]]\nlisten = [80, 81]\nidle-timeout = 60\npolicy = { name = "report", saturation = 0.5 }\n'
    options = ["-m", "7", "-m", "8", "--admin", "127.0.0.1:9", "--liveness", "30", "--allow", "192.0.2.0/24"]
    config = file_config(tmp_path, text, *options, "--listen", "82", "--idle-timeout", "61", allow=())
    (only,) = config.services
    assert (config.monitors, config.admin) == ((("", 7), ("", 8)), ("127.0.0.1", 9))
    assert (config.timing.probe_interval_s, config.timing.liveness_s) == (1, 30)
    assert config.allow == (ip_network("192.0.2.0/24"),)
    assert (only.listen, only.idle_timeout_s, only.policy) == (("82",), 61, "report")


def test_an_option_is_for_every_service(tmp_path: Path) -> None:
    text = service("a", 80, "idle-timeout = 1") + service("b", 81, STATIC)
    config = file_config(tmp_path, text, "--idle-timeout", "60")
    assert [each.idle_timeout_s for each in config.services] == [60, 60]


def test_messages_name_a_key_as_it_was_given(tmp_path: Path) -> None:
    config = file_config(
        tmp_path, f'[proxy]\nadmin = "127.0.0.1:1"\n{service("a", 80)}', "-m", "7", "--policy", "random"
    )
    (only,) = config.services
    assert (config.key("admin"), config.key("monitor")) == ("proxy.admin", "--monitor")
    assert (only.key("listen"), only.key("policy")) == ("service[0].listen", "--policy")


def test_another_policy_has_no_options_of_the_files(tmp_path: Path) -> None:
    text = 'policy = { name = "report", saturation = 0.5 }'
    assert only_service(tmp_path, text, "--policy", "random").policy_options == {}
    assert only_service(tmp_path, text, "--policy-option", "saturation=0.6").policy_options == {"saturation": "0.6"}


def test_options_of_the_shadow_are_like_those_of_the_policy(tmp_path: Path) -> None:
    text = 'shadow = { name = "p2c", choices = 3 }'
    assert only_service(tmp_path, text, "--shadow", "random").shadow_options == {}
    assert only_service(tmp_path, text, "--shadow-option", "choices=4").shadow_options == {"choices": "4"}
    assert only_service(tmp_path, text, "--shadow", "none").shadow is None
    assert only_service(tmp_path, "", "--shadow", "p2c", "--shadow-option", "choices=4").shadow_options == {
        "choices": "4"
    }


def test_an_option_is_of_those_services_that_have_a_shadow(tmp_path: Path) -> None:
    text = service("a", 80, 'shadow = "p2c"') + service("b", 81, STATIC)
    config = file_config(tmp_path, text, "--shadow-option", "choices=4")
    assert [each.shadow_options for each in config.services] == [{"choices": "4"}, {}]


def test_options_of_a_shadow_that_is_not_there_are_a_mistake() -> None:
    message = "--shadow-option: is of use only with a shadow policy, which --shadow names"
    assert message in message_of("--shadow-option", "choices=4")


def test_the_option_saturation_wins_over_the_files_policy(tmp_path: Path) -> None:
    text = 'policy = { name = "report", saturation = 0.5 }'
    service = only_service(tmp_path, text, "--saturation", "0.9")
    assert (service.saturation, service.policy_options) == (0.9, {})


def test_the_state_file_of_the_environment_is_the_last_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/rproxy")
    assert file_config(tmp_path, "").state_file == "/var/lib/rproxy/rproxy.state"
    assert file_config(tmp_path, '[proxy]\nstate-file = ""').state_file is None
    assert file_config(tmp_path, '[proxy]\nstate-file = "/a"', "--state-file", "/b").state_file == "/b"


def test_a_file_is_read_again_with_the_same_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file(tmp_path, FIRST)
    toml(tmp_path, service("a", 80))
    monkeypatch.chdir(tmp_path)
    options = parsed("--config", NAME, "--keyring", "keys", "--policy", "random", "--state-file", "state", allow=())
    toml(tmp_path, service("a", 80, 'policy = "p2c"\nidle-timeout = 7'))
    monkeypatch.chdir("/")
    key_file(tmp_path, SECOND)
    again = options.read_again()
    assert again.keyring is not None
    assert [key.id for key in again.keyring.keys] == [SECOND.id]
    assert (again.file, again.state_file) == (str(tmp_path / NAME), str(tmp_path / "state"))
    assert [(each.policy, each.idle_timeout_s) for each in again.services] == [("random", 7)]


def test_without_a_file_reading_again_gives_the_same() -> None:
    options = parsed("--listen", "81", "--policy-option", "brake=2", "-m", "7")
    assert options.read_again() == options.config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[proxy", "Expected ']' at the end of a table declaration (at end of document)"),
        ("demo = 1", "demo: there is no such key here; it is one of [proxy]"),
        ("demo = 1\ntrace = 1", "demo: there is no such key here; it is one of [proxy] (and 1 more error)"),
        (
            "demo = 1\n[proxy]\ndemo = -1\ntrace = 1",
            "demo: there is no such key here; it is one of [proxy] (and 2 more errors)",
        ),
    ],
)
def test_a_file_that_has_become_broken_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    options = parsed("--config", toml(tmp_path, ""))
    before = options.config
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        options.read_again()
    assert str(raised.value) == f"{path}: {message}"
    assert options.config is before


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        (service("a", 80), [(True, None, 80)]),
        (service("a", 80, "backend-port = 8000"), [(True, 8000, 8000)]),
        (service("a", 80, 'from = "10.0.0.0/8"'), [(True, None, 80)]),
        (service("a", 80, "backend-port = 8000") + service("b", 81), [(True, 8000, 8000), (True, 80, 80)]),
        (service("a", 80, f"backend-port = 8000\n{STATIC}"), [(True, 8000, 8000)]),
        (service("a", 80, f'from = "10.0.0.0/8"\n{STATIC}'), [(True, None, 80)]),
        (service("a", 80, STATIC) + service("b", 81), [(False, 80, 80), (True, 80, 80)]),
        (service("a", 80, STATIC) + service("b", 81, STATIC), [(False, 80, 80), (False, 80, 80)]),
    ],
)
def test_which_agents_are_a_services_own(tmp_path: Path, text: str, agents: list[tuple[bool, int | None, int]]) -> None:
    services = file_config(tmp_path, text).services
    assert [(each.takes_agents, each.service_port, each.backend_port) for each in services] == agents


@pytest.mark.parametrize(
    ("text", "options", "takes"),
    [
        ("", [], False),
        ("[proxy]\ntrace = true", [], False),
        ('[proxy]\nmonitor = "127.0.0.1:5555"', [], True),
        ("", ["--monitor", "127.0.0.1:5555"], True),
        ('[proxy]\nallow = "10.0.0.0/8"', [], True),
        ("", ["--allow", "10.0.0.0/8"], True),
        ('[proxy]\nkeyring = "keys"', [], True),
        ("[proxy]\ndemo = 1", [], True),
        ("", ["--backend-port", "8000"], False),
    ],
)
def test_a_lone_service_of_static_back_ends_takes_agents_if_the_process_has_keys_of_theirs(
    tmp_path: Path, text: str, options: list[str], takes: bool
) -> None:
    key_file(tmp_path, FIRST)
    config = file_config(tmp_path, f"{text}\n{service('a', 80, STATIC)}", *options, allow=())
    assert (config.takes_agents, config.is_open) == (takes, takes and "allow" in f"{text}{options}")


def test_an_option_of_the_agents_port_is_every_services_own(tmp_path: Path) -> None:
    text = service("a", 80, "backend-port = 8000") + service("b", 81)
    services = file_config(tmp_path, text, "--backend-port", "9000").services
    assert [(each.service_port, each.backend_port) for each in services] == [(9000, 9000)] * 2
    (alone,) = config_of("--backend-port", "9000").services
    assert (alone.service_port, alone.backend_port) == (None, 9000)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["proxy: who may register? give keyring, which 'rproxy keygen' makes, or allow, " + ANY]),
        (service("a", 80), [f"service[0]: {WHO}"]),
        (
            service("a", 80) + service("b", 81, 'from = "::/0"') + service("c", 82),
            [f"service[0]: {WHO}", f"service[2]: {WHO}"],
        ),
        (service("a", 80, STATIC) + service("b", 81), [f"service[1]: {WHO}"]),
        ("[proxy]\ndemo = 1\nmonitor = ['127.0.0.1:1', '10.1.1.10:1']", ["proxy: who may register?"]),
    ],
)
def test_it_must_be_said_who_may_register_for_each_service(tmp_path: Path, text: str, messages: list[str]) -> None:
    lines = errors_of(tmp_path, text, allow=())
    assert len(lines) == len(messages)
    assert all(line.startswith(f"{NAME}: {message}") for line, message in zip(lines, messages, strict=True))


def test_who_may_register_need_not_be_said_where_nobody_else_can(tmp_path: Path) -> None:
    loopback = "[proxy]\nmonitor = ['127.0.0.1:1', '[::1]:1']\n"
    for text in (loopback + service("a", 80), "[proxy]\ndemo = 1", service("a", 80, STATIC)):
        assert not file_config(tmp_path, text, allow=()).is_open


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[[service]]\nname = 'a'", [], "service[0].listen: is missing"),
        (service("a", 80) + service("a", 81, STATIC), [], 'service[1].name: "a": service[0] has the same name'),
        (
            "[[service]]\nlisten = 80\n[[service]]\nlisten = 80",
            [],
            'service[1].listen[0]: "80": service[0].listen[0] accepts these clients',
        ),
        (
            service("a", 80) + service("b", 80),
            [],
            'service[1].listen[0]: "80": service[0].listen[0] accepts these clients',
        ),
        (
            "[[service]]\nname = 'a'\nlisten = ['10.1.1.10:80']\n" + service("b", 80),
            [],
            'service[0].listen[0]: "port 80": service[1].listen[0] accepts these clients',
        ),
        ("[[service]]\nname = 'a'\n" + service("b", 80), [], "service[0].listen: is missing"),
        ("[proxy]\nliveness = 3", [], "proxy.liveness: must be at least 6, proxy.probe-interval with its jitter and "),
        ("", ["--liveness", "3"], None),
        (
            "[proxy]\nprobe-interval = 60",
            [],
            "proxy.probe-interval: proxy.liveness, 10 by default, must be given then, and at least 66.5",
        ),
        (
            "[proxy]\nprobe-interval = 60",
            ["--probe-timeout", "9"],
            "proxy.probe-interval and --probe-timeout 9: proxy.liveness, 10 by default",
        ),
        (
            "[proxy]\ndemo = 1\n" + service("a", 80, STATIC) + service("b", 81, STATIC),
            [],
            "proxy.demo: no service takes agents",
        ),
        (
            "[proxy]\ndemo = 1\n" + service("a", 80) + service("b", 81),
            [],
            "proxy.demo: only a service alone in the file",
        ),
        (
            "[proxy]\ndemo = 1\n" + service("a", 80, "backend-port = 80"),
            [],
            "proxy.demo: only a service alone in the file",
        ),
        (
            "[proxy]\ncarrier = 'splice'\n" + service("a", 80, "send-tls = true\n" + STATIC),
            [],
            "service[0].send-tls: the splice carrier takes plain sockets only",
        ),
        (
            service("a", 80, "send-tls = true\n" + STATIC),
            ["--carrier", "splice"],
            "service[0].send-tls: the splice carrier takes plain sockets only",
        ),
        (
            "[proxy]\nadmin = '127.0.0.1:81'\n" + service("a", 80) + service("b", 81),
            [],
            'proxy.admin: "127.0.0.1:81": service[1].listen[0] accepts clients there',
        ),
        (
            "[proxy]\nadmin = '[::1]:81'\n[[service]]\nlisten = '[::]:81'",
            [],
            'proxy.admin: "[::1]:81": service[0].listen[0] accepts clients there',
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(
    tmp_path: Path, text: str, options: list[str], message: str | None
) -> None:
    if message is None:
        (line,) = errors_of(tmp_path, text, *options)
        assert line.startswith("--liveness 3: must be at least 6")
    else:
        assert error_of(tmp_path, text, *options).startswith(message)


def test_listeners_of_the_command_line_are_for_one_service(tmp_path: Path) -> None:
    (line,) = errors_of(tmp_path, service("a", 80) + service("b", 81), "--listen", "82")
    assert line == "--listen: the file has several services, each of which names its own"
    assert only_service(tmp_path, "", "--listen", "82").listen == ("82",)


def test_what_does_not_go_together_is_told_beside_what_cannot_be(tmp_path: Path) -> None:
    text = "[proxy]\nliveness = 3\n" + service("a", 80) + service("a", 81, "weight = 3") + "[[service]]\nname = 'c'"
    lines = errors_of(tmp_path, text)
    assert [line.split(": ")[1] for line in lines] == ["service[1].weight", "proxy.liveness", "service[2].listen"]


def test_listeners_of_two_services_are_compared_beside_a_service_that_has_errors(tmp_path: Path) -> None:
    lines = errors_of(tmp_path, "[[service]]\nlisten = 80\npolcy = 'random'\n" + service("b", 81) + service("c", 81))
    assert [line.split(": ")[1] for line in lines] == ["service[0].polcy", "service[2].listen[0]"]


def test_a_service_without_a_name_is_called_by_its_first_listener(tmp_path: Path) -> None:
    text = "[[service]]\nlisten = ['127.0.0.1:0', 81]\n[[service]]\nlisten = '127.0.0.1:0'\n"
    assert [each.name for each in file_config(tmp_path, text).services] == ["127.0.0.1:0", "service[1]"]


def test_networks_of_a_service_and_of_the_process_are_both_kept(tmp_path: Path) -> None:
    config = file_config(tmp_path, service("a", 80, 'from = "10.1.0.0/16"'), "--allow", "10.0.0.0/8")
    assert [config.allow, config.services[0].allow] == [(ip_network("10.0.0.0/8"),), (ip_network("10.1.0.0/16"),)]


def test_a_listener_does_not_speak_tls_twice(tmp_path: Path) -> None:
    files = Authority.root(tmp_path).issue("web.test")
    ssl = f"ssl:8443:privateKey={files.key}:certKey={files.certificate}"
    tls = f'{{ certificate = "{files.certificate}", key = "{files.key}" }}'
    shared = f'[[service]]\nlisten = [443, "{ssl}", "haproxy:{ssl}"]\ntls = {tls}\n'
    alone = f'[[service]]\nlisten = [444, {{ address = "{ssl}", tls = {tls} }}]\n'
    lines = errors_of(tmp_path, shared + alone)
    assert [line.partition(' "')[0] for line in lines] == [
        f"{NAME}: service[0].listen[1]:",
        f"{NAME}: service[0].listen[2]:",
        f"{NAME}: service[1].listen[1]:",
    ]
    assert all(line.endswith(": this endpoint has TLS of its own, and takes no tls") for line in lines)
    only = f"[[service]]\nlisten = 443\ntls = {tls}\n"
    (line,) = errors_of(tmp_path, only, "--listen", ssl)
    assert line == f"--listen {ssl}: this endpoint has TLS of its own, and takes no tls"
    assert file_config(tmp_path, f'[[service]]\nlisten = ["{ssl}", {{ address = "443", tls = {tls} }}]')


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("proxy.max-connections", "{file}: proxy.max-connections: 9: too many"),
        ("service[0].listen[0]", "{file}: service[0].listen[0]: 9: too many"),
        ("--max-connections", "--max-connections 9: too many"),
        ("LISTEN_FDS", "LISTEN_FDS 9: too many"),
        (None, "9: too many"),
    ],
)
def test_a_later_mistake_names_the_file_if_it_is_one_of_its(tmp_path: Path, key: str | None, message: str) -> None:
    path = toml(tmp_path, "")
    assert parsed("--config", path).told(ConfigError("too many", key, 9)) == message.format(file=path)
    assert parsed().told(ConfigError("too many", key, 9)) == str(ConfigError("too many", key, 9))
