"""The plain PDUs, against the protocol's own vectors and for every value that fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.pdu import (
    COUNT_MAX,
    SIZE,
    UINT32_MAX,
    UINT64_MAX,
    Flaw,
    MalformedPdu,
    Pdu,
    ProbeRequest,
    ProbeResponse,
    Register,
    Unregister,
    decode,
    encode,
    tag_of,
)

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "data" / "vectors.json").read_text(encoding="utf-8")
)
KINDS: tuple[type[Pdu], ...] = (Register, ProbeRequest, ProbeResponse, Unregister)
FIELDS_OF = {kind: {field.name for field in attrs.fields(kind)} for kind in KINDS}
FLAWS = {
    "empty": Flaw.LENGTH,
    "one byte": Flaw.LENGTH,
    "23 bytes": Flaw.LENGTH,
    "25 bytes": Flaw.LENGTH,
    "type 0": Flaw.TYPE,
    "type 5": Flaw.TYPE,
    "type 7": Flaw.TYPE,
    "version 1": Flaw.VERSION,
    "cpu 101 %": Flaw.PERCENTAGE,
    "memory 254 %": Flaw.PERCENTAGE,
    "load 128 %": Flaw.PERCENTAGE,
    "interval 0": Flaw.INTERVAL,
    "weight 0": Flaw.WEIGHT,
    "weight 65536": Flaw.WEIGHT,
}

uint16 = st.integers(0, 65535)
uint32 = st.integers(0, UINT32_MAX)
uint64 = st.integers(0, UINT64_MAX)
limit = st.none() | st.integers(1, UINT32_MAX)
percentage = st.none() | st.integers(0, 100)
count = st.none() | st.integers(0, COUNT_MAX)
pdus: st.SearchStrategy[Pdu] = st.one_of(
    st.builds(Register, uint16, st.integers(1, UINT32_MAX), uint64, st.integers(1, 65535), st.booleans(), limit),
    st.builds(ProbeRequest, uint32, uint64, count, uint32),
    st.builds(ProbeResponse, uint32, uint64, percentage, percentage, percentage, count, st.booleans(), count),
    st.builds(Unregister, uint16, uint64),
)
first_bytes = st.integers(0, 7).map(lambda kind: bytes([kind << 5])) | st.binary(min_size=1, max_size=1)
nearly_pdus = st.builds(lambda first, rest: first + rest, first_bytes, st.binary(min_size=SIZE - 1, max_size=SIZE - 1))


def vectors(part: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[part], ids=lambda vector: vector["name"])


def pdu_of(vector: dict[str, Any]) -> Pdu:
    """Of the kind that has these fields; those that were added later may be missing."""
    fields = vector["fields"]
    kinds = [kind for kind in KINDS if fields.keys() <= FIELDS_OF[kind]]
    return min(kinds, key=lambda kind: len(FIELDS_OF[kind]))(**fields)


@vectors("plain")
def test_decoding_a_vector_gives_its_fields(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["hex"])) == pdu_of(vector)


@vectors("plain")
def test_encoding_the_fields_gives_the_vector(vector: dict[str, Any]) -> None:
    assert encode(pdu_of(vector)).hex() == vector["hex"]


@vectors("dropped")
def test_a_malformed_vector_is_refused_with_its_flaw(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedPdu) as caught:
        decode(bytes.fromhex(vector["hex"]))
    assert caught.value.flaw is FLAWS[vector["name"]]


@vectors("accepted")
def test_reserved_bits_and_unused_bytes_are_ignored(vector: dict[str, Any]) -> None:
    pdu = decode(bytes.fromhex(vector["hex"]))
    assert pdu == decode(bytes.fromhex(vector["same_as"]))
    assert encode(pdu).hex() == vector["same_as"]


def test_every_kind_of_pdu_and_of_flaw_has_a_vector() -> None:
    assert {type(pdu_of(vector)) for vector in VECTORS["plain"]} == set(KINDS)
    of_seals = {Flaw.SEALED, Flaw.UNSEALED, Flaw.KEY_ID, Flaw.SEAL}
    assert {FLAWS[vector["name"]] for vector in VECTORS["dropped"]} == set(Flaw) - of_seals


@vectors("keyed")
def test_a_keyed_pdu_is_not_a_plain_one(vector: dict[str, Any]) -> None:
    with pytest.raises(MalformedPdu) as caught:
        decode(bytes.fromhex(vector["hex"]))
    assert caught.value.flaw is Flaw.LENGTH


@given(pdus)
def test_a_pdu_survives_encoding_and_decoding(pdu: Pdu) -> None:
    data = encode(pdu)
    assert len(data) == SIZE
    assert decode(data) == pdu


@given(st.one_of(st.binary(max_size=64), nearly_pdus))
def test_any_datagram_is_malformed_or_a_pdu_that_survives_encoding(data: bytes) -> None:
    try:
        pdu = decode(data)
    except MalformedPdu:
        return
    assert decode(encode(pdu)) == pdu


@given(pdus, st.integers(0, SIZE * 8 - 1))
def test_a_flipped_bit_is_malformed_or_another_valid_pdu(pdu: Pdu, bit: int) -> None:
    data = bytearray(encode(pdu))
    data[bit // 8] ^= 1 << bit % 8
    try:
        flipped = decode(bytes(data))
    except MalformedPdu:
        return
    assert decode(encode(flipped)) == flipped


@pytest.mark.parametrize("kind", [0, 5, 6, 7])
def test_a_type_without_a_meaning_is_refused(kind: int) -> None:
    with pytest.raises(MalformedPdu) as caught:
        decode(bytes([kind << 5]) + bytes(SIZE - 1))
    assert caught.value.flaw is Flaw.TYPE


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_another_version_of_any_type_is_refused(kind: int, version: int) -> None:
    with pytest.raises(MalformedPdu) as caught:
        decode(bytes([kind << 5 | version << 3]) + bytes(SIZE - 1))
    assert caught.value.flaw is Flaw.VERSION


@pytest.mark.parametrize("position", [1, 2, 3])
@pytest.mark.parametrize("value", [0, 1, 99, 100, 101, 102, 128, 253, 254, 255])
def test_a_percentage_byte_is_0_to_100_or_unknown(position: int, value: int) -> None:
    data = bytearray(encode(ProbeResponse(1, 2, 3, 4, 5, 6)))
    data[position] = value
    if 101 <= value <= 254:
        with pytest.raises(MalformedPdu):
            decode(bytes(data))
    else:
        pdu = decode(bytes(data))
        assert isinstance(pdu, ProbeResponse)
        expected = None if value == 255 else value
        assert (pdu.cpu, pdu.memory, pdu.load)[position - 1] == expected


REGISTER = Register(80, 20_000, 1)
REQUEST = ProbeRequest(1, 2)
RESPONSE = ProbeResponse(1, 2, 3, 4, 5, 6)
UNREGISTER = Unregister(80, 1)


@pytest.mark.parametrize(
    ("pdu", "field", "value"),
    [
        (REGISTER, "service_port", -1),
        (REGISTER, "service_port", 65536),
        (REGISTER, "interval_ms", 0),
        (REGISTER, "interval_ms", UINT32_MAX + 1),
        (REGISTER, "instance", -1),
        (REGISTER, "instance", UINT64_MAX + 1),
        (REGISTER, "weight", 0),
        (REGISTER, "weight", 65536),
        (REGISTER, "max_connections", 0),
        (REGISTER, "max_connections", UINT32_MAX + 1),
        (REQUEST, "sequence", -1),
        (REQUEST, "sequence", UINT32_MAX + 1),
        (REQUEST, "token", -1),
        (REQUEST, "token", UINT64_MAX + 1),
        (REQUEST, "sessions", -1),
        (REQUEST, "sessions", COUNT_MAX + 1),
        (REQUEST, "instance_tag", -1),
        (REQUEST, "instance_tag", UINT32_MAX + 1),
        (RESPONSE, "sequence", UINT32_MAX + 1),
        (RESPONSE, "token", UINT64_MAX + 1),
        (RESPONSE, "cpu", -1),
        (RESPONSE, "cpu", 101),
        (RESPONSE, "memory", 101),
        (RESPONSE, "load", 255),
        (RESPONSE, "tcp", -1),
        (RESPONSE, "tcp", COUNT_MAX + 1),
        (RESPONSE, "others", -1),
        (RESPONSE, "others", COUNT_MAX + 1),
        (UNREGISTER, "service_port", 65536),
        (UNREGISTER, "instance", UINT64_MAX + 1),
    ],
)
def test_a_value_that_does_not_fit_cannot_be_constructed(pdu: Any, field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        attrs.evolve(pdu, **{field: value})


@pytest.mark.parametrize("value", [1.5, "80", None])
def test_a_number_of_another_type_cannot_be_constructed(value: Any) -> None:
    with pytest.raises(TypeError):
        attrs.evolve(REGISTER, service_port=value)


def test_an_instances_tag_is_its_low_32_bits() -> None:
    assert tag_of(0x0102030405060708) == 0x05060708
    assert tag_of(UINT64_MAX) == UINT32_MAX
    assert tag_of(1 << 32) == 0
