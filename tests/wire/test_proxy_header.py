"""PROXY headers, by the specification's own words, its examples and those of its best-known implementations."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rproxy.wire.proxy_header import (
    ALPN,
    AUTHORITY,
    CLIENT_CERT_CONN,
    CLIENT_SSL,
    LINE_MAX,
    LOCAL,
    SIGNATURE,
    SIZE_MAX,
    SSL,
    UNIQUE_ID,
    UNIQUE_ID_MAX,
    Address,
    Header,
    MalformedHeader,
    Tlv,
    crc32c,
    encode,
    encode_check,
    parse,
    ssl_tlv,
)

SOURCE: Final = ("192.0.2.1", 123)
DESTINATION: Final = ("192.0.2.2", 5678)
SOURCE_6: Final = ("2001:db8::1", 123)
DESTINATION_6: Final = ("2001:db8::2", 5678)
V4: Final = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 123, 5678)
V6: Final = IPv6Address("2001:db8::1").packed + IPv6Address("2001:db8::2").packed + struct.pack("!HH", 123, 5678)
CRC32C: Final = 3
NOOP: Final = 4
WORST: Final = b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n"


def binary(kind: int, block: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, kind, len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def with_checksum(header: bytes, wrong: int = 0) -> bytes:
    """The header with a CRC32C appended."""
    length = int.from_bytes(header[14:16]) + 7
    blank = header[:14] + length.to_bytes(2) + header[16:] + tlv(CRC32C, bytes(4))
    return blank[:-4] + (crc32c(blank) ^ wrong).to_bytes(4)


def read(data: bytes) -> Header:
    header = parse(data)
    assert header is not None
    return header


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n", SOURCE, DESTINATION),
        (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535), None),
        (b"PROXY TCP4 0.0.0.0 10.20.30.249 0 0\r\n", ("0.0.0.0", 0), ("10.20.30.249", 0)),
        (b"PROXY TCP6 2001:Db8::1 2001:DB8::2 123 5678\r\n", SOURCE_6, DESTINATION_6),
        (b"PROXY TCP6 %b ::1 1 2\r\n" % (b"FFFF:" * 7 + b"ffff"), ("ffff:" * 7 + "ffff", 1), ("::1", 2)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 123 5678\r\n", SOURCE, DESTINATION_6),
        (b"PROXY TCP6 :: 0001:02::03 1 2\r\n", ("::", 1), ("1:2::3", 2)),
    ],
)
def test_a_line_tells_both_addresses(line: bytes, source: Address, destination: Address | None) -> None:
    header = read(line + b"GET / HTTP/1.1\r\n")
    assert (header.size, header.source, header.tlvs) == (len(line), source, ())
    assert header.destination == destination or destination is None


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN \r\n",
        b"PROXY UNKNOWN 1 2 3 4 5 6\r\n",
        b"PROXY UNKNOWN TCP4 192.0.2.1 192.0.2.2 1234 5678\r\n",
        b"PROXY UNKNOWN \r\0\n\xff\r\n",
        WORST,
    ],
)
def test_of_unknown_the_rest_of_the_line_is_ignored(line: bytes) -> None:
    assert read(line + b"\r\ndata") == Header(len(line))


def test_the_longest_line_has_107_bytes() -> None:
    assert len(WORST) == LINE_MAX == 107
    long = WORST[:-2] + b"  "
    assert parse(long[:106]) is None
    with pytest.raises(MalformedHeader, match="no CRLF within 107 bytes"):
        parse(long)
    with pytest.raises(MalformedHeader, match="no CRLF within 107 bytes"):
        parse(long + b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 192.0.2.01 192.0.2.2 123 5678\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 123 5678\r\n",
        b"PROXY TCP4 192.0.2 192.0.2.2 123 5678\r\n",
        b"PROXY TCP4 192.0.2.1.1 192.0.2.2 123 5678\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 0123 5678\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123 999999\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +123 5678\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678 9\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678 \r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 123 5678\r\n",
        b"PROXY TCP4 192.0.2.1\t192.0.2.2 123 5678\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\n\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 123 5678\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 123 5678\r\n",
        b"PROXY TCP6 2001:db8::1::2 2001:db8::2 123 5678\r\n",
        b"PROXY TCP6 2001:db8:1 2001:db8::2 123 5678\r\n",
        b"PROXY TCP6 2001:db8::00001 2001:db8::2 123 5678\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 123 5678\r\n",
        b"PROXY TCP6 fe80::g 2001:db8::2 123 5678\r\n",
        b"PROXY TCP6 ::ffff:192.0.2.01 2001:db8::2 123 5678\r\n",
        b"PROXY TCP6 2001:db8::1 2001:db8::2 00 5678\r\n",
        b"PROXY UDP4 192.0.2.1 192.0.2.2 123 5678\r\n",
        b"PROXY TCP5 192.0.2.1 192.0.2.2 123 5678\r\n",
        b"PROXY UNKNOWN\n\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY unknown\r\n",
        b"PROXY \r\n",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 123 5678\r\n",
        b"PROXY TCP4 not an address at all\r\n",
        b"proxy TCP4 192.0.2.1 192.0.2.2 123 5678\r\n",
        b"PROXYTCP4 192.0.2.1 192.0.2.2 123 5678\r\n",
        b" PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n",
    ],
)
def test_any_other_line_is_refused(line: bytes) -> None:
    padded = line + b"x" if line in (b"\r\n\r\n",) or line.endswith(b"5678\r") else line
    with pytest.raises(MalformedHeader):
        parse(padded)


@pytest.mark.parametrize(
    "begun",
    [b"G", b"PROXX", b"PROXY T ", b"PROXY TCP4 1.2.3.4 \n", b"PROXY TCP4 x", b"PROXY UNKNOWNx", b"\r\n\r\n\0\r\nQUIX"],
)
def test_what_cannot_become_a_header_is_refused_at_once(begun: bytes) -> None:
    with pytest.raises(MalformedHeader):
        parse(begun)


@pytest.mark.parametrize(
    ("header", "source", "destination"),
    [
        (binary(0x11, V4), SOURCE, DESTINATION),
        (binary(0x21, V6), SOURCE_6, DESTINATION_6),
        (binary(0x11, V4 + bytes(9)), SOURCE, DESTINATION),
        (binary(0x11, V4 + tlv(0xEA, b"\1aws-vpc-id") + tlv(0xEC, bytes(128))), SOURCE, DESTINATION),
        (binary(0x11, V4 + tlv(NOOP, b"")), SOURCE, DESTINATION),
        (binary(0x21, IPv6Address("::ffff:192.0.2.1").packed + V6[16:]), SOURCE, DESTINATION_6),
    ],
)
def test_a_binary_header_tells_both_addresses(header: bytes, source: Address, destination: Address) -> None:
    assert read(header + SIGNATURE) == Header(len(header), source, destination)


@pytest.mark.parametrize(
    "header",
    [
        LOCAL,
        binary(0x00, b"", 0x20),
        binary(0x11, V4, 0x20),
        binary(0xFF, b"whatever it is", 0x20),
        binary(0x11, b"too short", 0x20),
        binary(0x00, b""),
        binary(0x01, b""),
        binary(0x00, b"\1\2\3\4"),
        binary(0x10, b""),
        binary(0x12, V4),
        binary(0x22, V6),
        binary(0x31, bytes(216)),
        binary(0x32, b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")),
    ],
)
def test_other_kinds_of_connections_keep_their_own_addresses(header: bytes) -> None:
    assert read(header + b"data") == Header(len(header))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (binary(0x11, V4, 0x22), "version and command"),
        (binary(0x11, V4, 0x2F), "version and command"),
        (binary(0x11, V4, 0x11), "version and command"),
        (binary(0x11, V4, 0x31), "version and command"),
        (binary(0x41, V4), "address family"),
        (binary(0xF1, V4), "address family"),
        (binary(0x13, V4), "address family"),
        (binary(0x11, V4[:-1]), "too few"),
        (binary(0x21, V4), "too few"),
        (binary(0x31, V6), "too few"),
        (binary(0x11, V4 + b"\2"), "ends within a TLV"),
        (binary(0x11, V4 + b"\2\0"), "ends within a TLV"),
        (binary(0x11, V4 + b"\2\0\x0a12345"), "longer than the header"),
        (binary(0x11, V4 + b"\2\0\x0412345"), "ends within a TLV"),
        (binary(0x31, bytes(216) + b"\2"), "ends within a TLV"),
        (binary(0x11, V4 + tlv(UNIQUE_ID, bytes(UNIQUE_ID_MAX + 1))), "unique id"),
        (binary(0x11, V4 + tlv(CRC32C, b"432")), "a checksum of 3 bytes"),
        (binary(0x11, V4 + tlv(CRC32C, b"4321")), "the checksum is wrong"),
        (with_checksum(binary(0x11, V4), wrong=1), "the checksum is wrong"),
        (with_checksum(binary(0x00, b""), wrong=1), "the checksum is wrong"),
        (binary(0x11, bytes(SIZE_MAX - 15)), "4097 bytes are more than 4096"),
    ],
)
def test_any_other_binary_header_is_refused(header: bytes, why: str) -> None:
    with pytest.raises(MalformedHeader, match=why):
        parse(header + b"data")


@pytest.mark.parametrize("begun", [binary(0x11, b"", 0x22), binary(0x51, V4)[:16], binary(0x11, bytes(65535))[:16]])
def test_a_binary_header_is_refused_as_soon_as_its_first_16_bytes_show_why(begun: bytes) -> None:
    with pytest.raises(MalformedHeader):
        parse(begun)


def test_the_longest_binary_header_has_4096_bytes() -> None:
    header = binary(0x11, V4 + tlv(NOOP, bytes(SIZE_MAX - 31)))
    assert len(header) == SIZE_MAX
    assert read(header).source == SOURCE
    assert read(binary(0x33, bytes(SIZE_MAX - 16), 0x20)) == Header(SIZE_MAX)


def test_the_checksum_is_that_of_rfc_3720() -> None:
    """Appendix B.4; and the check value of every catalogue of CRCs."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_a_right_checksum_is_accepted_wherever_it_stands() -> None:
    header = with_checksum(binary(0x11, V4 + tlv(UNIQUE_ID, b"id")))
    assert read(header) == Header(len(header), SOURCE, DESTINATION, ((UNIQUE_ID, b"id"),))
    header = with_checksum(binary(0x00, tlv(UNIQUE_ID, b"id")))
    assert read(header) == Header(len(header), tlvs=((UNIQUE_ID, b"id"),))
    front = binary(0x11, V4 + tlv(CRC32C, bytes(4)) + tlv(NOOP, b"xyz"))
    assert read(front[:31] + crc32c(front).to_bytes(4) + front[35:]).source == SOURCE


def test_what_is_about_the_client_is_kept_and_what_is_about_the_header_is_not() -> None:
    kept = ((ALPN, b"h2"), (AUTHORITY, b"example.org"), (UNIQUE_ID, b"x" * UNIQUE_ID_MAX), (SSL, b"\1\0\0\0\0"))
    others = ((NOOP, b"..."), (0x30, b"namespace"), (0xE1, b"custom"))
    header = binary(
        0x11, V4 + b"".join(tlv(*each) for pair in zip(kept, (*others, (0, b"")), strict=True) for each in pair)
    )
    assert read(header).tlvs == kept


def test_a_header_is_sent_for_the_families_of_both_addresses() -> None:
    assert encode(1, SOURCE, DESTINATION) == b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n"
    assert encode(1, SOURCE_6, DESTINATION_6) == b"PROXY TCP6 2001:db8::1 2001:db8::2 123 5678\r\n"
    assert encode(1, SOURCE, DESTINATION_6) == b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 123 5678\r\n"
    assert encode(1, ("fe80::1%3", 1), ("fe80::2%eth0", 2)) == b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"
    assert encode(2, SOURCE, DESTINATION) == binary(0x11, V4)
    assert encode(2, SOURCE_6, DESTINATION_6) == binary(0x21, V6)
    assert encode(2, SOURCE_6, DESTINATION)[16:52] == V6[:16] + bytes(10) + b"\xff\xff\xc0\0\2\2" + V6[32:]
    assert encode(2, ("fe80::1%3", 123), DESTINATION_6)[16:32] == IPv6Address("fe80::1").packed


@pytest.mark.parametrize(("source", "destination"), [(None, None), (SOURCE, None), (None, DESTINATION)])
def test_without_addresses_a_header_says_so(source: Address | None, destination: Address | None) -> None:
    assert encode(1, source, destination) == b"PROXY UNKNOWN\r\n"
    assert encode(2, source, destination) == SIGNATURE + b"\x20\0\0\0"


def test_without_addresses_tlvs_are_sent_all_the_same() -> None:
    header = encode(2, None, None, [(UNIQUE_ID, b"id")])
    assert header == binary(0x00, tlv(UNIQUE_ID, b"id"))
    assert parse(header) == Header(len(header), tlvs=((UNIQUE_ID, b"id"),))


def test_a_check_is_local_or_has_the_addresses_of_its_own_connection() -> None:
    assert encode_check(2, SOURCE, DESTINATION) == SIGNATURE + b"\x20\0\0\0"
    assert encode_check(1, SOURCE, DESTINATION) == b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n"


def test_the_tlv_of_tls_says_whether_there_is_a_certificate() -> None:
    assert ssl_tlv(CLIENT_SSL, "TLSv1.3") == (SSL, b"\1\0\0\0\1" + tlv(0x21, b"TLSv1.3"))
    expected = b"\3\0\0\0\0" + tlv(0x21, b"TLSv1.2") + tlv(0x22, "Zoë".encode())
    assert ssl_tlv(CLIENT_SSL | CLIENT_CERT_CONN, "TLSv1.2", "Zoë") == (SSL, expected)


addresses = st.tuples(st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str), st.integers(0, 65535))
kept_tlvs = st.lists(
    st.tuples(st.sampled_from([ALPN, AUTHORITY, SSL]), st.binary(max_size=300))
    | st.tuples(st.just(UNIQUE_ID), st.binary(max_size=UNIQUE_ID_MAX)),
    max_size=5,
)


def told(address: Address) -> Address:
    ip = IPv6Address(address[0]) if ":" in address[0] else IPv4Address(address[0])
    return str(getattr(ip, "ipv4_mapped", None) or ip), address[1]


@given(addresses, addresses, kept_tlvs, st.binary(max_size=64))
@example(("::ffff:1.2.3.4", 0), ("::", 65535), [], b"\r\n")
def test_what_is_sent_is_what_is_read(source: Address, destination: Address, tlvs: list[Tlv], rest: bytes) -> None:
    line, header = encode(1, source, destination), encode(2, source, destination, tlvs)
    assert len(line) <= 104
    assert read(line + rest) == Header(len(line), told(source), told(destination))
    assert read(header + rest) == Header(len(header), told(source), told(destination), tuple(tlvs))
    sealed = with_checksum(header)
    assert read(sealed + rest) == Header(len(sealed), told(source), told(destination), tuple(tlvs))


@given(addresses, addresses, kept_tlvs, st.sampled_from([1, 2]))
def test_until_it_is_complete_there_is_no_header_and_no_error(
    source: Address, destination: Address, tlvs: list[Tlv], version: int
) -> None:
    header = encode(version, source, destination, tlvs)
    assert all(parse(header[:end]) is None for end in range(len(header)))
    assert parse(header) == parse(header + b"more")


lines = st.lists(
    st.sampled_from(
        [b"PROXY", b" ", b"TCP4", b"TCP6", b"UNKNOWN", b"\r", b"\n", b"\r\n", b"1.2.3.4", b"::1", b"0", b"99"]
    )
    | st.binary(max_size=3),
    max_size=14,
).map(b"".join)
blocks = st.builds(
    lambda kind, command, block, cut: binary(kind, block, command)[: cut or None],
    st.integers(0, 255),
    st.sampled_from([0x20, 0x21]) | st.integers(0, 255),
    st.binary(max_size=300) | st.builds(lambda more: V4 + more, st.binary(max_size=40)),
    st.integers(-20, 0),
)


@given(lines | blocks | st.binary(max_size=400) | st.binary(max_size=400).map(SIGNATURE.__add__))
def test_whatever_comes_is_a_header_or_refused_and_stays_so(data: bytes) -> None:
    """No other exception; what is refused or complete at some byte is so with any that follow."""
    for end in range(len(data) + 1):
        try:
            header = parse(data[:end])
        except MalformedHeader:
            with pytest.raises(MalformedHeader):
                parse(data)
            break
        if header is not None:
            assert header.size == end <= SIZE_MAX
            assert parse(data) == header
            break


@given(st.integers(0, 2**32 - 1), st.integers(0, 200))
def test_a_changed_bit_is_found_by_the_checksum(bits: int, at: int) -> None:
    header = bytearray(with_checksum(binary(0x11, V4 + tlv(UNIQUE_ID, b"0123456789"))))
    place = 16 + at % (len(header) - 16)
    if not bits & 0xFF or place in range(28, 31) or place in range(41, 44):
        return  # unchanged, or another type or length
    header[place] ^= bits & 0xFF
    with pytest.raises(MalformedHeader):
        parse(bytes(header))
