"""The header of the PROXY protocol, versions 1 and 2: tells a server which client a proxy's connection is for.

The specification is HAProxy's ``doc/proxy-protocol.txt``; the sections that comments name are its own. Pure: bytes in
and values out. The caller reads until `parse` returns a header or raises, and sends what `encode` returns.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import attrs

Address = tuple[str, int]
"""An IP address in text, an IPv4-mapped one as plain IPv4, and a port."""
Tlv = tuple[int, bytes]
"""An addition to a header of version 2: its type and its value."""

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""The first bytes of a header of version 2."""
SIZE_MAX: Final = 4096
"""Most bytes of a header that is accepted."""
LINE_MAX: Final = 107
"""Most bytes of a header of version 1, with its CRLF (2.1)."""
UNIQUE_ID_MAX: Final = 128
"""Most bytes of a unique id (2.2.5)."""

ALPN: Final = 0x01
AUTHORITY: Final = 0x02
_CRC32C: Final = 0x03
UNIQUE_ID: Final = 0x05
SSL: Final = 0x20
SSL_VERSION: Final = 0x21
"""Within the value of `SSL`, as `SSL_CN`."""
SSL_CN: Final = 0x22
PASSED_ON: Final = frozenset({ALPN, AUTHORITY, UNIQUE_ID, SSL})
"""Types of TLVs that are kept: about the client's connection and its TLS, not about this header or the last proxy."""
CLIENT_SSL: Final = 0x01
"""Bits of the first byte of `SSL`: the client uses TLS, …"""
CLIENT_CERT_CONN: Final = 0x02
"""… has sent a certificate on this connection, …"""
CLIENT_CERT_SESS: Final = 0x04
"""… or on an earlier one of the same TLS session."""

_LOCAL: Final = 0x20
"""Version and command: a connection of the proxy's own, such as a health check."""
_PROXY: Final = 0x21
_TCP4: Final = 0x11
"""Address family and transport."""
_TCP6: Final = 0x21
_FAMILIES: Final = {0: 0, 1: 12, 2: 36, 3: 216}
"""Bytes of the addresses by family: AF_UNSPEC, AF_INET, AF_INET6, AF_UNIX."""
_TRANSPORTS: Final = (0, 1, 2)
"""UNSPEC, STREAM, DGRAM."""
_FIXED: Final = struct.Struct("!12sBBH")
_TLV: Final = struct.Struct("!BH")
_V4: Final = struct.Struct("!4s4sHH")
_V6: Final = struct.Struct("!16s16sHH")
_WHOLE_V4: Final = struct.Struct("!12sBBH4s4sHH")
_WHOLE_V6: Final = struct.Struct("!12sBBH16s16sHH")

_PREFIX: Final = b"PROXY "
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_OCTET: Final = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = rb"(" + _OCTET + rb"(?:\." + _OCTET + rb"){3})"
_IPV6: Final = rb"([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)"
_LINES: Final = (
    re.compile(rb"PROXY TCP4 %b %b %b %b\r\n" % (_IPV4, _IPV4, _PORT, _PORT)),
    re.compile(rb"PROXY TCP6 %b %b %b %b\r\n" % (_IPV6, _IPV6, _PORT, _PORT)),
)
_PART: Final = re.compile(rb"PROXY (?:TCP[46] [0-9A-Fa-f:. ]*\r?|UNKNOWN(?:\r| .*)?)", re.DOTALL)
"""A line of which the end has not come yet, from its first space on."""
_WORDS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN")
_CACHED: Final = 1024
_CASTAGNOLI: Final = 0x82F63B78
"""The polynomial of CRC32C, reflected (RFC 4960, appendix B)."""


class MalformedHeader(ValueError):
    """What a connection begins with is no valid header; the text says why, for a log line."""


@attrs.frozen
class Header:
    """A valid header."""

    size: int
    """Its bytes; the client's data follow."""
    source: Address | None = None
    """The client's address. None where the connection's own is to be used: LOCAL, UNKNOWN, UNSPEC, UDP and UNIX."""
    destination: Address | None = None
    """The address that the client connected to; None as `source` is."""
    tlvs: tuple[Tlv, ...] = ()
    """Those of `PASSED_ON`, in order."""


def parse(data: bytes) -> Header | None:
    """The header that `data`, the beginning of a connection, begins with; None if there must be more of it.

    Raises `MalformedHeader` as soon as nothing that follows could make it valid.
    """
    if data.startswith(SIGNATURE):
        return _parse_binary(data)
    if data.startswith(_PREFIX):
        return _parse_line(data)
    if SIGNATURE.startswith(data) or _PREFIX.startswith(data):
        return None
    raise MalformedHeader("does not begin as one")


def _parse_line(data: bytes) -> Header | None:
    """Version 1."""
    end = data.find(b"\r\n", 0, LINE_MAX) + 2
    if end < 2:
        if len(data) >= LINE_MAX:
            raise MalformedHeader(f"no CRLF within {LINE_MAX} bytes")
        if not _PART.fullmatch(data) and not any(word.startswith(data) for word in _WORDS):
            raise MalformedHeader("no line of version 1")
        return None
    if data.startswith((b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ")):
        return Header(end)
    for pattern in _LINES:
        if found := pattern.fullmatch(data, 0, end):
            source, destination, source_port, destination_port = (each.decode() for each in found.groups())
            return Header(end, _address(source, source_port), _address(destination, destination_port))
    raise MalformedHeader("no line of version 1")


def _address(host: str, port: str) -> Address:
    """Raises `MalformedHeader`."""
    if int(port) > 65535:
        raise MalformedHeader(f"port {port} is above 65535")
    if ":" not in host:
        return host, int(port)
    try:
        return _unmapped(IPv6Address(host)), int(port)
    except ValueError:
        raise MalformedHeader(f"{host} is no IPv6 address") from None


def _unmapped(address: IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


def _parse_binary(data: bytes) -> Header | None:
    """Version 2."""
    if len(data) < _FIXED.size:
        return None
    _, command, kind, length = _FIXED.unpack_from(data)
    size = _FIXED.size + length
    if command not in (_LOCAL, _PROXY):
        raise MalformedHeader(f"version and command {command:#04x} of version 2")
    if size > SIZE_MAX:
        raise MalformedHeader(f"{size} bytes are more than {SIZE_MAX}")
    if command == _LOCAL:
        return Header(size) if len(data) >= size else None
    family, transport = kind >> 4, kind & 15
    if family not in _FAMILIES or transport not in _TRANSPORTS:
        raise MalformedHeader(f"address family and protocol {kind:#04x}")
    if family and transport and length < _FAMILIES[family]:
        raise MalformedHeader(f"{length} bytes are too few for the addresses")
    if len(data) < size:
        return None
    if not (family and transport):
        return Header(size, tlvs=_tlvs_of_unspecified(data[:size], kind))
    source, destination = _addresses(data, kind)
    return Header(size, source, destination, _kept(data[:size], _FIXED.size + _FAMILIES[family]))


def _addresses(data: bytes, kind: int) -> tuple[Address, Address] | tuple[None, None]:
    """Those of TCP; UDP and UNIX count as unspecified."""
    if kind == _TCP4:
        source, destination, source_port, destination_port = _V4.unpack_from(data, _FIXED.size)
        return (_dotted(source), source_port), (_dotted(destination), destination_port)
    if kind == _TCP6:
        source, destination, source_port, destination_port = _V6.unpack_from(data, _FIXED.size)
        return (_unmapped(IPv6Address(source)), source_port), (_unmapped(IPv6Address(destination)), destination_port)
    return None, None


def _dotted(packed: bytes) -> str:
    """As `IPv4Address` writes it, in a fifth of its time."""
    return "{}.{}.{}.{}".format(*packed)


def _tlvs_of_unspecified(header: bytes, kind: int) -> tuple[Tlv, ...]:
    """What follows may as well be addresses, which are to be ignored: TLVs are kept only if it is nothing but TLVs."""
    try:
        list(_tlvs(header, _FIXED.size))
    except MalformedHeader:
        return ()
    return () if kind else _kept(header, _FIXED.size)


def _kept(header: bytes, start: int) -> tuple[Tlv, ...]:
    """The TLVs to keep, which begin at `start`. Raises `MalformedHeader` for any that is wrong (2.2)."""
    kept: list[Tlv] = []
    checksums: list[int] = []
    for kind, at, size in _tlvs(header, start):
        if kind == _CRC32C:
            if size != 4:
                raise MalformedHeader(f"a checksum of {size} bytes")
            checksums.append(at)
        elif kind == UNIQUE_ID and size > UNIQUE_ID_MAX:
            raise MalformedHeader(f"a unique id of {size} bytes")
        elif kind in PASSED_ON:
            kept.append((kind, header[at : at + size]))
    if checksums:
        _verify(header, checksums)
    return tuple(kept)


def _tlvs(header: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Of each TLV: its type, where its value begins, and the bytes of that. Raises `MalformedHeader`."""
    while at < len(header):
        if at + _TLV.size > len(header):
            raise MalformedHeader("ends within a TLV")
        kind, size = _TLV.unpack_from(header, at)
        at += _TLV.size
        if at + size > len(header):
            raise MalformedHeader(f"a TLV of {size} bytes is longer than the header")
        yield kind, at, size
        at += size


def _verify(header: bytes, checksums: Iterable[int]) -> None:
    """The checksum is that of the header with zeros in its place (2.2.3). Raises `MalformedHeader`."""
    blank = bytearray(header)
    for at in checksums:
        blank[at : at + 4] = bytes(4)
    expected = crc32c(blank).to_bytes(4)
    if any(header[at : at + 4] != expected for at in checksums):
        raise MalformedHeader("the checksum is wrong")


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return table


_CRC32C_TABLE: Final = _crc32c_table()


def crc32c(data: bytes | bytearray) -> int:
    """The checksum of RFC 4960, appendix B. Takes about 0.1 µs a byte."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def encode(version: int, source: Address | None, destination: Address | None, tlvs: Iterable[Tlv] = ()) -> bytes:
    """The header for the connection of a client at `source`, which connected to `destination`.

    Without both addresses, as for a client of a Unix socket, it is UNKNOWN in version 1; in version 2 it is LOCAL, or
    of the family UNSPEC if there are TLVs, which receivers of LOCAL ignore. Version 1 has no TLVs. If the families
    differ, the IPv4 address is sent as an IPv4-mapped one, as HAProxy does.
    """
    if source is None or destination is None:
        return b"PROXY UNKNOWN\r\n" if version == 1 else _encode_unspecified(tlvs)
    (source_host, source_port), (destination_host, destination_port) = source, destination
    over_ipv6 = ":" in source_host or ":" in destination_host
    if version == 1:
        hosts = f"{_shown(source_host, over_ipv6)} {_shown(destination_host, over_ipv6)}"
        return f"PROXY TCP{6 if over_ipv6 else 4} {hosts} {source_port} {destination_port}\r\n".encode()
    more = _encode_tlvs(tlvs) if tlvs else b""
    layout, kind, size = (_WHOLE_V6, _TCP6, _V6.size) if over_ipv6 else (_WHOLE_V4, _TCP4, _V4.size)
    packed = layout.pack(
        SIGNATURE,
        _PROXY,
        kind,
        size + len(more),
        _packed(source_host, over_ipv6),
        _packed(destination_host, over_ipv6),
        source_port,
        destination_port,
    )
    return packed + more


def _encode_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    return b"".join(_TLV.pack(kind, len(value)) + value for kind, value in tlvs)


def _encode_unspecified(tlvs: Iterable[Tlv]) -> bytes:
    more = _encode_tlvs(tlvs)
    return _FIXED.pack(SIGNATURE, _PROXY, 0, len(more)) + more if more else LOCAL


LOCAL: Final = _FIXED.pack(SIGNATURE, _LOCAL, 0, 0)
"""The header of version 2 for a connection of the proxy's own."""


def encode_check(version: int, own: Address, server: Address) -> bytes:
    """The header for a health check, from `own` to `server`.

    LOCAL, or in version 1 the addresses of the check's own connection: servers may refuse UNKNOWN (2.1).
    """
    return encode(1, own, server) if version == 1 else LOCAL


def ssl_tlv(client: int, version: str, common_name: str = "") -> Tlv:
    """For a client that uses TLS (2.2.6).

    `client` has bits such as `CLIENT_SSL`; a certificate that it names has been verified. `version` is like
    ``TLSv1.3``; `common_name` is that of the certificate.
    """
    value = struct.pack("!BI", client, not client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS))
    for kind, text in ((SSL_VERSION, version), (SSL_CN, common_name)):
        if text:
            value += _TLV.pack(kind, len(text.encode())) + text.encode()
    return SSL, value


def _shown(host: str, over_ipv6: bool) -> str:
    host = host.partition("%")[0]
    return f"::ffff:{host}" if over_ipv6 and ":" not in host else host


@lru_cache(_CACHED)
def _packed(host: str, over_ipv6: bool) -> bytes:
    """In network byte order."""
    return IPv6Address(_shown(host, True)).packed if over_ipv6 else IPv4Address(host).packed
