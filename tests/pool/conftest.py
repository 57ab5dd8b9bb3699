from __future__ import annotations

import pytest

from tests.pool.driving import Driver


@pytest.fixture
def driver() -> Driver:
    return Driver()
