"""Clients of every kind of listener."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Final

import pytest

from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Certificate
from tests.integration.sockets import (
    connect,
)

Dial = Callable[[str, Certificate], socket.socket]


def dial_tls(address: str, certificate: Certificate) -> socket.socket:
    context = ssl.create_default_context(cafile=str(certificate.certificate))
    client = connect(_host_and_port(address))
    return context.wrap_socket(client, server_hostname=LOOPBACK, suppress_ragged_eofs=False)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


DIALS: Final[dict[str, Dial]] = {
    "IPv4": lambda address, _: connect(_host_and_port(address)),
    "IPv6": lambda address, _: connect(_host_and_port(address)),
    "UNIX": lambda address, _: connect(address),
    "TLS": dial_tls,
}
"""How to connect to each kind of listener, in the order of the proxy's options."""
LISTENERS: Final = [pytest.param(place, dial, id=name) for place, (name, dial) in enumerate(DIALS.items())]
