"""Key files as operators have them, and as they should not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from rproxy.wire.keyfile import format_key
from rproxy.wire.pdu import MalformedPdu, ProbeRequest, encode
from rproxy.wire.seal import Envelope, Key, Sealed

FIRST: Final = Key(7, bytes(range(32)))
SECOND: Final = Key(8, bytes(range(100, 140)))
OWN: Final = Key(9, bytes(range(200, 232)), is_derived=True)
"""An agent's."""
AGENT: Final = "10.1.1.1"
PDU: Final = encode(ProbeRequest(1, 2))
Damage = Callable[[Path], None]
"""What makes a key file unusable."""


def key_file(folder: Path, *keys: Key, mode: int = 0o600, name: str = "keys") -> Path:
    return text_file(folder, "".join(f"{format_key(key)}\n" for key in keys), mode=mode, name=name)


def text_file(folder: Path, text: str, *, mode: int = 0o600, name: str = "keys") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def _missing(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def _public(path: Path) -> None:
    path.chmod(0o640)


def _text(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write


BROKEN: Final = pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(_missing, "No such file or directory", id="missing"),
        pytest.param(_folder, "Is a directory", id="a folder"),
        pytest.param(_public, "others than its owner may use it (chmod 600 mends that)", id="for others"),
        pytest.param(_text(""), "there is no key in it", id="empty"),
        pytest.param(_text(f"é {format_key(FIRST)}"), "it is not a text of ASCII characters", id="not ASCII"),
        pytest.param(_text(f"# a\n{format_key(FIRST)[:-2]}"), "line 2: the key is shorter than 32 bytes", id="short"),
        pytest.param(_text(format_key(FIRST) * 2), "line 1: not of the form ID HEX", id="two keys in a line"),
        pytest.param(
            _text(f"{format_key(FIRST)}\n{format_key(SECOND)}\n{format_key(FIRST)}"), "line 3: key id 7", id="repeated"
        ),
    ],
)
"""What can be wrong with a key file, and what is said of it."""


def shows_a_key(text: str) -> bool:
    """Whether there is a good part of any key in it."""
    secrets = (key.secret for key in (FIRST, SECOND, OWN))
    return any(form in text for secret in secrets for form in (secret.hex()[:8], repr(secret)[2:10], str(secret[:4])))


def opens(envelope: Envelope, key: Key) -> bool:
    """Whether it takes what that key seals."""
    try:
        return envelope.open(Sealed((key,)).seal(PDU, AGENT), AGENT) == PDU
    except MalformedPdu:
        return False


def seals_with(envelope: Envelope) -> int:
    """The id of the key that it seals with."""
    return envelope.seal(PDU, AGENT)[24]


def mode_of(path: Path) -> int:
    return os.stat(path).st_mode & 0o7777
