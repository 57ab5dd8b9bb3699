"""Fixtures that close sockets, check that no descriptor leaks, and check the states of legs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.task import deferLater

from tests.carriers.leg_checker import checked_legs
from tests.carriers.loopback import descriptors

UNCHECKED = (".test_splice_states", ".test_call_counts")
"""Modules that switch the checker on themselves, or count calls."""


@pytest.fixture(scope="session")
def _running_reactor() -> None:
    """Start pytest-twisted's reactor, which opens descriptors, before descriptors are counted."""
    from twisted.internet import reactor

    pytest_twisted.blockon(deferLater(reactor, 0))


@pytest.fixture(scope="module")
def _others_garbage() -> None:
    """Collect what earlier tests left open, so that it is not closed between two counts of descriptors."""
    gc.collect()


@pytest.fixture(autouse=True)
def _legal_states(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every change of every leg's state is checked."""
    if request.module.__name__.endswith(UNCHECKED):
        yield
        return
    with checked_legs() as found:
        yield
    assert found == []


@pytest.fixture
def stack(_others_garbage: None, _running_reactor: None) -> Iterator[ExitStack]:
    before = descriptors()
    with ExitStack() as stack:
        yield stack
    assert descriptors() == before
