"""Long lists as JSON: pieces that together are one document, made one after another."""

from __future__ import annotations

import json

import pytest

from rproxy.observe.json_list import in_parts, json_list


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ([], '{"all": [\n\n]}\n'),
        ([[]], '{"all": [\n\n]}\n'),
        ([[1], [], [2, 3]], '{"all": [\n1,\n2,\n3\n]}\n'),
        ([[], ['a "text"']], '{"all": [\n"a \\"text\\""\n]}\n'),
    ],
)
def test_it_is_a_document_with_an_entry_a_line(parts: list[list[object]], shown: str) -> None:
    pieces = list(json_list("all", parts, list))
    assert len(pieces) == max(1, len(parts))
    assert b"".join(pieces).decode() == shown


def test_what_follows_the_list_is_as_of_its_end() -> None:
    listed: list[int] = []

    def entries(number: int) -> list[int]:
        listed.append(number)
        return [number]

    pieces = json_list("all", range(3), entries, lambda: {"total": len(listed)})
    begin = next(pieces)
    assert listed == [0]
    assert json.loads(begin + b"".join(pieces)) == {"all": [0, 1, 2], "total": 3}


@pytest.mark.parametrize(("number", "parts"), [(0, []), (2, ["ab"]), (3, ["ab", "c"])])
def test_a_sequence_is_taken_apart(number: int, parts: list[str]) -> None:
    assert list(in_parts("abc"[:number], 2)) == parts
