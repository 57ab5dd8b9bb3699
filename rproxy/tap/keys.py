"""Key files: read at the start, and again on SIGUSR2 or SIGHUP, which is how keys are rotated."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Set
from typing import Any, Final, Protocol

import attrs
from twisted.logger import Logger

from rproxy.tap.signals import at_signals
from rproxy.wire.keyfile import KeyringError, parse_keys
from rproxy.wire.seal import Envelope, Key, Sealed, Unsealed

BYTES_MAX: Final = 1 << 20
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_log = Logger()


def read_keys(path: str, *, derived: bool, owner: int | None = None) -> tuple[Key, ...]:
    """The keys in a file; `derived` is whether keys of single agents may be among them. Raises `KeyringError`.

    The file is root's, this user's, or that of the user `owner`, whom this process is to become.
    """
    try:
        keys = parse_keys(_text(path, {0, os.geteuid(), owner}))
    except OSError as error:
        raise KeyringError(error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise KeyringError("it is not a text of ASCII characters") from None
    if not derived and any(key.is_derived for key in keys):
        raise KeyringError("it has an agent's key: a proxy needs the master key that it was derived from")
    return keys


def _text(path: str, owners: Set[int | None]) -> str:
    """What a regular file holds: anything else might be waited for, and all sessions with it."""
    _check_kind(os.stat(path))  # before it is opened, which may set off what is no file
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="ascii") as file:
        status = os.fstat(file.fileno())
        _check_kind(status)
        if status.st_uid not in owners:
            raise KeyringError(f"it belongs to user {status.st_uid}, who is neither root nor the one that uses it")
        if status.st_mode & _FOR_OTHERS:
            raise KeyringError("others than its owner may use it (chmod 600 mends that)")
        text = file.read(BYTES_MAX + 1)
    if len(text) > BYTES_MAX:
        raise KeyringError("it is longer than any key file")
    return text


def _check_kind(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise KeyringError("it is no regular file")


@attrs.frozen
class Keyring:
    """A key file and what is in it."""

    path: str
    keys: tuple[Key, ...]
    derived: bool
    owner: int | None = None

    @classmethod
    def read(cls, path: str, *, derived: bool, owner: int | None = None) -> Keyring:
        """As `read_keys`. Raises `KeyringError`."""
        path = os.path.abspath(path)
        return cls(path, read_keys(path, derived=derived, owner=owner), derived, owner)

    def again(self) -> Keyring:
        """What the file holds now. Raises `KeyringError`."""
        return self.read(self.path, derived=self.derived, owner=self.owner)


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
    """On SIGUSR2 or SIGHUP, `call` in the reactor's own time, and at most once a second."""
    at_signals(reactor, call, "SIGUSR2", "SIGHUP")
