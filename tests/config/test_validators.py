"""Checks of single values: their errors name the key as its user wrote it, in an option or in a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rproxy.config.validators import (
    ConfigError,
    choice,
    host_and_port,
    ip,
    keyring,
    network,
    number,
    path,
    whole,
)
from tests.config.keyfiles import FIRST, key_file

Check = Callable[..., object]
KEYS = ["--some-key", "service[1].some-key"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("check", "value", "reason"),
    [
        (partial(number, low=0.5, high=60), "five", "not a number"),
        (partial(number, low=0.5, high=60), True, "not a number"),
        (partial(number, low=0.5, high=60), float("nan"), "not a number"),
        (partial(number, low=0.5, high=60), 0.25, "must be from 0.5 to 60"),
        (partial(number, low=0.5, high=60, zero=True), 61, "must be 0, or from 0.5 to 60"),
        (partial(whole, low=1, high=9), 1.0, "not a whole number"),
        (partial(whole, low=1, high=9), 10, "must be from 1 to 9"),
        (partial(choice, choices=("all", "some", "off")), "none", "must be all, some or off"),
        (partial(choice, choices=("all", "some", "off")), False, "must be all, some or off"),
        (host_and_port, "a", "not of the form HOST:PORT (an IPv6 address in brackets)"),
        (partial(host_and_port, host=""), "a:70000", "port 70000 is above 65535"),
        (partial(host_and_port, host=""), 70000, "port 70000 is above 65535"),
        (partial(host_and_port, port=1), "[zz]", "[zz] is not an IPv6 address"),
        (ip, "a", "not an IP address"),
        (network, "10.0.0.1/8", "10.0.0.1/8 has host bits set"),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_wrong(check: Check, value: object, reason: str, key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(key, value)
    assert str(raised.value) == f"{key} {value}: {reason}"
    assert (raised.value.key, str(raised.value.value), raised.value.reason) == (key, str(value), reason)


@pytest.mark.parametrize("check", [path, partial(keyring, derived=False)])
def test_the_empty_text_names_no_file(check: Check) -> None:
    with pytest.raises(ConfigError) as raised:
        check("proxy.file", "")
    assert str(raised.value) == "proxy.file: no file is named"


def test_an_error_of_no_single_key_is_its_reason() -> None:
    assert str(ConfigError("it will not do")) == "it will not do"


@pytest.mark.parametrize(
    ("check", "value", "read"),
    [
        (partial(number, low=0.5, high=60), 5, 5.0),
        (partial(number, low=0.5, high=60), "5", 5.0),
        (partial(number, low=1, high=1e30), 1e20, 1e20),
        (partial(number, low=0.5, high=60, zero=True), 0, 0.0),
        (partial(whole, low=1, high=9), 9, 9),
        (partial(host_and_port, host=""), 80, ("", 80)),
    ],
)
def test_a_number_may_be_one_or_its_text(check: Check, value: object, read: object) -> None:
    assert check("service[0].some-key", value) == read


def test_a_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert path("drain-file", "drain") == str(tmp_path / "drain")


def test_an_unreadable_keyring_is_reported_with_its_key(tmp_path: Path) -> None:
    file = key_file(tmp_path, FIRST, mode=0o644)
    with pytest.raises(ConfigError) as raised:
        keyring("proxy.keyring", str(file), derived=False)
    assert str(raised.value) == f"proxy.keyring {file}: others than its owner may use it (chmod 600 mends that)"
