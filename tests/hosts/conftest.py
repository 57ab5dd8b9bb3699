"""Every test has a network and a system of its own, removed at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need
from tests.hosts.net import Network, report_network
from tests.hosts.system import System


@pytest.fixture
def network() -> Iterator[Network]:
    need("ip", "mini_httpd", "wget", root=True)
    with report_network() as network:
        yield network


@pytest.fixture
def system(network: Network, tmp_path: Path) -> Iterator[System]:
    system = System(network, tmp_path)
    yield system
    system.close()
