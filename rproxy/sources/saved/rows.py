"""The rows that are kept for the proxy's next run, as JSON: one line per back-end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.states import State
from rproxy.wire.pdu import UINT16_MAX, UINT32_MAX, UINT64_MAX, WEIGHT_MAX

VERSION: Final = 1
_KIND: Final = "rproxy-back-ends"
_CONFIRMED: Final = frozenset({State.UP, State.SUSPECT, State.DOWN})
_INTERVAL_MAX_S: Final = UINT32_MAX / 1000

Rows = dict[Address, Registration]
"""Registrations by back-end."""


class RowsError(ValueError):
    """The text is not a valid state file; the message says why."""


def is_kept(backend: Backend) -> bool:
    """Whether it has an agent that has answered, and the back-end has not departed."""
    return backend.has_agent and backend.state in _CONFIRMED


def encoded(rows: Rows, at_once: int) -> Iterator[bytes]:
    """The text for all rows, in pieces of `at_once` rows."""
    text = f'{{"kind": "{_KIND}", "version": {VERSION}, "backends": [\n'
    separator = ""
    for number, (address, registration) in enumerate(rows.items()):
        if number and number % at_once == 0:
            yield text.encode()
            text = ""
        text += separator + json.dumps(_row(address, registration))
        separator = ",\n"
    yield f"{text}\n]}}\n".encode()


def _row(address: Address, registration: Registration) -> dict[str, Any]:
    """Without the agent's host, which is the back-end's."""
    return {
        "address": address[0],
        "port": address[1],
        "agent_port": registration.agent[1],
        "instance": registration.instance,
        "interval_s": registration.interval_s,
        "weight": registration.weight,
        "max_connections": registration.max_connections,
        "local": registration.local,
    }


def decoded(text: bytes) -> Rows:
    """The rows in a text of `encoded`. Raises `RowsError`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise RowsError("it is broken, or not ours") from None
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise RowsError("it is not ours")
    if document.get("version") != VERSION:
        raise RowsError("it is of another version")
    backends = document.get("backends")
    if not isinstance(backends, list):
        raise RowsError("it has no back-ends")
    return dict(_parsed(number, row) for number, row in enumerate(backends, 1))


def _parsed(number: int, row: object) -> tuple[Address, Registration]:
    try:
        return _registered(row)
    except (KeyError, TypeError, ValueError):
        raise RowsError(f"back-end {number} of it makes no sense") from None


def _registered(row: Any) -> tuple[Address, Registration]:
    """Raises `KeyError`, `TypeError` or `ValueError`."""
    host, interval_s = row["address"], row["interval_s"]
    ip = ip_address(host)
    mapped = isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None
    if not isinstance(host, str) or str(ip) != host or mapped or ip.is_multicast or ip.is_unspecified:
        raise ValueError
    if isinstance(interval_s, bool) or not 0 < interval_s <= _INTERVAL_MAX_S:
        raise ValueError
    agent = host, _whole(row["agent_port"], 1, UINT16_MAX)
    instance, weight = _whole(row["instance"], 0, UINT64_MAX), _whole(row["weight"], 1, WEIGHT_MAX)
    local = row["local"]
    if not isinstance(local, str):
        raise ValueError
    if ours := local.partition("@")[0]:
        ip_address(ours)
    limit = row.get("max_connections")  # rows of earlier versions have none
    if limit is not None:
        _whole(limit, 1, UINT32_MAX)
    registration = Registration(agent, instance, float(interval_s), weight, local, limit)
    return (host, _whole(row["port"], 1, UINT16_MAX)), registration


def _whole(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError
    return value
