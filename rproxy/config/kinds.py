"""What the keys of the configuration take: a text in an option, or a value of some types in a file.

Every kind says what it expects, in words that go on a sentence: "must be …".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from rproxy.config import validators
from rproxy.config.validators import ConfigError, Value
from rproxy.net.addresses import Network

Parser = Callable[[str, Any], Any]
"""Gets a key as the user wrote it, and a value; returns the model's. Raises `ConfigError`."""

OFF: Final = "off"
_SHOWN_MAX: Final = 200
"""Longer values are cut in messages."""
_BITS_MAX: Final = 64
"""Larger integers are out of every range, and Python refuses to write very large ones."""


@attrs.frozen
class Kind:
    """A single value."""

    parse: Parser
    expected: str
    types: tuple[type, ...] = (str,)
    """What a file's value may be; a bool is no number."""
    is_path: bool = False
    """Whether it is the path of a file: relative ones in a file are relative to its folder."""
    words: Sequence[str] = ()
    """Texts that stand for something else than a path."""
    path_prefix: str = ""
    """What stands before a path; other values are none."""

    def located(self, value: Any, folder: str) -> Any:
        """`value`, which is relative to `folder` if it is a relative path."""
        if not self.is_path or value in self.words or not isinstance(value, str):
            return value
        path = value.removeprefix(self.path_prefix)
        if not path or not value.startswith(self.path_prefix):
            return value
        return self.path_prefix + os.path.join(folder, path)

    def of_file(self, value: Any, folder: str) -> Any:
        """The model's value for one of a file in `folder`. Raises `ConfigError`."""
        if type(value) not in self.types or (isinstance(value, int) and value.bit_length() > _BITS_MAX):
            raise ConfigError(f"must be {self.expected}", value=value)
        if self.is_path and "\0" in str(value):
            raise ConfigError("a path has no NUL characters", value=value)
        return self.parse("", self.located(value, folder))

    def to(self, made: Callable[[Any], Any]) -> Kind:
        """The same values, of which `made` makes the model's. It raises nothing."""
        return attrs.evolve(self, parse=lambda key, value: made(self.parse(key, value)))


@attrs.frozen
class Key:
    """A key of an option or of a table in a file."""

    field: str
    """The field that it fills of its class in the model; empty where a mapping of several fields is made of it."""
    kind: Kind | Table
    collect: Callable[[list[Any]], Any] | None = None
    """Where it takes a list, or a single value for a list of one: makes the field's value. May raise `ConfigError`."""

    def filled(self, value: Any) -> Mapping[str, Any]:
        """The fields that a value of the model's fills."""
        return {self.field: value} if self.field else value


@attrs.frozen
class Table:
    """A table of keys in a file."""

    keys: Mapping[str, Key]
    build: Callable[[dict[str, Any]], Any]
    """Makes the model's value of the fields that are filled. May raise `ConfigError`, whose key is one of `keys`."""
    required: Sequence[str] = ()
    short: Kind | None = None
    """What may stand instead of the table."""
    expected: str = "a table"


def parsed(keys: Mapping[str, Key], values: Mapping[str, Any], prefix: str = "--") -> dict[str, Any]:
    """The model's values, by their keys' names, for those `values` that `keys` knows and that are not None.

    `prefix` and a key's name together are the key as the user wrote it. Raises `ConfigError`.
    """
    return {
        name: key.kind.parse(prefix + name, values[name])
        for name, key in keys.items()
        if values.get(name) is not None and isinstance(key.kind, Kind)
    }


def filled(keys: Mapping[str, Key], values: Mapping[str, Any]) -> dict[str, Any]:
    """The model's fields that these values of the model's, by their keys' names, fill."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= keys[name].filled(value)
    return found


def fields(keys: Mapping[str, Key], values: Mapping[str, Any], prefix: str = "--") -> dict[str, Any]:
    """The model's fields for `values`, as `parsed` has them. Raises `ConfigError`."""
    return filled(keys, parsed(keys, values, prefix))


def number(low: float, high: float, *, zero: bool = False) -> Kind:
    """A number of that range, or 0 if `zero` allows it."""
    expected = f"{'0, or ' if zero else ''}a number from {low:.10g} to {high:.10g}"
    return Kind(lambda key, value: validators.number(key, value, low, high, zero=zero), expected, (int, float))


def number_or_off(low: float, high: float) -> Kind:
    """A number of that range; None for "off"."""

    def parse(key: str, value: Value) -> float | None:
        return None if value == OFF else validators.number(key, value, low, high)

    return Kind(parse, f'"{OFF}", or a number from {low:.10g} to {high:.10g}', (int, float, str))


def whole(low: int, high: int) -> Kind:
    """A whole number of that range."""
    expected = f"a whole number from {low} to {high}"
    return Kind(lambda key, value: validators.whole(key, value, low, high), expected, (int,))


def choice(*choices: str) -> Kind:
    """One of these texts."""
    quoted = [f'"{each}"' for each in choices]
    return Kind(lambda key, value: validators.choice(key, value, choices), listed(quoted))


def flag(check: Callable[[str], None] = lambda key: None) -> Kind:
    """Whether something is done; `check` may raise `ConfigError` where it cannot be."""

    def parse(key: str, value: Any) -> bool:
        if value:
            check(key)
        return bool(value)

    return Kind(parse, "true or false", (bool,))


def text(parse: Callable[[str, str], Any], expected: str) -> Kind:
    """A text."""
    return Kind(parse, expected)


def file(parse: Callable[[str, str], Any] = validators.path, *words: str) -> Kind:
    """A file's path, or one of `words`; by default an absolute path is made of it."""
    return Kind(parse, listed(["the path of a file", *(f'"{word}"' for word in words)]), is_path=True, words=words)


def address(parse: Callable[[str, Value], Any], expected: str) -> Kind:
    """An address with a port; a number in a file is a port."""
    return Kind(parse, expected, (str, int))


def address_or_path(parse: Callable[[str, Value], Any], expected: str, prefix: str) -> Kind:
    """As `address`, or the path of a file after this prefix."""
    return Kind(parse, expected, (str, int), is_path=True, path_prefix=prefix)


NETWORK: Final = Kind(validators.network, "a network such as 10.1.1.0/24, or an IP address")


def networks(given: list[Network]) -> tuple[Network, ...]:
    """At least one: of an empty list nobody knows whether it means none, or what the key's absence means."""
    if not given:
        raise ConfigError("names no network; leave the key out for its default")
    return tuple(given)


def listed(words: Sequence[str], last: str = "or") -> str:
    """The words as a sentence lists them."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def shown(value: Any) -> str:
    """A value of a file as messages have it, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        line = value if value.isprintable() else repr(value)[1:-1]
        return f'"{line if len(line) <= _SHOWN_MAX else line[:_SHOWN_MAX] + "…"}"'
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and value.bit_length() > _BITS_MAX:
        return "a number of so many digits"
    return str(value)
