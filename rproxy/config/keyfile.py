"""Reads key files. A file that other users can read, or could have written, is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Set
from typing import Final

import attrs

from rproxy.net.files import open_regular
from rproxy.wire.keyfile import KeyringError, parse_keys
from rproxy.wire.seal import Envelope, Key, Sealed, Unsealed

BYTES_MAX: Final = 1 << 20
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_keys(path: str, *, derived: bool, owner: int | None = None) -> tuple[Key, ...]:
    """The keys in a file; `derived` is whether keys of single agents may be among them. Raises `KeyringError`.

    The file must belong to root, to the effective user, or to the user id `owner`, which this process will change to.
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
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in owners:
            raise KeyringError(f"it belongs to user {status.st_uid}, who is neither root nor the one that uses it")
        if status.st_mode & _FOR_OTHERS:
            raise KeyringError("others than its owner may use it (chmod 600 mends that)")
        data = file.read(BYTES_MAX + 1)
    if len(data) > BYTES_MAX:
        raise KeyringError("it is longer than any key file")
    return data.decode("ascii")


@attrs.frozen
class Keyring:
    """A key file and its keys; the first one seals."""

    path: str
    """Absolute."""
    keys: tuple[Key, ...]
    derived: bool
    """Whether keys of single agents may be in it."""
    owner: int | None = None
    """The id of a user who may own the file besides root and the effective user."""

    @classmethod
    def read(cls, path: str, *, derived: bool, owner: int | None = None) -> Keyring:
        """As `read_keys`. Raises `KeyringError`."""
        path = os.path.abspath(path)
        return cls(path, read_keys(path, derived=derived, owner=owner), derived, owner)

    def reread(self) -> Keyring:
        """The file, read again. Raises `KeyringError`."""
        return self.read(self.path, derived=self.derived, owner=self.owner)


def envelope(keyring: Keyring | None) -> Envelope:
    """The envelope for a keyring; `Unsealed` for None."""
    return Unsealed() if keyring is None else Sealed(keyring.keys)
