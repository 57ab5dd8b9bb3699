"""Rotating keys: on SIGUSR2 or SIGHUP the key file is read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger

from rproxy.config.keyfile import Keyring, envelope
from rproxy.tap.signals import at_signals
from rproxy.wire.keyfile import KeyringError
from rproxy.wire.seal import Envelope

_log = Logger()


class HasEnvelope(Protocol):
    """A side of the monitoring protocol whose envelope may be replaced at any time."""

    envelope: Envelope


def rotate(keyring: Keyring | None, *owners: HasEnvelope) -> bool:
    """Read the key file again and give its keys to all `owners`. If it cannot be used, they keep their keys.

    Returns whether they have what the file says now.
    """
    if keyring is None:
        _log.warn("told to read the keys again, but there is no --keyring")
        return False
    try:
        keyring = keyring.reread()
    except KeyringError as error:
        _log.error("--keyring {path}: {error}; the keys stay as they were", path=keyring.path, error=error)
        return False
    use_keys(keyring, *owners)
    return True


def use_keys(keyring: Keyring, *owners: HasEnvelope) -> None:
    """Give these keys to all `owners`."""
    for owner in owners:
        owner.envelope = envelope(keyring)
    ids = ", ".join(str(key.id) for key in keyring.keys)
    _log.info("keys read again: {ids}; the first one seals", ids=ids)


def at_signal(reactor: Any, call: Callable[[], None]) -> None:
    """On SIGUSR2 or SIGHUP, have the reactor call `call`, at most once a second."""
    at_signals(reactor, call, "SIGUSR2", "SIGHUP")
