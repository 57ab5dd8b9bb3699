"""What tests of the agent share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

Closing = Callable[[Any], Any]
"""Returns what it is given, which is closed when the test ends."""


@pytest.fixture
def closing() -> Iterator[Closing]:
    things: list[Any] = []

    def keep(thing: Any) -> Any:
        things.append(thing)
        return thing

    yield keep
    for thing in things:
        thing.close()
