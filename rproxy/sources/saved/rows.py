"""What is kept for the proxy's next run, as JSON: back-ends and operators' overrides, a line each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import Any, Final, TypeVar

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.states import State
from rproxy.sources.saved.fields import backend, whole
from rproxy.sources.saved.overrides import SavedOverrides, override_of, override_row
from rproxy.wire.pdu import UINT16_MAX, UINT32_MAX, UINT64_MAX, WEIGHT_MAX

VERSION: Final = 1
_KIND: Final = "rproxy-back-ends"
_CONFIRMED: Final = frozenset({State.UP, State.SUSPECT, State.DOWN})
_INTERVAL_MAX_S: Final = UINT32_MAX / 1000

Rows = dict[Address, Registration]
"""Registrations by back-end."""
_Parsed = TypeVar("_Parsed")


class RowsError(ValueError):
    """The text is not a valid state file; the message says why."""


def is_kept(row: Backend) -> bool:
    """Whether it has an agent that has answered, and the back-end has not departed."""
    return row.has_agent and row.state in _CONFIRMED


@attrs.frozen
class Saved:
    """The contents of a state file."""

    rows: Rows = attrs.Factory(dict)
    overrides: SavedOverrides = attrs.Factory(dict)
    """Files of earlier versions have none, and earlier versions do not read them."""


def encoded(saved: Saved, at_once: int) -> Iterator[bytes]:
    """The text of the file, in pieces of `at_once` rows."""
    text = f'{{"kind": "{_KIND}", "version": {VERSION}, "backends": [\n'
    for number, row in enumerate(_texts(saved)):
        if number and number % at_once == 0:
            yield text.encode()
            text = ""
        text += row
    yield f"{text}\n]}}\n".encode()


def _texts(saved: Saved) -> Iterator[str]:
    """A text for each row, with what separates it from the one before."""
    separator = ""
    for address, registration in saved.rows.items():
        yield separator + json.dumps(_row(address, registration))
        separator = ",\n"
    separator = '\n], "words": [\n'
    for (service, key), override in saved.overrides.items():
        yield separator + json.dumps(override_row(service, key, override))
        separator = ",\n"


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


def decoded(text: bytes) -> Saved:
    """What is in a text of `encoded`. Raises `RowsError`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise RowsError("it is broken, or not ours") from None
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise RowsError("it is not ours")
    if document.get("version") != VERSION:
        raise RowsError("it is of another version")
    backends, words = document.get("backends"), document.get("words", [])
    if not isinstance(backends, list):
        raise RowsError("it has no back-ends")
    if not isinstance(words, list):
        raise RowsError("its operators' words make no sense")
    return Saved(dict(_parsed("back-end", backends, _registered)), dict(_parsed("operator's word", words, override_of)))


def _parsed(kind: str, rows: Iterable[object], parse: Callable[[Any], _Parsed]) -> Iterator[_Parsed]:
    for number, row in enumerate(rows, 1):
        try:
            yield parse(row)
        except (KeyError, TypeError, ValueError):
            raise RowsError(f"{kind} {number} of it makes no sense") from None


def _registered(row: Any) -> tuple[Address, Registration]:
    """Raises `KeyError`, `TypeError` or `ValueError`."""
    (host, port), interval_s = backend(row), row["interval_s"]
    if isinstance(interval_s, bool) or not 0 < interval_s <= _INTERVAL_MAX_S:
        raise ValueError
    agent = host, whole(row["agent_port"], 1, UINT16_MAX)
    instance, weight = whole(row["instance"], 0, UINT64_MAX), whole(row["weight"], 1, WEIGHT_MAX)
    local = row["local"]
    if not isinstance(local, str):
        raise ValueError
    if ours := local.partition("@")[0]:
        ip_address(ours)
    limit = row.get("max_connections")  # rows of earlier versions have none
    if limit is not None:
        whole(limit, 1, UINT32_MAX)
    registration = Registration(agent, instance, float(interval_s), weight, local, limit)
    return (host, port), registration
