"""Documents of one long list as JSON, in pieces that take a fraction of a millisecond each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

Entry = TypeVar("Entry")
Part = TypeVar("Part")


def json_list(
    name: str,
    parts: Iterable[Part],
    entries: Callable[[Part], Iterable[Any]],
    rest: Callable[[], Mapping[str, Any]] = dict,
) -> Iterator[bytes]:
    """The document ``{name: […], …}``, an entry a line, with a piece for each of `parts`.

    `entries` returns those of a part; it is called when the pieces before have been taken. `rest` is called last, and
    returns what follows the list.
    """
    text, separator = f'{{"{name}": [\n', ""
    for number, part in enumerate(parts):
        if number:
            yield text.encode()
            text = ""
        for entry in entries(part):
            text += separator + json.dumps(entry)
            separator = ",\n"
    after = json.dumps(rest())[1:]
    yield f"{text}\n]{'' if after == '}' else ', '}{after}\n".encode()


def in_parts(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    """`size` at a time."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
