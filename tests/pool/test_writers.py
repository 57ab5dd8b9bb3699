"""The pool alone writes to back-ends and calls the policy: no other room assigns to their fields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from rproxy.pool.backend import Backend, Counts, Health, Probing
from rproxy.pool.estimators import LossWindow, PoolMeans, Report, SmoothedRtt

ROOT: Final = Path(__file__).parents[2] / "rproxy"
RECORDS: Final = (Backend, Counts, Health, Probing, Report)
FIELDS: Final = {field.name.lstrip("_") for record in RECORDS for field in attrs.fields(record)}
"""Names that only the pool writes to, but through `self`, which is another object elsewhere."""
WRITING: Final = {"reported", "opened", "failed", "closed", "choose"}
"""A policy's methods, which are called on nothing outside that is named after a policy."""


def targets(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Assign():
            return node.targets
        case ast.AugAssign() | ast.AnnAssign():
            return [node.target]
        case ast.Delete():
            return node.targets
        case _:
            return []


def flat(expression: ast.expr) -> Iterator[ast.expr]:
    if isinstance(expression, ast.Tuple | ast.List):
        for element in expression.elts:
            yield from flat(element)
    else:
        yield expression


def writes(source: str) -> Iterator[str]:
    """Assignments to a back-end's fields, by whatever name the back-end goes."""
    for node in ast.walk(ast.parse(source)):
        for target in (each for expression in targets(node) for each in flat(expression)):
            while isinstance(target, ast.Subscript):
                target = target.value
            if isinstance(target, ast.Attribute) and target.attr in FIELDS and not is_self(target.value):
                yield ast.unparse(target)


def is_self(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Name) and expression.id == "self"


def policy_calls(source: str) -> Iterator[str]:
    """Calls of a policy's methods on what is named after one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in WRITING and "policy" in ast.unparse(node.value).lower():
            yield ast.unparse(node)


def others() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] != "pool"]


def test_no_other_room_writes_to_a_back_end() -> None:
    found = [(str(path.relative_to(ROOT)), write) for path in others() for write in writes(path.read_text())]
    assert [each for each in found if is_a_back_ends(each[1]) and not is_a_legs(*each)] == []


def is_a_legs(file: str, write: str) -> bool:
    """The splice carrier calls a session's second leg its back-end, and a leg has a state, too."""
    return file.startswith("carriers/splice/") and write.endswith(".state")


def is_a_back_ends(write: str) -> bool:
    """Sessions and others have fields of the same names: these are told apart by what they are in."""
    return "backend" in write or write.split(".")[-2] in ("counts", "health", "probing", "report", "registration")


def test_no_other_room_calls_a_policy() -> None:
    assert [(str(path), call) for path in others() for call in policy_calls(path.read_text())] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("backend.state = State.UP", ["backend.state"]),
        ("self.backend.counts.pending += 1", ["self.backend.counts.pending"]),
        ("a, backend.share = 1, 2", ["backend.share"]),
        ("backend.probing.outstanding[0] = 1", ["backend.probing.outstanding"]),
        ("self.state = 1", []),
        ("x = backend.state", []),
    ],
)
def test_every_way_to_write_is_found(source: str, found: list[str]) -> None:
    assert list(writes(source)) == found
    assert all(is_a_back_ends(write) for write in found)


def test_a_call_of_a_policy_is_found() -> None:
    assert list(policy_calls("self._policy.reported(backend)")) == ["self._policy.reported"]


def test_what_observers_read_of_a_back_end_cannot_be_assigned() -> None:
    """The plain names are properties without a setter, and its records' fields are those that are checked above."""
    names = ["pending", "established", "total", "connections", "misses", "refusals", "refusing", "hold_s", "held_until"]
    assert [name for name in names if getattr(Backend, name).fset is not None] == []
    assert {"losses", "rtt", "means"} <= FIELDS
    assert all(not hasattr(record, "__dict__") for record in (LossWindow(), SmoothedRtt(), PoolMeans()))
