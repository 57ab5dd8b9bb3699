"""Imports go only downwards, and the floors that decide touch neither network, clock nor randomness."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent / "rproxy"
FLOORS: Final = {
    "wire": 0,
    "net": 0,
    "timing": 0,
    "pool": 1,
    "policies": 2,
    "sources": 3,
    "sessions": 3,
    "agent": 3,
    "carriers": 4,
    "observe": 5,
    "config": 5,
    "study": 6,
    "admin": 6,
    "cli": 6,
    "tap": 7,
}
PURE: Final = ("wire", "pool", "policies")
IMPURE: Final = {"asyncio", "datetime", "random", "secrets", "select", "socket", "time", "twisted", "zope"}


def imported(source: str, package: str = "") -> Iterator[str]:
    """Every module that `source`, a module of `package`, imports anywhere, by its full name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_of(room: str) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        package = ".".join(path.relative_to(ROOT.parent).parent.parts)
        for module in imported(path.read_text(encoding="utf-8"), package):
            yield str(path.relative_to(ROOT)), module


def room_of(module: str) -> str:
    """The room of a module of this package, empty for other packages' modules."""
    package, *rooms = module.split(".")
    return rooms[0] if package == "rproxy" and rooms else ""


def upward(room: str, module: str) -> bool:
    """Whether a file of `room` may not import `module`: another room of its own floor, or one above."""
    other = room_of(module)
    return bool(other) and other != room and (other not in FLOORS or FLOORS[other] >= FLOORS[room])


def impure(module: str) -> bool:
    return module.split(".")[0] in IMPURE


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_only_from_floors_below(room: str) -> None:
    assert [(file, module) for file, module in imports_of(room) if upward(room, module)] == []


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_imports_no_network_clock_or_randomness(room: str) -> None:
    assert [(file, module) for file, module in imports_of(room) if impure(module)] == []


@pytest.mark.parametrize("room", sorted(set(FLOORS) - {"agent", "tap"}))
def test_no_room_but_the_wiring_imports_the_agents_program(room: str) -> None:
    assert [(file, module) for file, module in imports_of(room) if room_of(module) == "agent"] == []


def test_the_agents_program_imports_nothing_of_the_proxy() -> None:
    assert {room_of(module) for _, module in imports_of("agent")} == {"", "agent", "net", "timing", "wire"}


def test_every_room_has_its_floor() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(FLOORS)
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import time", ["time"]),
        ("import os, twisted.internet.reactor as r", ["os", "twisted.internet.reactor"]),
        ("from rproxy import carriers", ["rproxy.carriers"]),
        ("def late():\n    from random import Random", ["random.Random"]),
        ("from . import backend", ["rproxy.pool.backend"]),
        ("from ..policies.formula import score", ["rproxy.policies.formula.score"]),
    ],
)
def test_every_way_to_import_is_read(source: str, modules: list[str]) -> None:
    assert list(imported(source, "rproxy.pool")) == modules


@pytest.mark.parametrize(
    ("room", "module", "expected"),
    [
        ("pool", "rproxy.policies.formula.score", True),
        ("sources", "rproxy.sessions.session", True),
        ("policies", "rproxy.unknown", True),
        ("observe", "rproxy.sessions.session.Session", False),
        ("pool", "rproxy.pool.backend", False),
        ("wire", "struct", False),
    ],
)
def test_upward_is_the_same_floor_or_above(room: str, module: str, expected: bool) -> None:
    assert upward(room, module) is expected


INTERNAL: Final = {"carriers/portable/client_side", "carriers/portable/handshakes"}
"""Modules whose Protocol only avoids an import circle within a package."""


def seams() -> Iterator[str]:
    """Every module with a `typing.Protocol` that has methods, as pyproject.toml names it."""
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        protocols = [
            node
            for node in ast.parse(text).body
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
        ]
        if "typing.Protocol" in imported(text) and any(
            isinstance(each, ast.FunctionDef) for protocol in protocols for each in protocol.body
        ):
            yield str(path.relative_to(ROOT).with_suffix(""))


def test_ruff_demands_docstrings_of_every_seam() -> None:
    config = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    (listed,) = [glob for glob, rules in config["tool"]["ruff"]["lint"]["per-file-ignores"].items() if rules == ["D"]]
    match = re.fullmatch(r"!rproxy/\{(.*)\}\.py", listed)
    assert match is not None
    assert set(seams()) - INTERNAL <= set(match[1].split(","))
    assert all((ROOT / f"{module}.py").is_file() for module in match[1].split(","))
