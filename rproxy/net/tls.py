"""TLS listeners that have no protocols of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
