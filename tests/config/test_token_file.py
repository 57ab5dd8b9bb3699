"""Files of operators' tokens, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.config.secret_file import SecretFileError
from rproxy.config.token_file import TOKEN_MAX, TokenFile
from tests.config.commands import config_of, message_of
from tests.config.files import error_of, file_config
from tests.config.keyfiles import text_file

TOKEN = "a-token-of-24-characters"
SERVICE = '[[service]]\nlisten = "127.0.0.1:80"\n'


def test_each_line_is_a_token_and_comments_are_none(tmp_path: Path) -> None:
    path = text_file(tmp_path, f"# of the team\n\n  {TOKEN}  \nABCabc0123456789._~+/-==\n", name="tokens")
    file = TokenFile.read(str(path))
    assert (file.path, file.tokens) == (str(path), (TOKEN.encode(), b"ABCabc0123456789._~+/-=="))
    assert TOKEN not in repr(file)
    text_file(tmp_path, TOKEN[::-1], name="tokens")
    assert file.reread().tokens == (TOKEN[::-1].encode(),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no token in it"),
        ("# only this\n\n", "there is no token in it"),
        ("short\n", "line 1: a token has 16 to 1024 characters"),
        (f"{TOKEN}\n{'x' * (TOKEN_MAX + 1)}\n", "line 2: a token has 16 to 1024 characters"),
        (f"{TOKEN} {TOKEN}\n", "line 1: a token has letters, digits and any of -._~+/ only"),
        (f'"{TOKEN}"\n', "line 1: a token has letters, digits and any of -._~+/ only"),
        (f"é{TOKEN}\n", "it is not a text of ASCII characters"),
        (f"{TOKEN}\0\n", "line 1: a token has letters, digits and any of -._~+/ only"),
    ],
)
def test_what_is_no_file_of_tokens_is_said_without_them(tmp_path: Path, text: str, reason: str) -> None:
    path = text_file(tmp_path, text, name="tokens")
    with pytest.raises(SecretFileError) as raised:
        TokenFile.read(str(path))
    assert str(raised.value) == reason
    assert f"--admin-token-file {path}: {reason}" in message_of("--admin-token-file", str(path))


def test_one_that_others_may_read_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path, TOKEN, name="tokens", mode=0o640)
    assert "others than its owner may use it (chmod 600 mends that)" in message_of("--admin-token-file", str(path))
    assert "No such file or directory" in message_of("--admin-token-file", str(tmp_path / "none"))
    assert "no file is named" in message_of("--admin-token-file", "")


def test_a_file_names_it_relative_to_its_folder(tmp_path: Path) -> None:
    path = text_file(tmp_path, TOKEN, name="tokens")
    config = file_config(tmp_path, f'[proxy]\nadmin-token-file = "tokens"\n{SERVICE}')
    assert config.admin_token_file is not None
    assert config.admin_token_file.path == str(path)


@pytest.mark.parametrize("address", ["0.0.0.0:8404", "[::]:8404", "*:8404", "10.1.1.1:8404", "[2001:db8::1]:8404"])
def test_a_listener_that_other_hosts_can_reach_needs_tokens(tmp_path: Path, address: str) -> None:
    assert "other hosts can reach it: give --admin-token-file FILE, or a loopback address" in message_of(
        "--admin", address
    )
    text = f'[proxy]\nadmin = "{address}"\n'
    assert "proxy.admin" in error_of(tmp_path, text + SERVICE)
    path = text_file(tmp_path, TOKEN, name="tokens")
    config = config_of("--admin", address, "--admin-token-file", str(path))
    assert (config.reads_openly, config.has_operators) == (False, True)


@pytest.mark.parametrize("address", ["127.0.0.1:8404", "127.9.9.9:1", "[::1]:8404", "[::ffff:127.0.0.1]:1", "unix:a"])
def test_on_this_host_alone_none_are_needed(address: str) -> None:
    assert config_of("--admin", address).reads_openly


def test_a_unix_socket_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of("--admin", "unix:a.sock")
    assert (config.admin, config.admin_path, config.admin_names) == (None, str(tmp_path / "a.sock"), ())
    assert config_of("--admin", "unix:/run/a.sock").admin_path == "/run/a.sock"
    folder = tmp_path / "etc"
    folder.mkdir()
    assert file_config(folder, f'[proxy]\nadmin = "unix:a.sock"\n{SERVICE}').admin_path == str(folder / "a.sock")
    both = file_config(folder, f'[proxy]\nadmin = "unix:a.sock"\n{SERVICE}', "--admin", "127.0.0.1:1")
    assert (both.admin, both.admin_path) == (("127.0.0.1", 1), None)


@pytest.mark.parametrize("path", ["", "/" + "x" * 98, "/" + "é" * 60])
def test_a_path_that_no_socket_can_have_is_said(path: str) -> None:
    assert "--admin" in message_of("--admin", f"unix:{path}")


def test_a_demo_has_a_listener_that_need_not_be_possible() -> None:
    config = config_of("--demo", "2")
    assert (config.admin, config.admin_is_default) == (("127.0.0.1", 8404), True)
    config = config_of("--demo", "2", "--admin", "127.0.0.1:8405")
    assert (config.admin, config.admin_is_default) == (("127.0.0.1", 8405), False)
    config = config_of("--demo", "2", "--admin", "unix:/run/a.sock")
    assert (config.admin, config.admin_path) == (None, "/run/a.sock")
    assert config_of().admin is None
