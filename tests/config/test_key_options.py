"""The options of both commands that say who may register, and how many."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from rproxy.config.keyfile import Keyring
from rproxy.pool.limits import Limits
from tests.config.commands import config_of, message_of
from tests.config.keyfiles import (
    BROKEN,
    FIRST,
    OWN,
    SECOND,
    Damage,
    key_file,
    shows_a_key,
)
from tests.config.test_agent_options import config_of as agent_config_of
from tests.config.test_agent_options import message_of as agents_message

NUMBERS = ["0", "-1", "100001", "1e3", "1.5", "nan", "inf", "abc", "", "0x10", "9" * 400]


def ids(keyring: Keyring | None) -> list[int]:
    assert keyring is not None
    return [key.id for key in keyring.keys]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--monitor", "5555"],
        ["--monitor", "0.0.0.0:5555"],
        ["--monitor", "10.1.1.10:5555"],
        ["--monitor", "[::]:5555"],
        ["--monitor", "[::ffff:10.1.1.10]:5555"],
        ["--monitor", "[2001:db8::5]:5555"],
        ["--monitor", "128.0.0.1:5555"],
        ["--demo", "2", "--monitor", "10.1.1.10:5555"],
        ["--admin", "127.0.0.1:8081", "--listen", "127.0.0.1:80"],
    ],
    ids=" ".join,
)
def test_off_loopback_it_must_be_said_who_may_register(arguments: list[str]) -> None:
    message = message_of(*arguments, allow=())
    for way in ("--keyring FILE", "rproxy keygen", "--allow NETWORK", "0.0.0.0/0", "::/0"):
        assert way in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["--monitor", "127.0.0.1:5555"],
        ["--monitor", "127.8.9.10:5555"],
        ["--monitor", "[::1]:5555"],
        ["--monitor", "[::ffff:127.0.0.1]:5555"],
        ["--demo", "2"],
        ["--demo", "2", "--monitor", "6666"],
    ],
    ids=" ".join,
)
def test_on_loopback_only_this_host_can_register_and_nothing_need_be_said(arguments: list[str]) -> None:
    config = config_of(*arguments, allow=())
    assert (config.allow, config.keyring) == ((), None)


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1", False), ("10.1.1.10", True)])
def test_a_name_is_on_loopback_if_its_address_is(monkeypatch: pytest.MonkeyPatch, address: str, said: bool) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
    if said:
        assert "who may register?" in message_of("--monitor", "name:5555", allow=())
    else:
        assert config_of("--monitor", "name:5555", allow=()).monitors == (("127.0.0.1", 5555),)


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "10.0.0.0/8", "10.1.1.1", "2001:db8::/32"])
def test_a_network_that_may_register_is_enough(network: str) -> None:
    config = config_of("--allow", network, allow=())
    assert [str(each).removesuffix("/32") for each in config.allow] == [network.removesuffix("/32")]
    assert config.keyring is None


def test_keys_are_enough_and_go_with_networks(tmp_path: Path) -> None:
    path = str(key_file(tmp_path, FIRST, SECOND))
    for allow in ((), ("--allow", "10.0.0.0/8")):
        config = config_of("--keyring", path, allow=allow)
        assert ids(config.keyring) == [FIRST.id, SECOND.id]
        assert len(config.allow) == len(allow) / 2


def test_both_commands_have_a_short_form_and_read_a_file_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = key_file(tmp_path, FIRST)
    for keyring in (config_of("-k", "keys").keyring, agent_config_of("--proxy", "10.1.1.10", "-k", "keys").keyring):
        assert ids(keyring) == [FIRST.id]
        assert keyring is not None
        assert keyring.path == str(path)


@pytest.mark.parametrize("command", ["rproxy", "rproxy-agent"])
@BROKEN
def test_a_broken_file_is_one_line_that_names_it_and_shows_no_key(
    tmp_path: Path, damage: Damage, reason: str, command: str
) -> None:
    path = key_file(tmp_path, FIRST)
    damage(path)
    arguments = ["--keyring", str(path)]
    line = message_of(*arguments) if command == "rproxy" else agents_message("--proxy", "10.1.1.10", *arguments)
    assert line.startswith(f"twistd {command}: --keyring {path}: {reason}")
    assert line.endswith(f"(twistd {command} --help lists the options)")
    assert not shows_a_key(line)


def test_a_proxy_needs_a_master_key_and_an_agent_does_not(tmp_path: Path) -> None:
    path = str(key_file(tmp_path, OWN))
    assert f"--keyring {path}: it has an agent's key" in message_of("--keyring", path)
    assert ids(agent_config_of("--proxy", "10.1.1.10", "--keyring", path).keyring) == [OWN.id]


@pytest.mark.parametrize(("text", "backends"), [("1", 1), ("1024", 1024), ("5000", 5000), ("100000", 100_000)])
def test_a_pool_has_the_limits_of_its_size(text: str, backends: int) -> None:
    assert config_of("--max-backends", text).limits == Limits.for_pool(backends)


def test_a_pool_has_1024_back_ends_by_default() -> None:
    assert config_of().limits == Limits()


@pytest.mark.parametrize("value", NUMBERS)
def test_a_size_that_no_pool_can_have_is_one_line_that_names_the_option(value: str) -> None:
    assert f"--max-backends {value}: " in message_of("--max-backends", value)


def test_settings_show_no_key(tmp_path: Path) -> None:
    path = str(key_file(tmp_path, FIRST, SECOND))
    for config in (config_of("--keyring", path), agent_config_of("--proxy", "10.1.1.10", "--keyring", path)):
        assert "Key(id=7" in repr(config)
        assert not shows_a_key(repr(config))


@pytest.mark.parametrize(
    ("given", "address"), [("192.0.2.7", "192.0.2.7"), ("2001:DB8:0::5", "2001:db8::5"), ("::1", "::1")]
)
def test_an_agents_address_can_be_configured(tmp_path: Path, given: str, address: str) -> None:
    path = str(key_file(tmp_path, OWN))
    config = agent_config_of("--proxy", "10.1.1.10", "--keyring", path, "--advertise", given)
    assert config.advertise == address


@pytest.mark.parametrize("value", ["", "abc", "nat.example", "10.1.1.256", "10.1.1.1:5555", "[::1]", "10.0.0.0/8"])
def test_what_is_no_address_is_one_line_that_names_the_option(tmp_path: Path, value: str) -> None:
    path = str(key_file(tmp_path, OWN))
    message = agents_message("--proxy", "10.1.1.10", "--keyring", path, "--advertise", value)
    assert f"--advertise {value}: not an IP address" in message


def test_advertise_needs_keys() -> None:
    message = agents_message("--proxy", "10.1.1.10", "--advertise", "192.0.2.7")
    assert "--advertise is of use only with --keyring" in message


@pytest.mark.parametrize(
    ("parse", "options"),
    [(config_of, ("keyring", "max-backends", "allow")), (agent_config_of, ("keyring", "advertise"))],
)
def test_the_help_names_the_options(parse: Any, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert not ended.value.code
    text = capsys.readouterr().out
    for option in options:
        assert f"--{option}=" in text
