"""Ports and addresses of this host."""

from __future__ import annotations

import socket
from typing import Final

from rproxy.net.addresses import Address

LOOPBACK: Final = "127.0.0.1"


def parse_address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def address_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return host, port


class RefusingPort:
    """A port that stays taken and refuses every connection."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind((LOOPBACK, 0))

    @property
    def address(self) -> Address:
        return address_of(self._socket)

    def close(self) -> None:
        self._socket.close()
