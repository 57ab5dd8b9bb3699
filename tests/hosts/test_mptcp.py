"""Clients with several paths to the proxy."""

from __future__ import annotations

import sys

from tests.conftest import need
from tests.hosts.net import Wiring


def test_a_connection_whose_first_path_is_gone_is_not_over() -> None:
    """As one whose client has left its wireless network."""
    need("ip", "ss", root=True)
    wiring = Wiring()
    try:
        said = wiring.host("mptcp").output(sys.executable, "-m", "tests.hosts.mptcp_paths")
    finally:
        wiring.close()
    assert said.split(b"\n")[:3] == [b"False", b"False", b"goes on"]
