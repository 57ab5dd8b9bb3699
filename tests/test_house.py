"""What keeps the code readable: no import circles, modules and constructors of a size that one keeps in mind."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Final

import attrs
import pytest

import rproxy
from tests.test_floors import PURE, imported, impure, room_of

ROOT: Final = Path(rproxy.__file__).parent
LINES_MAX: Final = 350
ARGUMENTS_MAX: Final = 7
"""Of a constructor, without frozen values, whose fields have names."""


def sources() -> dict[str, str]:
    """The text of every module by its full name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path.read_text(encoding="utf-8")
    return found


def imports(texts: dict[str, str]) -> dict[str, set[str]]:
    """The modules that each of `texts` imports, also inside functions and for its types only.

    ``from package import module`` imports the module, not what else is in the package.
    """
    return {
        name: {_module(target, texts) for target in imported(text, name.rpartition(".")[0])} - {"", name}
        for name, text in texts.items()
    }


def _module(target: str, texts: dict[str, str]) -> str:
    """The module that `target`, a module or something in one, is or is in; empty if it is none of `texts`."""
    if target in texts:
        return target
    return owner if (owner := target.rpartition(".")[0]) in texts else ""


def circles(edges: dict[str, set[str]]) -> set[str]:
    """The modules that import themselves by way of others, and those between two circles."""
    left = {name: set(targets) for name, targets in edges.items()}
    while True:
        used = set().union(*left.values()) if left else set()
        ends = {name for name, targets in left.items() if name not in used or not targets & left.keys()}
        if not ends:
            return set(left)
        left = {name: targets - ends for name, targets in left.items() if name not in ends}


def constructors() -> Iterator[tuple[str, int]]:
    """Every class that `ARGUMENTS_MAX` is for and has its own, and how many arguments it is made with."""
    for name in sources():
        if name.endswith("__main__"):
            continue
        for kind in vars(import_module(name)).values():
            if isinstance(kind, type) and kind.__module__ == name and "__init__" in vars(kind) and not _is_value(kind):
                yield f"{name}.{kind.__name__}", len(signature(kind).parameters)


def _is_value(kind: type) -> bool:
    """Whether it is frozen, an exception or an enumeration."""
    if issubclass(kind, Exception | Enum | tuple):
        return True
    return attrs.has(kind) and getattr(kind.__setattr__, "__name__", "") == "_frozen_setattrs"


def test_no_modules_import_each_other() -> None:
    assert circles(imports(sources())) == set()


@pytest.mark.parametrize(
    ("last", "found"),
    [("import d", set()), ("from a import x", {"a", "b", "c"}), ("def f():\n    import b", {"b", "c"})],
)
def test_a_circle_is_found(last: str, found: set[str]) -> None:
    texts = {"a": "from b import x", "b": "if TYPE_CHECKING:\n    import c", "c": last, "d": "", "e": "import a"}
    assert circles(imports(texts)) == found


def test_what_the_pure_rooms_import_is_pure() -> None:
    edges, texts = imports(sources()), sources()
    reached = {name for name in texts if room_of(name) in PURE}
    while more := set().union(*(edges[name] for name in reached)) - reached:
        reached |= more
    assert [name for name in sorted(reached) if any(map(impure, imported(texts[name])))] == []
    assert {"rproxy.pool.pool", "rproxy.net.addresses"} <= reached


def test_no_module_is_too_long_to_be_read_at_once() -> None:
    assert {name: count for name, text in sources().items() if (count := text.count("\n")) > LINES_MAX} == {}


def test_no_constructor_has_more_arguments_than_one_keeps_in_mind() -> None:
    counted = dict(constructors())
    assert {name: count for name, count in counted.items() if count > ARGUMENTS_MAX} == {}
    assert counted["rproxy.pool.pool.Pool"] > 1
