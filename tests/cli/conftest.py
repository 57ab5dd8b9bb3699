"""What the operators' commands print here does not depend on where the tests run."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def usual_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "RPROXY_URL", "RPROXY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
