"""What operators say of back-ends, as the state file keeps it for the proxy's next run."""

from __future__ import annotations

from typing import Any, Final

from rproxy.net.addresses import Address, written
from rproxy.pool.states import Administration, Word
from rproxy.sources.saved.fields import backend, whole
from rproxy.wire.pdu import WEIGHT_MAX

_LATEST: Final = 1e12
"""As Unix time in s: any clock is before."""

SavedWords = dict[tuple[str, Address], Word]
"""By the service's name and back-end."""


def word_row(service: str, key: Address, word: Word) -> dict[str, Any]:
    """As `word_of` reads it."""
    return {
        "service": service,
        "address": key[0],
        "port": key[1],
        "administration": word.administration.value,
        "weight": word.weight,
        "since": word.since,
    }


def word_of(row: Any) -> tuple[tuple[str, Address], Word]:
    """Raises `KeyError`, `TypeError` or `ValueError`."""
    service, weight, since = row["service"], row["weight"], row["since"]
    if not isinstance(service, str) or isinstance(since, bool) or not isinstance(since, int | float):
        raise TypeError
    if not 0 <= since <= _LATEST:
        raise ValueError
    if weight is not None:
        whole(weight, 1, WEIGHT_MAX)
    return (service, backend(row)), Word(Administration(row["administration"]), weight, float(since))


def told(service: str, key: Address, word: Word) -> str:
    """For a log line."""
    said = [] if word.administration is Administration.READY else [word.administration.value]
    if word.weight is not None:
        said.append(f"weight {word.weight}")
    return f"{service} {written(key)} {' '.join(said)}"
