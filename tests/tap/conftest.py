"""What `makeService` works on."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator

import pytest
import twisted.internet

from tests.fakes import Reactor


@pytest.fixture
def reactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reactor]:
    """What `makeService` takes for Twisted's, whose clock and whose process it alters."""
    reactor = Reactor()
    monkeypatch.setattr(twisted.internet, "reactor", reactor, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    descriptors, collector = resource.getrlimit(resource.RLIMIT_NOFILE), gc.get_threshold()
    yield reactor
    resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)
    gc.set_threshold(*collector)
    gc.unfreeze()
