"""Reads key files. A file that other users can read, or could have written, is refused."""

from __future__ import annotations

import os

import attrs

from rproxy.config.secret_file import SecretFileError, read_secrets
from rproxy.wire.keyfile import KeyringError, parse_keys
from rproxy.wire.seal import Envelope, Key, Sealed, Unsealed


def read_keys(path: str, *, derived: bool, owner: int | None = None) -> tuple[Key, ...]:
    """The keys in a file; `derived` is whether keys of single agents may be among them. Raises `KeyringError`.

    The file must belong to root, to the effective user, or to the user id `owner`, which this process will change to.
    """
    try:
        keys = parse_keys(read_secrets(path, "key file", owner))
    except SecretFileError as error:
        raise KeyringError(str(error)) from None
    if not derived and any(key.is_derived for key in keys):
        raise KeyringError("it has an agent's key: a proxy needs the master key that it was derived from")
    return keys


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
