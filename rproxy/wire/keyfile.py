"""The text of key files: one key a line, `ID HEX` or, for the key of a single agent, `ID agent:HEX`.

Blank lines, and everything after a `#`, are ignored. The first key seals, all of them open.
"""

from __future__ import annotations

from typing import Final

from rproxy.wire.seal import KEY_BYTES_MIN, KEY_ID_MAX, Key

_DERIVED: Final = "agent:"


class KeyringError(ValueError):
    """A key file that cannot be used. The message names the line, and never contains any part of a key."""


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys of a key file, in its order, at least one. Raises `KeyringError`."""
    keys: dict[int, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            key = _parse_key(words, f"line {number}: ")
            if key.id in keys:
                raise KeyringError(f"line {number}: key id {key.id} is there twice")
            keys[key.id] = key
    if not keys:
        raise KeyringError("there is no key in it")
    return tuple(keys.values())


def _parse_key(words: list[str], where: str) -> Key:
    if len(words) != 2:
        raise KeyringError(f"{where}not of the form ID HEX")
    number, text = words
    if not (number.isascii() and number.isdigit() and len(number) <= 3 and int(number) <= KEY_ID_MAX):
        raise KeyringError(f"{where}the key id is not a number from 0 to {KEY_ID_MAX}")
    digits = text.removeprefix(_DERIVED)
    try:
        secret = bytes.fromhex(digits)
    except ValueError:
        raise KeyringError(f"{where}the key is not in hexadecimal digits, two a byte") from None
    if len(secret) < KEY_BYTES_MIN:
        raise KeyringError(f"{where}the key is shorter than {KEY_BYTES_MIN} bytes ({2 * KEY_BYTES_MIN} digits)")
    return Key(int(number), secret, is_derived=text.startswith(_DERIVED))


def format_key(key: Key) -> str:
    """The line of a key file, without a newline, that `parse_keys` reads `key` from."""
    return f"{key.id} {_DERIVED if key.is_derived else ''}{key.secret.hex()}"
