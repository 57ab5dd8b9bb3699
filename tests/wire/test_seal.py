"""Keyed PDUs, against the protocol's own vectors and its rules."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire import pdu
from rproxy.wire.pdu import Flaw, MalformedPdu, decode, encode
from rproxy.wire.seal import SIZE, Envelope, Key, Sealed, Unsealed
from tests.wire.keys import DIGITS, SECRET, keyrings
from tests.wire.test_pdu import VECTORS, pdu_of, pdus, vectors

MASTER = Key(VECTORS["key_id"], bytes.fromhex(VECTORS["master_key"]))  # type: ignore[arg-type]
PLAIN = {vector["name"]: vector for vector in VECTORS["plain"]}
AGENT = "10.1.1.1"
OTHER = Key(8, bytes(range(100, 132)))
PDU = encode(pdu.ProbeRequest(1, 2))

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


def flaw(envelope: Envelope, datagram: bytes, agent: str = AGENT) -> Flaw:
    with pytest.raises(MalformedPdu) as caught:
        envelope.open(datagram, agent)
    return caught.value.flaw


@vectors("keyed")
def test_deriving_gives_the_vectors_agent_key(vector: dict[str, Any]) -> None:
    assert MASTER.derive(vector["agent_ip"]).hex() == vector["agent_key"]


@vectors("keyed")
def test_sealing_the_plain_pdu_gives_the_vector(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(PLAIN[vector["name"]]["hex"])
    assert Sealed((MASTER,)).seal(data, vector["agent_ip"]).hex() == vector["hex"]


@vectors("keyed")
def test_an_agents_own_key_seals_as_the_master_key_does(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(PLAIN[vector["name"]]["hex"])
    own = Key(MASTER.id, bytes.fromhex(vector["agent_key"]), is_derived=True)
    assert Sealed((own,)).seal(data, vector["agent_ip"]).hex() == vector["hex"]


@vectors("keyed")
def test_opening_the_vector_gives_the_plain_pdu(vector: dict[str, Any]) -> None:
    opened = Sealed((MASTER,)).open(bytes.fromhex(vector["hex"]), vector["agent_ip"])
    assert opened.hex() == PLAIN[vector["name"]]["hex"]
    assert decode(opened) == pdu_of(PLAIN[vector["name"]])


def test_every_plain_vector_has_a_keyed_one() -> None:
    assert [vector["name"] for vector in VECTORS["keyed"]] == list(PLAIN)


@vectors("keyed")
def test_any_other_bit_in_a_datagram_is_refused(vector: dict[str, Any]) -> None:
    sealed, good = Sealed((MASTER,)), bytes.fromhex(vector["hex"])
    for bit in range(8 * SIZE):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert flaw(sealed, bytes(bad), vector["agent_ip"]) is (Flaw.KEY_ID if bit // 8 == 24 else Flaw.SEAL), bit


@vectors("keyed")
def test_any_other_value_of_any_byte_of_a_datagram_is_refused(vector: dict[str, Any]) -> None:
    sealed, good = Sealed((MASTER,)), bytes.fromhex(vector["hex"])
    for position in range(SIZE):
        for value in set(range(256)) - {good[position]}:
            bad = good[:position] + bytes([value]) + good[position + 1 :]
            with pytest.raises(MalformedPdu):
                sealed.open(bad, vector["agent_ip"])


@vectors("keyed")
@pytest.mark.parametrize("elsewhere", ["10.1.1.2", "10.1.1.10", "2001:db8::6", "::1", "::10.1.1.1", "::"])
def test_from_another_address_a_datagram_is_refused(vector: dict[str, Any], elsewhere: str) -> None:
    assert flaw(Sealed((MASTER,)), bytes.fromhex(vector["hex"]), elsewhere) is Flaw.SEAL


@vectors("keyed")
def test_under_another_key_of_the_same_id_a_datagram_is_refused(vector: dict[str, Any]) -> None:
    datagram = bytes.fromhex(vector["hex"])
    for secret in (OTHER.secret, MASTER.secret + b"\1", bytes.fromhex(vector["agent_key"])):
        assert flaw(Sealed((Key(MASTER.id, secret),)), datagram, vector["agent_ip"]) is Flaw.SEAL


@pytest.mark.parametrize("number", [0, 6, 8, 255])
def test_under_a_key_id_that_is_not_known_a_datagram_is_refused(number: int) -> None:
    datagram = Sealed((MASTER,)).seal(PDU, AGENT)
    assert flaw(Sealed((Key(number, MASTER.secret),)), datagram) is Flaw.KEY_ID


def test_the_key_id_is_sealed_too() -> None:
    """Two ids of one key do not stand for each other."""
    datagram = bytearray(Sealed((MASTER,)).seal(PDU, AGENT))
    datagram[24] = 8
    assert flaw(Sealed((MASTER, Key(8, MASTER.secret))), bytes(datagram)) is Flaw.SEAL


def test_the_bytes_after_the_key_id_are_sealed_but_not_looked_at() -> None:
    """As every byte that is 0 in this version: sent so, ignored on receipt."""
    signed = PDU + bytes([MASTER.id, 1, 2, 3])
    mac = hmac.digest(MASTER.derive(AGENT), b"rproxy-monitoring-0\0" + signed, "sha256")[:16]
    assert Sealed((MASTER,)).open(signed + mac, AGENT) == PDU
    assert Sealed((MASTER,)).seal(PDU, AGENT)[25:28] == bytes(3)
    assert flaw(Sealed((MASTER,)), PDU + bytes([MASTER.id, 1, 2, 4]) + mac) is Flaw.SEAL


def test_a_stolen_agents_key_speaks_for_no_other_address() -> None:
    stolen = Key(MASTER.id, MASTER.derive(AGENT), is_derived=True)
    datagram = Sealed((stolen,)).seal(PDU, "10.1.1.2")
    assert flaw(Sealed((MASTER,)), datagram, "10.1.1.2") is Flaw.SEAL
    assert Sealed((MASTER,)).open(datagram, AGENT) == PDU


@vectors("plain")
def test_a_keyed_side_refuses_plain_pdus(vector: dict[str, Any]) -> None:
    assert flaw(Sealed((MASTER,)), bytes.fromhex(vector["hex"])) is Flaw.UNSEALED


@vectors("keyed")
def test_a_plain_side_refuses_keyed_pdus(vector: dict[str, Any]) -> None:
    assert flaw(Unsealed(), bytes.fromhex(vector["hex"]), vector["agent_ip"]) is Flaw.SEALED


@pytest.mark.parametrize("length", [*range(24), *range(25, 44), *range(45, 65), 65_507])
def test_a_keyed_side_refuses_every_other_length(length: int) -> None:
    datagram = (Sealed((MASTER,)).seal(PDU, AGENT) + bytes(length))[:length]
    assert flaw(Sealed((MASTER,)), datagram) is Flaw.LENGTH


@pytest.mark.parametrize("length", [0, 1, 23, 24, 25, 43, 45, 64])
def test_the_plain_mode_changes_nothing_and_leaves_lengths_to_the_decoder(length: int) -> None:
    datagram = bytes(range(length))
    assert Unsealed().seal(datagram, AGENT) == datagram
    assert Unsealed().open(datagram, AGENT) == datagram


def test_of_several_keys_the_first_seals() -> None:
    assert Sealed((MASTER, OTHER)).seal(PDU, AGENT) == Sealed((MASTER,)).seal(PDU, AGENT)
    assert Sealed((OTHER, MASTER)).seal(PDU, AGENT) == Sealed((OTHER,)).seal(PDU, AGENT)
    assert Sealed((OTHER, MASTER)).seal(PDU, AGENT)[24:28] == bytes([OTHER.id, 0, 0, 0])


def test_several_keys_all_open() -> None:
    both = Sealed((MASTER, OTHER))
    for key in (MASTER, OTHER):
        assert both.open(Sealed((key,)).seal(PDU, AGENT), AGENT) == PDU


def test_keys_of_several_agents_and_ids_are_not_mixed_up() -> None:
    """Nor are they once they have been derived, and are remembered."""
    both = Sealed((MASTER, OTHER))
    agents = [AGENT, "10.1.1.2", "2001:db8::5"]
    for _ in range(2):
        for key in (MASTER, OTHER):
            for sender in agents:
                datagram = Sealed((key,)).seal(PDU, sender)
                for agent in agents:
                    if agent == sender:
                        assert both.open(datagram, agent) == PDU
                    else:
                        assert flaw(both, datagram, agent) is Flaw.SEAL


def test_a_master_key_and_an_agents_own_understand_each_other_at_its_address_only() -> None:
    own = Sealed((Key(MASTER.id, MASTER.derive(AGENT), is_derived=True),))
    assert own.open(Sealed((MASTER,)).seal(PDU, AGENT), AGENT) == PDU
    assert Sealed((MASTER,)).open(own.seal(PDU, AGENT), AGENT) == PDU
    assert flaw(own, Sealed((MASTER,)).seal(PDU, "10.1.1.2"), "10.1.1.2") is Flaw.SEAL


@pytest.mark.parametrize("size", [32, 63, 64, 65, 1000])
def test_the_mac_is_hmac_sha256_whatever_the_length_of_the_key(size: int) -> None:
    own = Key(1, bytes(number % 251 for number in range(size)), is_derived=True)
    datagram = Sealed((own,)).seal(PDU, AGENT)
    assert datagram[28:] == hmac.digest(own.secret, b"rproxy-monitoring-0\0" + datagram[:28], "sha256")[:16]


@pytest.mark.parametrize(
    ("agent", "packed"),
    [
        ("10.1.1.1", "00000000000000000000ffff0a010101"),
        ("::ffff:10.1.1.1", "00000000000000000000ffff0a010101"),
        ("::ffff:a01:101", "00000000000000000000ffff0a010101"),
        ("::10.1.1.1", "0000000000000000000000000a010101"),
        ("0.0.0.0", "00000000000000000000ffff00000000"),
        ("255.255.255.255", "00000000000000000000ffffffffffff"),
        ("::", "00000000000000000000000000000000"),
        ("2001:db8::5", "20010db8000000000000000000000005"),
        ("2001:0DB8:0::0:5", "20010db8000000000000000000000005"),
        ("fe80::1", "fe800000000000000000000000000001"),
        ("fe80::1%eth0", "fe800000000000000000000000000001"),
    ],
)
def test_an_agents_key_comes_from_the_16_bytes_of_its_address(agent: str, packed: str) -> None:
    expected = hmac.new(MASTER.secret, b"rproxy-agent-key\0" + bytes.fromhex(packed), hashlib.sha256).digest()
    assert MASTER.derive(agent) == expected


def test_a_derived_key_stands_for_itself() -> None:
    assert Key(1, SECRET, is_derived=True).derive("10.1.1.2") == SECRET


def test_what_is_no_address_has_no_key() -> None:
    with pytest.raises(ValueError, match=r"proxy\.example"):
        MASTER.derive("proxy.example")


@given(keyrings, pdus, addresses)
def test_what_is_sealed_opens_again(ring: tuple[Key, ...], message: pdu.Pdu, agent: str) -> None:
    datagram = Sealed(ring).seal(encode(message), agent)
    assert len(datagram) == SIZE
    assert decode(Sealed(ring[::-1]).open(datagram, agent)) == message


@given(keyrings, addresses, st.binary(max_size=64) | st.binary(min_size=SIZE, max_size=SIZE))
def test_what_nobody_sealed_does_not_open(ring: tuple[Key, ...], agent: str, datagram: bytes) -> None:
    with pytest.raises(MalformedPdu):
        Sealed(ring).open(datagram, agent)


def test_nothing_that_holds_a_key_shows_it() -> None:
    key = Key(7, SECRET)
    shown = f"{key!r} {key} {Sealed((key,))!r} {(key,)!r}"
    assert "7" in repr(key)
    for form in (DIGITS, DIGITS[:8], repr(SECRET)[2:12], str(list(SECRET))[1:12]):
        assert form not in shown
