"""How the tests share the machine when several run at once (`pytest -n 6`); without -n they run one after the other.

What is run by one worker, one after the other, is a module, or the part of it that is for one variant: it shares the
fixtures. Tests that are marked `alone` come to their turn last, and no other test runs beside them.

Python keeps its bytecode, whatever the environment says: a run starts some thousand processes, each of which would
compile the program, and every worker would compile all tests.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

_VARIANT: Final = re.compile(r"\b((portable|splice)(-(epoll|asyncio|uvloop))?|plain|keyed)\b")
_LONGEST_FIRST: Final = ("install", "hosts", "integration")
"""Folders. Those that wait most begin, so that the end is made of what is short."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    config.option.loadscopereorder = False
    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = unit
    return scheduling


def unit(nodeid: str) -> str:
    """What one worker runs one after the other: a test's module, with the variant that it is for."""
    module, _, name = nodeid.partition("::")
    _, _, parameters = name.partition("[")
    variant = _VARIANT.search(parameters)
    return f"{module} {variant[0]}" if variant else module


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[bool, int]:
    """The order is otherwise that of the files."""
    folders: Sequence[str] = item.path.parent.parts
    rank = next((rank for rank, name in enumerate(_LONGEST_FIRST) if name in folders), len(_LONGEST_FIRST))
    return _is_alone(item), rank


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """The lock is this very file's: shared, or exclusive for what runs alone. Only workers have others beside them."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with Path(__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """The first worker compiles the tests while the others wait; they read what it has written."""
    if not hasattr(session.config, "workerinput"):
        return (yield)
    with Path(__file__).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH)
        return (yield)


class FailuresAtOnce:
    """Names a test as soon as it fails, so that also a run that is cut short tells which."""

    def __init__(self, terminal: Any) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\n{report.when} of {report.nodeid} failed")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(terminal))
