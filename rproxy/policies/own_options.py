"""A policy's own options: numbers with a range, given by name as `--policy-option NAME=VALUE`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import attrs

OFF: Final = "off"
"""Stands for None, where an option may be off."""
_KEY: Final = "rproxy.policies.option"

T = TypeVar("T", bound=attrs.AttrsInstance)


class PolicyError(Exception):
    """No usable policy has that name, or it has no such option. The text is one line."""


@attrs.frozen
class NoOptions:
    """Of a policy that has none."""


@attrs.frozen
class _Range:
    low: float
    high: float
    meaning: str
    may_be_off: bool
    whole: bool


def option(
    default: float | None, low: float, high: float, meaning: str, *, may_be_off: bool = False, whole: bool = False
) -> Any:
    """A field of a policy's options: a number from `low` to `high`, or None if it `may_be_off`. `meaning`: one line.

    A `whole` one is an int.
    """
    return attrs.field(default=default, metadata={_KEY: _Range(low, high, meaning, may_be_off, whole)})


def read_options(kind: type[T], given: Mapping[str, Any]) -> T:
    """The options of class `kind`, whose fields are made by `option`, from texts or numbers by name.

    Raises `PolicyError` for unknown names and for values out of range.
    """
    fields = {each.name.replace("_", "-"): each for each in attrs.fields(kind)}
    values = {}
    for name, value in given.items():
        if name not in fields:
            raise PolicyError(f"no option {name}; there are {', '.join(fields) or 'none'}")
        values[fields[name].name] = _read(name, value, fields[name].metadata[_KEY])
    return kind(**values)


def _read(name: str, value: Any, allowed: _Range) -> float | None:
    if allowed.may_be_off and (value is None or value == OFF):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    within = allowed.low <= number <= allowed.high and not (allowed.whole and number % 1)
    if isinstance(value, bool) or not within:
        whole = "a whole number " if allowed.whole else ""
        off = f", or {OFF}" if allowed.may_be_off else ""
        raise PolicyError(f"option {name}={value}: must be {whole}from {allowed.low:g} to {allowed.high:g}{off}")
    return int(number) if allowed.whole else number


def described(kind: type[attrs.AttrsInstance]) -> list[str]:
    """A line for each option: its name, default and meaning."""
    lines = []
    for field in attrs.fields(kind):
        default = OFF if field.default is None else f"{field.default:g}"
        lines.append(f"{field.name.replace('_', '-')}={default}: {field.metadata[_KEY].meaning}")
    return lines
