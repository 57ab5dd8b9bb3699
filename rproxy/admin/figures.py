"""Numbers, sizes and times as the page shows them: those of `static/format.js`. What is unknown is an en dash."""

from __future__ import annotations

from typing import Final

UNKNOWN: Final = "–"  # noqa: RUF001
_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def count(value: float | None) -> str:
    """All digits up to 99,999, then three of them with k, M or G."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value < 1e5 else _scaled(value, ("", "k", "M", "G", "T"))


def size(value: float | None) -> str:
    """Bytes, in powers of 1,000."""
    return UNKNOWN if value is None else _scaled(value, (" B", " kB", " MB", " GB", " TB", " PB"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    unit = 0
    while value >= 1000 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    return (f"{value:.1f}" if unit and value < 99.95 else f"{value:.0f}") + units[unit]


def significant(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return UNKNOWN
    number = abs(value)
    if number >= 1e5:
        return count(value)
    if number >= 100:
        return f"{value:,.0f}"
    if number >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if number >= 0.01 or not number else f"{value:.3f}"


def milliseconds(value: float | None) -> str:
    """Without the unit."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def percentage(fraction: float | None) -> str:
    """Without the sign."""
    if fraction is None:
        return UNKNOWN
    return f"{100 * fraction:.1f}" if 0 < fraction < 0.1 else f"{100 * fraction:.0f}"


def duration(seconds: float | None) -> str:
    """In the two largest units."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    rest, first = round(seconds), None
    parts = []
    for number, (name, each) in enumerate(_UNITS):
        whole, rest = divmod(rest, each)
        if first is None and whole:
            first = number
        if first is not None and number <= first + 1 and whole:
            parts.append(f"{whole} {name}")
    return " ".join(parts)
