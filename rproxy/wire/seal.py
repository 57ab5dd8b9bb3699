"""Keyed PDUs, 44 bytes each: a plain one, the id of the key that sealed it, and 16 bytes of HMAC-SHA256 (RFC 2104).

Every agent has a key of its own, derived from a master key and from the IP address at which the proxy sees it. A
stolen agent key therefore speaks for one address only, and a captured PDU serves from no other.
"""

from __future__ import annotations

import hmac
import struct
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, Protocol

import attrs

from rproxy.wire import pdu
from rproxy.wire.pdu import Flaw, MalformedPdu

SIZE: Final = 44
KEY_ID_MAX: Final = 255
KEY_BYTES_MIN: Final = 32
MAC_BYTES: Final = 16
DERIVED_MAX: Final = 16384
"""Agents whose keys are remembered; any other's is derived anew."""

_TRAILER: Final = struct.Struct("!B3x")
_KEY_ID: Final = pdu.SIZE
_SIGNED: Final = _KEY_ID + _TRAILER.size
_PDU_LABEL: Final = b"rproxy-monitoring-0\0"
_KEY_LABEL: Final = b"rproxy-agent-key\0"
_DERIVED: Final = "agent:"


class KeyringError(ValueError):
    """A key file that cannot be used. The text names the line, never a key."""


@attrs.frozen(eq=False)
class Key:
    """One line of a key file: a master key, or the key derived for one agent."""

    id: int
    secret: bytes = attrs.field(repr=False)
    is_derived: bool = False

    def derive(self, agent: str) -> bytes:
        """The key of the agent at that IP address; a derived one stands for itself."""
        if self.is_derived:
            return self.secret
        return hmac.digest(self.secret, _KEY_LABEL + _packed(agent), "sha256")

    def written(self) -> str:
        """The line of a key file."""
        return f"{self.id} {_DERIVED if self.is_derived else ''}{self.secret.hex()}"


def _packed(address: str) -> bytes:
    """16 bytes, IPv4 as IPv4-mapped IPv6."""
    ip = ip_address(address)
    return ip.packed if isinstance(ip, IPv6Address) else bytes(10) + b"\xff\xff" + ip.packed


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys of a key file, in its order. Raises `KeyringError`."""
    keys: dict[int, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            key = _parse_key(words, f"line {number}: ")
            if key.id in keys:
                raise KeyringError(f"line {number}: key id {key.id} is there twice")
            keys[key.id] = key
    if not keys:
        raise KeyringError("there is no key in it")
    return tuple(keys.values())


def _parse_key(words: list[str], where: str) -> Key:
    if len(words) != 2:
        raise KeyringError(f"{where}not of the form ID HEX")
    number, text = words
    if not (number.isascii() and number.isdigit() and len(number) <= 3 and int(number) <= KEY_ID_MAX):
        raise KeyringError(f"{where}the key id is not a number from 0 to {KEY_ID_MAX}")
    digits = text.removeprefix(_DERIVED)
    try:
        secret = bytes.fromhex(digits)
    except ValueError:
        raise KeyringError(f"{where}the key is not in hexadecimal digits, two a byte") from None
    if len(secret) < KEY_BYTES_MIN:
        raise KeyringError(f"{where}the key is shorter than {KEY_BYTES_MIN} bytes ({2 * KEY_BYTES_MIN} digits)")
    return Key(int(number), secret, is_derived=text.startswith(_DERIVED))


class Envelope(Protocol):
    """What a datagram carries its PDU in. `agent` is, in either direction, the agent's IP as the proxy sees it."""

    def seal(self, data: bytes, agent: str) -> bytes:
        """The datagram for the 24 bytes of a PDU."""

    def open(self, datagram: bytes, agent: str) -> bytes:
        """The bytes of the PDU, not yet decoded. Raises `MalformedPdu`."""


class Unsealed:
    """The plain mode: a datagram is a PDU."""

    def seal(self, data: bytes, agent: str) -> bytes:
        return data

    def open(self, datagram: bytes, agent: str) -> bytes:
        if len(datagram) == SIZE:
            raise MalformedPdu(Flaw.SEALED)
        return datagram


class Sealed:
    """The keyed mode: the first key seals, all of them open."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self._first = keys[0]
        self._keys = {key.id: key for key in keys}
        self._primed = lru_cache(DERIVED_MAX)(_primed)

    def seal(self, data: bytes, agent: str) -> bytes:
        signed = data + _TRAILER.pack(self._first.id)
        return signed + self._mac(self._first, signed, agent)

    def open(self, datagram: bytes, agent: str) -> bytes:
        if len(datagram) != SIZE:
            raise MalformedPdu(Flaw.UNSEALED if len(datagram) == pdu.SIZE else Flaw.LENGTH)
        key = self._keys.get(datagram[_KEY_ID])
        if key is None:
            raise MalformedPdu(Flaw.KEY_ID)
        if not hmac.compare_digest(self._mac(key, datagram[:_SIGNED], agent), datagram[_SIGNED:]):
            raise MalformedPdu(Flaw.SEAL)
        return datagram[: pdu.SIZE]

    def _mac(self, key: Key, signed: bytes, agent: str) -> bytes:
        mac = self._primed(key, agent).copy()
        mac.update(signed)
        return mac.digest()[:MAC_BYTES]


def _primed(key: Key, agent: str) -> hmac.HMAC:
    """An HMAC that all PDUs of one agent begin with: to copy it takes half as long as to begin anew."""
    return hmac.new(key.derive(agent), _PDU_LABEL, "sha256")
