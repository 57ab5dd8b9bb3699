"""What Twisted's endpoints have no interface for."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet import endpoints


def innermost(endpoint: Any) -> Any:
    """The endpoint within all wrappers such as ``haproxy:``, which is `endpoint` itself if it is no wrapper."""
    while hasattr(endpoint, "_wrappedEndpoint"):
        endpoint = endpoint._wrappedEndpoint
    return endpoint


def remove_abandoned(endpoint: Any) -> None:
    """Remove the socket of a Unix endpoint, and its lock file, if no process listens on it.

    Twisted goes by the process id in the lock file. Another process may have that id by now; in a container it is
    often our own.
    """
    endpoint = innermost(endpoint)
    if not isinstance(endpoint, endpoints.UNIXServerEndpoint):
        return
    path = endpoint._address
    with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
        sock.setblocking(False)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            os.unlink(f"{path}.lock")


def ignore_offered_protocols() -> None:
    """Let a TLS listener that speaks no protocol by name ignore those that clients offer (ALPN).

    Twisted from 26.4 on answers the offer with an empty name there, which OpenSSL takes for an internal error: every
    browser and curl is refused. Without a callback, as before 26.4, the offer is ignored. Listeners that have names
    of protocols are left as they are.
    """
    try:
        from twisted.internet import _sslverify
    except ImportError:  # no pyOpenSSL: no TLS listener
        return
    set_up = getattr(_sslverify, "setupForALPN", None)
    if set_up is None or getattr(set_up, "ignores", False):
        return

    def set_up_if_named(context: Any, protocols: Sequence[bytes]) -> None:
        if protocols:
            set_up(context, protocols)

    set_up_if_named.ignores = True  # type: ignore[attr-defined]
    setattr(_sslverify, "setupForALPN", set_up_if_named)  # noqa: B010 - not in its interface
