"""Local addresses of single datagrams: IP_PKTINFO (ip(7)) and IPV6_PKTINFO (RFC 3542), packed and unpacked. Linux."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from rproxy.net.addresses import reachable

HAS_PKTINFO: Final = sys.platform == "linux"
NOT_LOCAL: Final = frozenset(
    {errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO, errno.ENETUNREACH, errno.EHOSTUNREACH}
)
"""Errors of sending from an address that is no longer local, or that has no route to the destination."""
_IP_PKTINFO: Final = 8
"""Which Python does not name: the socket option that asks for it as well as the type of the control message."""
_PKTINFO: Final = struct.Struct("i4s4s")
"""Interface index, local address, destination address of the header."""
_PKTINFO6: Final = struct.Struct("16si")
"""Local address, interface index."""
_ADDRESSES_MAX: Final = 1024
"""Local addresses whose packed form is cached, and as many unpacked ones."""


def request_pktinfo(sock: socket.socket) -> int:
    """Ask the kernel for each datagram's local address. Returns the size of the ancillary buffer. Raises `OSError`."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        return socket.CMSG_SPACE(_PKTINFO6.size)
    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    return socket.CMSG_SPACE(_PKTINFO.size)


@lru_cache(_ADDRESSES_MAX)
def arrival_address(message: tuple[int, int, bytes]) -> str:
    """The local address in a control message of `recvmsg`; a link-local one has its interface's index: fe80::1%2.

    Empty for a multicast address, from which nothing can be sent.
    """
    level, _, data = message
    if level == socket.IPPROTO_IP:
        return str(ip_address(_PKTINFO.unpack(data)[1]))
    packed, index = _PKTINFO6.unpack(data)
    ip = IPv6Address(packed)
    if ip.is_multicast or (ip.ipv4_mapped is not None and ip.ipv4_mapped.is_multicast):
        return ""
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return f"{ip}%{index}" if ip.is_link_local else str(ip)


@lru_cache(_ADDRESSES_MAX)
def source_control(source: str, over_ipv6: bool) -> tuple[tuple[int, int, bytes], ...]:
    """Control messages of `sendmsg` that have a datagram leave from the local address `source`."""
    host, _, index = source.partition("%")
    if not over_ipv6:
        return ((socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO.pack(0, socket.inet_aton(host), bytes(4))),)
    mapped, _ = reachable((host, 0), over_ipv6=True)
    data = _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, mapped), int(index or 0))
    return ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, data),)
