from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from rproxy.pool.backend import Registration
from rproxy.pool.states import Administration, Override, State
from rproxy.sources.saved.overrides import SavedOverrides
from rproxy.sources.saved.rows import Rows, RowsError, Saved, decoded, encoded, is_kept
from tests.fakes import confirm, pool_with, registered

ROW = {
    "address": "10.0.0.1",
    "port": 80,
    "agent_port": 5555,
    "instance": 2**64 - 1,
    "interval_s": 20.0,
    "weight": 100,
    "local": "10.0.0.10",
}
ROWS: Rows = {
    ("10.0.0.1", 80): Registration(("10.0.0.1", 5555), 2**64 - 1, 20.0, 100, "10.0.0.10"),
    ("10.0.0.1", 81): Registration(("10.0.0.1", 5556), 0, 0.001, 65535),
    ("2001:db8::1", 65535): Registration(("2001:db8::1", 1), 7, 4294967.295, 1, "", 2**32 - 1),
}


def text(rows: Rows, at_once: int = 100) -> bytes:
    return b"".join(encoded(Saved(rows), at_once))


def rows_of(data: bytes) -> Rows:
    saved = decoded(data)
    assert saved.overrides == {}
    return saved.rows


def document(**changed: Any) -> bytes:
    """Of one row."""
    found = json.loads(text({}))
    found["backends"] = [ROW | changed]
    return json.dumps(found).encode()


def why_not(data: bytes) -> str:
    with pytest.raises(RowsError) as caught:
        decoded(data)
    return str(caught.value)


@pytest.mark.parametrize("rows", [{}, ROWS])
def test_what_is_written_is_read(rows: Rows) -> None:
    assert rows_of(text(rows)) == rows
    assert len(text(rows).splitlines()) == len(rows) + 2 + (not rows)


@pytest.mark.parametrize(("at_once", "pieces"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_few_rows_are_encoded_at_once(at_once: int, pieces: int) -> None:
    assert len(list(encoded(Saved(ROWS), at_once))) == pieces
    assert rows_of(text(ROWS, at_once)) == ROWS


def test_a_document_of_one_row() -> None:
    assert rows_of(document()) == {("10.0.0.1", 80): ROWS["10.0.0.1", 80]}


def test_a_limit_of_sessions_is_read_and_those_of_earlier_versions_have_none() -> None:
    assert "max_connections" not in ROW
    ((_, registration),) = rows_of(document(max_connections=5)).items()
    assert registration.max_connections == 5


@pytest.mark.parametrize("limit", [0, -1, 2**32, 1.5, "5", True])
def test_a_limit_that_cannot_be_one_is_refused(limit: Any) -> None:
    assert why_not(document(max_connections=limit)) == "back-end 1 of it makes no sense"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"\xff\xfe", b"[" * 100_000, text(ROWS)[:-5], text(ROWS)[:100], b"\0" * 1000),
        *(b"[]", b"null", b"1", b'"x"', b'{"backends": []}', b'{"kind": "x", "version": 1, "backends": []}'),
    ],
)
def test_what_is_truncated_or_no_document_of_ours_is_refused(data: bytes) -> None:
    assert why_not(data) in ("it is broken, or not ours", "it is not ours")


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(version: Any) -> None:
    found = json.loads(text(ROWS)) | {"version": version}
    assert why_not(json.dumps(found).encode()) == "it is of another version"


@pytest.mark.parametrize("backends", [None, {}, "x", 5])
def test_back_ends_that_are_no_list_are_refused(backends: Any) -> None:
    found = json.loads(text(ROWS)) | {"backends": backends}
    assert why_not(json.dumps(found).encode()) == "it has no back-ends"


@pytest.mark.parametrize(
    "changed",
    [
        *({"address": value} for value in ["", "example.com", "10.0.0.01", 167772161, None, [], "0.0.0.0", "::"]),
        *({"address": value} for value in ["224.0.0.1", "ff02::1", "::ffff:10.0.0.1", "2001:DB8::1", "10.0.0.1 "]),
        *({name: value} for name in ["port", "agent_port"] for value in [0, -1, 65536, 80.0, "80", True, None]),
        *({"instance": value} for value in [-1, 2**64, 1.5, "1", None]),
        *({"local": value} for value in ["here", "10.0.0.300", None, 1]),
        *({"weight": value} for value in [0, 65536, 1.5, "1", None, True]),
        *({"interval_s": value} for value in [0, -1, 1e10, float("nan"), float("inf"), "20", None, True, 10**400]),
    ],
)
def test_a_row_with_a_field_that_cannot_be_is_refused(changed: dict[str, Any]) -> None:
    assert why_not(document(**changed)) == "back-end 1 of it makes no sense"


@pytest.mark.parametrize("name", ROW)
def test_a_row_that_lacks_a_field_is_refused(name: str) -> None:
    found = json.loads(document())
    del found["backends"][0][name]
    assert why_not(json.dumps(found).encode()) == "back-end 1 of it makes no sense"


@pytest.mark.parametrize("row", [None, 5, "x", []])
def test_what_is_no_row_is_refused(row: Any) -> None:
    found = json.loads(text({})) | {"backends": [ROW, row]}
    assert why_not(json.dumps(found).encode()) == "back-end 2 of it makes no sense"


def test_what_has_answered_is_kept_whatever_has_come_of_it() -> None:
    pool = pool_with(0)
    backend = registered(pool, "10.0.0.9")
    assert not is_kept(backend)
    confirm(pool, backend, token=7)
    for state in (State.UP, State.SUSPECT, State.DOWN):
        backend.state = state
        assert is_kept(backend)
    backend.state = State.FORGOTTEN
    assert not is_kept(backend)


def test_what_is_encoded_is_what_the_table_has() -> None:
    pool = pool_with(3)
    rows = {(backend.address, backend.port): backend.registration for backend in pool}
    assert rows_of(text(rows)) == rows
    assert attrs.asdict(next(iter(rows.values())))["weight"] == 100


WORD = {
    "service": "web",
    "address": "10.0.0.1",
    "port": 80,
    "administration": "drain",
    "weight": None,
    "since": 1764155534.5,
}
WORDS: SavedOverrides = {
    ("web", ("10.0.0.1", 80)): Override(Administration.DRAIN, since=1764155534.5),
    ("web", ("2001:db8::1", 65535)): Override(Administration.MAINT, 65535, since=1764155535.0),
    ("mail", ("10.0.0.1", 80)): Override(weight=1),
}


def words_document(*words: Any) -> bytes:
    return json.dumps(json.loads(text({})) | {"words": list(words)}).encode()


@pytest.mark.parametrize("rows", [{}, ROWS])
@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_what_operators_say_is_read_as_it_was_written(rows: Rows, at_once: int) -> None:
    written = b"".join(encoded(Saved(rows, WORDS), at_once))
    assert decoded(written) == Saved(rows, WORDS)
    assert decoded(words_document(WORD)).overrides == {("web", ("10.0.0.1", 80)): WORDS["web", ("10.0.0.1", 80)]}


def test_earlier_versions_read_the_back_ends_of_a_file_with_words() -> None:
    found = json.loads(b"".join(encoded(Saved(ROWS, WORDS), 10)))
    assert (found["kind"], found["version"]) == ("rproxy-back-ends", 1)
    assert len(found["backends"]) == len(ROWS)
    assert "words" not in json.loads(text(ROWS))


IMPOSSIBLE: dict[str, list[Any]] = {
    "address": ["", "example.com", "0.0.0.0", None, 1],
    "port": [0, 65536, "80", None, True],
    "administration": ["", "down", None, 1, []],
    "weight": [0, 65536, 1.5, "1", True],
    "since": [-1, float("nan"), float("inf"), "1", None, True, 10**400],
    "service": [None, 1, []],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in IMPOSSIBLE.items() for value in values])
def test_a_word_with_a_field_that_cannot_be_is_refused(name: str, value: Any) -> None:
    assert why_not(words_document(WORD, WORD | {name: value})) == "operator's word 2 of it makes no sense"


@pytest.mark.parametrize("name", WORD)
def test_a_word_that_lacks_a_field_is_refused(name: str) -> None:
    assert why_not(words_document({key: WORD[key] for key in WORD if key != name})) == (
        "operator's word 1 of it makes no sense"
    )


@pytest.mark.parametrize("words", [None, {}, "x", 5])
def test_words_that_are_no_list_are_refused(words: Any) -> None:
    found = json.loads(text(ROWS)) | {"words": words}
    assert why_not(json.dumps(found).encode()) == "its operators' words make no sense"
