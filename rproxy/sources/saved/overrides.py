"""What operators have set for back-ends, as the state file keeps it for the proxy's next run."""

from __future__ import annotations

from typing import Any, Final

from rproxy.net.addresses import Address, written
from rproxy.pool.states import Administration, Override
from rproxy.sources.saved.fields import backend, whole
from rproxy.wire.pdu import WEIGHT_MAX

_LATEST: Final = 1e12
"""As Unix time in s: any clock is before."""

SavedOverrides = dict[tuple[str, Address], Override]
"""By the service's name and back-end."""


def override_row(service: str, key: Address, override: Override) -> dict[str, Any]:
    """As `override_of` reads it."""
    return {
        "service": service,
        "address": key[0],
        "port": key[1],
        "administration": override.administration.value,
        "weight": override.weight,
        "since": override.since,
    }


def override_of(row: Any) -> tuple[tuple[str, Address], Override]:
    """Raises `KeyError`, `TypeError` or `ValueError`."""
    service, weight, since = row["service"], row["weight"], row["since"]
    if not isinstance(service, str) or isinstance(since, bool) or not isinstance(since, int | float):
        raise TypeError
    if not 0 <= since <= _LATEST:
        raise ValueError
    if weight is not None:
        whole(weight, 1, WEIGHT_MAX)
    return (service, backend(row)), Override(Administration(row["administration"]), weight, float(since))


def described(service: str, key: Address, override: Override) -> str:
    """For a log line."""
    said = [] if override.administration is Administration.READY else [override.administration.value]
    if override.weight is not None:
        said.append(f"weight {override.weight}")
    return f"{service} {written(key)} {' '.join(said)}"
