"""The carriers by their names on the command line. A new one is added here only."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

import attrs

from rproxy.carriers.carrier import Carrier, Resources

CAN_SPLICE: Final = hasattr(os, "splice") and hasattr(select, "epoll")
"""Whether this system and this Python have splice(2) and epoll."""


class UnusableCarrier(Exception):
    """No carrier has that name, or it does not work on this system; the text is for an operator."""


def _portable(resources: Resources) -> Carrier:
    from rproxy.carriers.portable.carrier import PortableCarrier

    return PortableCarrier(resources.reactor, resources.deadlines, resources.capacity)


def _splice(resources: Resources, *, strict: bool = True) -> Carrier:
    from rproxy.carriers.portable.carrier import PortableCarrier
    from rproxy.carriers.splice.pipes import Pipes
    from rproxy.carriers.splice.reactor import SpliceCarrier  # names constants that only Linux has

    portable = PortableCarrier(resources.reactor, resources.deadlines, resources.capacity)
    return SpliceCarrier(resources.reactor, portable, Pipes(resources.pipes_max), strict=strict)


def _auto(resources: Resources) -> Carrier:
    return _splice(resources, strict=False) if CAN_SPLICE else _portable(resources)


def _lacks_splice() -> str | None:
    return None if CAN_SPLICE else "needs Linux; auto takes what there is"


@attrs.frozen
class Entry:
    """One carrier of the registry."""

    make: Callable[[Resources], Carrier]
    unusable: Callable[[], str | None] = lambda: None
    """Why it does not work on this system, as a text for an operator; None where it works."""


CARRIERS: Final[dict[str, Entry]] = {
    "auto": Entry(_auto),
    "splice": Entry(_splice, unusable=_lacks_splice),
    "portable": Entry(_portable),
}


def check_carrier(name: str) -> None:
    """Raises `UnusableCarrier` if `make_carrier` would for that name."""
    entry = CARRIERS.get(name)
    if entry is None:
        *names, last = CARRIERS
        raise UnusableCarrier(f"must be {', '.join(names)} or {last}")
    reason = entry.unusable()
    if reason is not None:
        raise UnusableCarrier(reason)


def make_carrier(name: str, resources: Resources) -> Carrier:
    """Make the carrier of that name. Raises `UnusableCarrier`."""
    check_carrier(name)
    return CARRIERS[name].make(resources)
