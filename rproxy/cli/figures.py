"""Figures and texts of a proxy's documents as operators read them. Pure. None, or a figure that is none, is ``-``."""

from __future__ import annotations

import time
from ipaddress import ip_address
from math import isfinite
from typing import Any, Final

from rproxy.net.addresses import written

NONE: Final = "-"
_DAY_S: Final = 86400
_UNITS: Final = "KMGTPE"


def printable(value: object) -> str:
    """`value` as text in one line. Whatever could change the state of a terminal is escaped."""
    text = NONE if value is None else str(value)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character in "\n\t":
        return " "
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def number_of(value: object) -> float | None:
    """The figure; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return value


def count(value: object) -> str:
    figure = number_of(value)
    return NONE if figure is None else f"{figure:.0f}"


def rate(value: object) -> str:
    """Per second."""
    figure = number_of(value)
    return NONE if figure is None else f"{figure:.1f}" if figure < 100 else f"{figure:.0f}"


def value(value: object) -> str:
    """Of a policy: three digits, since it may have any size."""
    figure = number_of(value)
    return NONE if figure is None else f"{figure:.3g}"


def milliseconds(value: object) -> str:
    figure = number_of(value)
    if figure is None:
        return NONE
    return f"{figure:.2f}" if figure < 10 else f"{figure:.1f}" if figure < 100 else f"{figure:.0f}"


def percent(value: object) -> str:
    figure = number_of(value)
    return NONE if figure is None else f"{figure:.0f}%"


def share(value: object) -> str:
    """A share (0..1) as a percentage."""
    figure = number_of(value)
    return NONE if figure is None else f"{100 * figure:.0f}%" if figure >= 0.1 or not figure else f"{100 * figure:.1f}%"


def size(value: object) -> str:
    """Bytes; K, M, … are powers of 1,024."""
    figure = number_of(value)
    if figure is None:
        return NONE
    if figure < 1024:
        return f"{figure:.0f}"
    for unit in _UNITS:
        figure /= 1024
        if figure < 999.5 or unit == _UNITS[-1]:
            break
    return f"{figure:.1f}{unit}" if figure < 99.95 else f"{figure:.0f}{unit}"


def age(value: object) -> str:
    """Seconds, in the two largest units: 45ms, 1.5s, 12s, 3m07s, 2h05m, 3d04h."""
    figure = number_of(value)
    if figure is None:
        return NONE
    seconds = int(figure)
    if figure < 0.9995:
        return f"{max(1000 * figure, 0.0):.0f}ms"
    if figure < 9.95:
        return f"{figure:.1f}s"
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < _DAY_S:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // _DAY_S}d{seconds % _DAY_S // 3600:02}h"


def moment(value: object, now: float) -> str:
    """Unix time as local time; with the date, unless it is within the last 12 hours."""
    figure = number_of(value)
    try:
        local = time.localtime(figure) if figure is not None else None
    except (OverflowError, OSError, ValueError):
        local = None
    if figure is None or local is None:
        return NONE
    return time.strftime("%H:%M:%S" if 0 <= now - figure < _DAY_S / 2 else "%Y-%m-%d %H:%M:%S", local)


def backend_name(row: dict[str, Any]) -> str:
    """address:port of a back-end's row."""
    host, port = row.get("address"), row.get("port")
    return written((printable(host), port)) if isinstance(port, int) else printable(host)


def address_order(name: str) -> tuple[Any, ...]:
    """Sorts addresses, with or without ports, as numbers; other names come last."""
    host, _, port = name.rpartition(":") if name.count(":") == 1 or "]:" in name else (name, "", "")
    try:
        ip = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return (9, name, 0)
    return (ip.version, int(ip), int(port) if port.isdecimal() else 0)
