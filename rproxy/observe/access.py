"""Which web pages may ask: a browser sends what any page tells it to, also to addresses that only it can reach."""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import Final

from twisted.web.http_headers import Headers

_AUTHORITY: Final = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<name>[^:\[\]]+))(?::[0-9]*)?")
_SCHEMES: Final = (b"http://", b"https://")
LOCALHOST: Final = "localhost"


def permitted(headers: Headers, names: Collection[str]) -> bool:
    """Whether a request with these is one of a page of ours, or of a program that is no browser.

    A foreign page is told by its `Origin`. One that has made its own name mean our address (DNS rebinding) has that
    name in `Host`: so only addresses, localhost and our own `names`, in small letters, may stand there.
    """
    hosts, origins = (headers.getRawHeaders(name, []) for name in (b"host", b"origin"))
    if len(hosts) > 1 or not all(_is_ours(host, names) for host in hosts):
        return False
    return all(any(_is_same(origin, host) for host in hosts) for origin in origins)


def _is_ours(authority: bytes, names: Collection[str]) -> bool:
    match = _AUTHORITY.fullmatch(authority.decode("latin-1"))
    if match is None:
        return False
    if match["six"]:
        return _is_ip(match["six"])
    name = match["name"].lower().removesuffix(".")
    return name == LOCALHOST or name in names or _is_ip(name)


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_same(origin: bytes, host: bytes) -> bool:
    return any(origin.lower() == scheme + host.lower() for scheme in _SCHEMES)
