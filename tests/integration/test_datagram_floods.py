"""Datagrams come faster than they can be read."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from rproxy.net.addresses import Address
from rproxy.wire.pdu import (
    encode,
)
from tests.integration.agents import assert_echoes
from tests.integration.conftest import Starter
from tests.integration.datagrams import (
    REGISTER,
    total,
)
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.servers import echo

pytestmark = pytest.mark.alone  # a flood takes a core, and the proxy the other

FLOOD_S: Final = 1.5
FLOODED_S: Final = 5.0
"""A client that is answered in this time has not been kept waiting for the flood to end."""
MANY: Final = 1_000


_FLOOD: Final = """\
import socket, sys, time
host, port, datagram = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
flooding = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + 30
while time.monotonic() < end:
    flooding.sendto(datagram, (host, port))
"""


@contextmanager
def flood(address: Address, datagram: bytes) -> Iterator[None]:
    host, port = address
    command = [sys.executable, "-c", _FLOOD, host, str(port), datagram.hex()]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as flooding:
        try:
            yield
        finally:
            flooding.kill()


@pytest.mark.parametrize("datagram", [b"", b"\0", encode(REGISTER)], ids=["empty", "one byte", "REGISTER"])
def test_clients_are_served_while_datagrams_come_faster_than_they_can_be_read(start: Starter, datagram: bytes) -> None:
    proxy = start.proxy()
    pool = Pool(proxy)
    start.closing(pool.abandon)
    pool.serve(echo)
    with flood(proxy.monitor, datagram):
        poll(lambda: total(proxy) > MANY, READY_S, "the flood has come")
        before, started, longest_s = total(proxy), time.monotonic(), 0.0
        while (began := time.monotonic()) < started + FLOOD_S:
            assert_echoes(proxy)
            longest_s = max(longest_s, time.monotonic() - began)
        assert total(proxy) > before + MANY
    assert longest_s < FLOODED_S
    assert failures(proxy.log) == []
