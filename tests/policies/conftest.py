"""Every policy in turn."""

from __future__ import annotations

import pytest

from rproxy.policies.registry import POLICIES
from tests.policies.balancing import Balance, policy


@pytest.fixture(params=sorted(POLICIES))
def balance(request: pytest.FixtureRequest) -> Balance:
    return Balance(policy(request.param))
