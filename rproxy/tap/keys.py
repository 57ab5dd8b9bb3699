"""Key files: read at the start, and again on SIGUSR2, which is how keys are rotated."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs
from twisted.logger import Logger

from rproxy.wire.seal import Envelope, Key, KeyringError, Sealed, Unsealed, parse_keys

BYTES_MAX: Final = 1 << 20
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_log = Logger()


def read_keys(path: str, *, derived: bool) -> tuple[Key, ...]:
    """The keys in a file; `derived` is whether keys of single agents may be among them. Raises `KeyringError`."""
    try:
        with open(path, encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & _FOR_OTHERS:
                raise KeyringError("others than its owner may use it (chmod 600 mends that)")
            text = file.read(BYTES_MAX + 1)
            if len(text) > BYTES_MAX:
                raise KeyringError("it is longer than any key file")
            keys = parse_keys(text)
    except OSError as error:
        raise KeyringError(error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise KeyringError("it is not a text of ASCII characters") from None
    if not derived and any(key.is_derived for key in keys):
        raise KeyringError("it has an agent's key: a proxy needs the master key that it was derived from")
    return keys


@attrs.frozen
class Keyring:
    """A key file and what is in it."""

    path: str
    keys: tuple[Key, ...]
    derived: bool

    @classmethod
    def read(cls, path: str, *, derived: bool) -> Keyring:
        """Raises `KeyringError`."""
        path = os.path.abspath(path)
        return cls(path, read_keys(path, derived=derived), derived)

    def again(self) -> Keyring:
        """What the file holds now. Raises `KeyringError`."""
        return self.read(self.path, derived=self.derived)


def envelope(keyring: Keyring | None) -> Envelope:
    return Unsealed() if keyring is None else Sealed(keyring.keys)


class HasEnvelope(Protocol):
    envelope: Envelope


def rotate(keyring: Keyring | None, *owners: HasEnvelope) -> None:
    """Give all `owners` the keys that the file holds now; if it is broken, they keep those they have."""
    if keyring is None:
        _log.warn("told to read the keys again, but there is no --keyring")
        return
    try:
        keyring = keyring.again()
    except KeyringError as error:
        _log.error("--keyring {path}: {error}; the keys stay as they were", path=keyring.path, error=error)
        return
    for owner in owners:
        owner.envelope = envelope(keyring)
    ids = ", ".join(str(key.id) for key in keyring.keys)
    _log.info("keys read again: {ids}; the first one seals", ids=ids)


def at_signal(reactor: Any, call: Callable[[], None]) -> None:
    """On SIGUSR2, `call` in the reactor's own time."""
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, lambda *_: reactor.callFromThread(call))
