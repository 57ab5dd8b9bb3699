"""What closes the tests' sockets, and sees to it that nothing else stays open."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from twisted.internet.task import deferLater

from tests.carriers.loopback import descriptors


@pytest.fixture(scope="session")
def _running_reactor() -> None:
    """pytest-twisted's opens descriptors when it starts, with the first test otherwise."""
    from twisted.internet import reactor

    pytest_twisted.blockon(deferLater(reactor, 0))


@pytest.fixture(scope="module")
def _others_garbage() -> None:
    """What earlier tests left open must not be closed, by chance, between two looks."""
    gc.collect()


@pytest.fixture
def stack(_others_garbage: None, _running_reactor: None) -> Iterator[ExitStack]:
    before = descriptors()
    with ExitStack() as stack:
        yield stack
    assert descriptors() == before
