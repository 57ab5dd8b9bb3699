"""Errors in a configuration file: all of them at once, each a line with the file's name and the key's path."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

import attrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from rproxy.config.kinds import shown
from rproxy.config.validators import ConfigError

_BARE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A key that TOML does not demand to be quoted."""
_KEY_MAX: Final = 64
_LIKE: Final = 0.6
"""The least similarity, 0..1, of an unknown key to the one that is meant (`difflib`)."""
_LISTENER: Final = "service.listen"
"""The table of a listener, whose keys nobody looks for elsewhere."""
_QUOTE: Final = '"'
_LINES_MAX: Final = 100
"""Of a file with more errors only so many are told."""
_OPTION: Final = "--"
_TABLES: Final = ("proxy.", "service[")
"""What the paths of keys begin with."""


class FileErrors(ConfigError):
    """What is wrong with a file. `str()` is one line: the first error, and how many more there are."""

    def __init__(self, file: str, errors: Sequence[ConfigError]) -> None:
        """`file` is as the user named it; `errors`, of which there is at least one, have whole paths as their keys."""
        more = len(errors) - 1
        self.lines = [_line(file, error) for error in errors[:_LINES_MAX]]
        if more >= _LINES_MAX:
            self.lines.append(f"{file}: and {len(errors) - _LINES_MAX} more errors")
        super().__init__(self.lines[0] + (f" (and {more} more error{'s' if more > 1 else ''})" if more else ""))


def located(file: str | None, error: ConfigError) -> str:
    """An error in one line, with the file's name where there is a file and the key is one of its."""
    if file is None or not (error.key or "").startswith(_TABLES):
        return str(error)
    return _line(file, error)


def _line(file: str, error: ConfigError) -> str:
    if error.key is not None and error.key.startswith(_OPTION):
        return str(error)
    return ": ".join(filter(None, [file, error.key, _sentence(error.reason, error.value)]))


def _sentence(reason: str, value: Any) -> str:
    """The reason with the value, which the user need not look for in the file then."""
    if value is None:
        return reason
    bare = shown(value).strip(_QUOTE)
    if bare and re.search(rf"(?<![\w.]){re.escape(bare)}(?![\w.])", reason):
        return reason
    if reason.startswith("must "):
        return f"{reason}, not {shown(value)}"
    if reason.startswith("not "):
        return f"{shown(value)} is {reason}"
    return f"{shown(value)}: {reason}"


def flattened(error: Exception, path: str, known: Mapping[str, Collection[str]]) -> Iterator[ConfigError]:
    """What cattrs has collected about the table at `path`, with the whole path of each key.

    `known` has the names of the keys of every table, by the table's name without indices, such as ``service.tls``.
    """
    if isinstance(error, ConfigError):
        yield attrs.evolve(error, key=_joined(path, error.key))
    elif isinstance(error, ForbiddenExtraKeysError):
        yield from unknown_keys(error.extra_fields, path, known)
    elif isinstance(error, BaseValidationError):
        for each in error.exceptions:
            yield from flattened(each, path + _step(each, path), known)
    elif isinstance(error, KeyError):
        yield ConfigError("is missing", path)
    else:
        raise error


def unknown_keys(names: Iterable[str], path: str, known: Mapping[str, Collection[str]]) -> Iterator[ConfigError]:
    """Errors about these keys of the table at `path`; `known` is as for `flattened`."""
    table = re.sub(r"\[\d+\]", "", path)
    for name in sorted(names):
        yield ConfigError(_unknown(name, table, known), _joined(path, _quoted(name)))


def _step(error: BaseException, path: str) -> str:
    """What a note of cattrs adds to the path."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, IterableValidationNote):
            return f"[{note.index}]"
        if isinstance(note, AttributeValidationNote):
            return f".{note.name}" if path else note.name
    return ""


def _joined(path: str, key: str | None) -> str:
    if not key:
        return path
    return path + key if key.startswith("[") or not path else f"{path}.{key}"


def _quoted(name: str) -> str:
    short = name if len(name) <= _KEY_MAX else name[:_KEY_MAX] + "…"
    return short if _BARE.fullmatch(short) else json.dumps(short)


def _unknown(name: str, table: str, known: Mapping[str, Collection[str]]) -> str:
    """What is said of a key that the table does not have."""
    others = [other for other, keys in known.items() if name in keys and _LISTENER not in other]
    if others:
        return f"there is no such key here; it is one of {_table(min(others, key=lambda other: other.count('.')))}"
    near = get_close_matches(name.lower().replace("_", "-"), known[table], 1, _LIKE)
    return f"there is no such key; {f'do you mean {near[0]}?' if near else 'rproxy docs configuration lists them'}"


def _table(name: str) -> str:
    """A table's heading in a file."""
    if not name:
        return "the file, outside all tables"
    return f"[[{name}]]" if name in ("service", "service.backend") else f"[{name}]"
