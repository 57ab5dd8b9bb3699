"""Configuration files that cannot be read, or are no TOML: one clear line."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rproxy.config.toml_file import BYTES_MAX
from tests.config.commands import message_of
from tests.config.files import NAME


def _bytes(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


BROKEN = [
    pytest.param(lambda path: None, "No such file or directory", id="missing"),
    pytest.param(Path.mkdir, "Is a directory", id="a folder"),
    pytest.param(os.mkfifo, "it is no regular file", id="a FIFO"),
    pytest.param(_socket, "it is no regular file", id="a socket"),
    pytest.param(_link_to_itself, "Too many levels of symbolic links", id="a link to itself"),
    pytest.param(_bytes(b"#" * (BYTES_MAX + 1)), f"it is longer than {BYTES_MAX} bytes", id="huge"),
    pytest.param(_bytes(b"# a\n# \xe4"), "it is not a text in UTF-8 (at line 2, byte 0xe4)", id="Latin-1"),
    pytest.param(_bytes("[proxy]".encode("utf-16")), "it is not a text in UTF-8 (at line 1, byte 0xff)", id="UTF-16"),
    pytest.param(_bytes(b"[proxy\n"), "Expected ']' at the end of a table declaration (at line 1,", id="syntax"),
    pytest.param(_bytes(b"\n[proxy]\ndemo = 1\ndemo = 2\n"), "Cannot overwrite a value (at line 4,", id="twice"),
    pytest.param(_bytes(b"a = \x00"), "", id="a control character"),
    pytest.param(_bytes(b"a = " + b"[" * 100_000), "its values are nested too deeply", id="nested"),
    pytest.param(_bytes(b"a = " + b"9" * 100_000), "Exceeds the limit (4300 digits) for", id="many digits"),
]


@pytest.mark.parametrize(("make", "reason"), BROKEN)
def test_a_file_that_cannot_be_used_is_one_line_that_names_it(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / NAME
    make(path)
    assert message_of("--config", str(path)).startswith(f"twistd rproxy: {path}: {reason}")


def test_a_device_is_not_read() -> None:
    assert message_of("--config", "/dev/zero") == "twistd rproxy: /dev/zero: it is no regular file"


def test_a_file_that_this_user_may_not_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / NAME
    path.touch()

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    assert message_of("--config", str(path)) == f"twistd rproxy: {path}: Permission denied"


def test_no_file_is_an_unset_variable() -> None:
    assert message_of("--config", "").startswith("twistd rproxy: --config: no file is named")


def test_a_mark_of_the_byte_order_does_no_harm(tmp_path: Path) -> None:
    from tests.config.files import file_config

    assert file_config(tmp_path, "\ufeff[proxy]\ndemo = 1").demo == 1
