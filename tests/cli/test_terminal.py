"""Keys from a terminal."""

from __future__ import annotations

import pytest

from rproxy.cli.terminal import keys_in


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"ab/", ["a", "b", "/"]),
        (b"\x1b[A\x1b[B\x1bOC\x1bOD", ["up", "down", "right", "left"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[F\x1b[1~\x1b[4~", ["page-up", "page-down", "home", "end", "home", "end"]),
        (b"\x1b", ["escape"]),
        (b"\x1b\x1b[A", ["escape", "up"]),
        (b"\r\n\x7f\x08", ["enter", "enter", "backspace", "backspace"]),
        (b"\x1b[15~q", ["q"]),
        (b"\x1b[1;5Aq", ["q"]),
        ("ä".encode(), []),
        (b"\x00\x01\xff", []),
        (b"", []),
    ],
)
def test_codes_are_keys(data: bytes, keys: list[str]) -> None:
    assert list(keys_in(data)) == keys
