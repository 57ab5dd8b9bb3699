"""Rejects HTTP requests that other sites' pages cause a browser to send (CSRF, DNS rebinding)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from twisted.web.http_headers import Headers

from rproxy.net.addresses import is_ip

_AUTHORITY: Final = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(?::[0-9]*)?")
_SCHEMES: Final = (b"http://", b"https://")
LOCALHOST: Final = "localhost"


def is_permitted(headers: Headers, names: Collection[str]) -> bool:
    """Whether a request with these headers comes from a page of this server, or from a program that is no browser.

    A page of another site is recognized by `Origin`. One whose site's name resolves to this server (DNS rebinding) has
    that name in `Host`: only IP addresses, localhost and this server's `names`, in lower case, are permitted there.
    """
    hosts, origins = (headers.getRawHeaders(name, []) for name in (b"host", b"origin"))
    if len(hosts) > 1 or not all(_is_own_authority(host, names) for host in hosts):
        return False
    return all(any(_is_same_origin(origin, host) for host in hosts) for origin in origins)


def _is_own_authority(authority: bytes, names: Collection[str]) -> bool:
    match = _AUTHORITY.fullmatch(authority.decode("latin-1"))
    if match is None:
        return False
    if match["six"]:
        return is_ip(match["six"])
    name = match["name"].lower().removesuffix(".")
    return name == LOCALHOST or name in names or is_ip(name)


def _is_same_origin(origin: bytes, host: bytes) -> bool:
    return any(origin.lower() == scheme + host.lower() for scheme in _SCHEMES)
