"""Fields of the state file's rows. What cannot be in one raises `ValueError`, or `KeyError` where it is missing."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Any

from rproxy.net.addresses import Address
from rproxy.wire.pdu import UINT16_MAX


def backend(row: Any) -> Address:
    """The address and the port of a back-end."""
    host = row["address"]
    ip = ip_address(host)
    mapped = isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None
    if not isinstance(host, str) or str(ip) != host or mapped or ip.is_multicast or ip.is_unspecified:
        raise ValueError
    return host, whole(row["port"], 1, UINT16_MAX)


def whole(value: object, low: int, high: int) -> int:
    """A whole number within these limits."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError
    return value
