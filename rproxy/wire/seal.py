"""Keyed PDUs, 44 bytes each: a plain PDU, the id of the key, and 16 bytes of HMAC-SHA256 (RFC 2104) over both.

Every agent has a key of its own, derived from a master key and the IP address at which the proxy sees the agent. A
stolen agent key is therefore valid at one address only, and so is a captured PDU.
"""

from __future__ import annotations

import hmac
import struct
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from rproxy.wire import pdu
from rproxy.wire.pdu import Flaw, MalformedPdu

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

SIZE: Final = 44
"""Bytes in a keyed PDU."""
KEY_ID_MAX: Final = 255
KEY_BYTES_MIN: Final = 32
"""The shortest secret that a key file may hold."""
MAC_BYTES: Final = 16
"""Bytes to which the MAC of HMAC-SHA256 is truncated."""
DERIVED_MAX: Final = 16384
"""Size of the cache of derived keys, in agents."""

_TRAILER: Final = struct.Struct("!B3x")
"""Follows the plain PDU: the key id, and bytes that are sent as 0 and ignored on receipt."""
_KEY_ID_AT: Final = pdu.SIZE
_SIGNED: Final = _KEY_ID_AT + _TRAILER.size
"""The MAC covers the bytes before this offset, and is found there."""
_BLOCK: Final = 64
"""SHA-256's block size in bytes."""
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_PDU_LABEL: Final = b"rproxy-monitoring-0\0"
_KEY_LABEL: Final = b"rproxy-agent-key\0"


@attrs.frozen(eq=False)
class Key:
    """A master key, or, if `is_derived`, the key of a single agent. `id` is from 0 to `KEY_ID_MAX`.

    Its `repr` does not show the secret.
    """

    id: int
    secret: bytes = attrs.field(repr=False)
    is_derived: bool = False

    def derive(self, agent: str) -> bytes:
        """The secret of the agent at that IP address; that of a derived key itself, whatever the address.

        Raises `ValueError` if a master key is given anything but an IP address.
        """
        if self.is_derived:
            return self.secret
        return hmac.digest(self.secret, _KEY_LABEL + _packed(agent), "sha256")


def _packed(address: str) -> bytes:
    """16 bytes; IPv4 as an IPv4-mapped IPv6 address."""
    ip = ip_address(address)
    return ip.packed if isinstance(ip, IPv6Address) else bytes(10) + b"\xff\xff" + ip.packed


class Envelope(Protocol):
    """How PDUs travel in datagrams. In both directions, `agent` is the agent's IP address as the proxy sees it.

    Called for every datagram, in any order. Implementations are immutable: rotating keys replaces the envelope.
    """

    def seal(self, data: bytes, agent: str) -> bytes:
        """The datagram to send for an encoded PDU. Raises `ValueError` if `agent` is needed and no IP address."""

    def open(self, datagram: bytes, agent: str) -> bytes:
        """The encoded PDU in a received datagram, which the caller decodes next.

        Raises `MalformedPdu` for datagrams of the other kind and for those that are not authentic; `ValueError` as
        `seal`.
        """


class Unsealed:
    """An `Envelope` for plain PDUs: the datagram is the PDU."""

    def seal(self, data: bytes, agent: str) -> bytes:
        """`data` itself."""
        return data

    def open(self, datagram: bytes, agent: str) -> bytes:
        """`datagram` itself, of whatever length. Raises `MalformedPdu` if it has the length of a keyed PDU."""
        if len(datagram) == SIZE:
            raise MalformedPdu(Flaw.SEALED)
        return datagram


class Sealed:
    """An `Envelope` for keyed PDUs: seals with the first of `keys`, opens what any of them has sealed."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self._first = keys[0]
        self._keys = {key.id: key for key in keys}
        self._states = lru_cache(DERIVED_MAX)(_hmac_states)

    def seal(self, data: bytes, agent: str) -> bytes:
        """As `Envelope.seal`."""
        signed = data + _TRAILER.pack(self._first.id)
        return signed + self._mac(self._first, signed, agent)

    def open(self, datagram: bytes, agent: str) -> bytes:
        """As `Envelope.open`. MACs are compared in constant time."""
        if len(datagram) != SIZE:
            raise MalformedPdu(Flaw.UNSEALED if len(datagram) == pdu.SIZE else Flaw.LENGTH)
        key = self._keys.get(datagram[_KEY_ID_AT])
        if key is None:
            raise MalformedPdu(Flaw.KEY_ID)
        if not hmac.compare_digest(self._mac(key, datagram[:_SIGNED], agent), datagram[_SIGNED:]):
            raise MalformedPdu(Flaw.SEAL)
        return datagram[: pdu.SIZE]

    def _mac(self, key: Key, signed: bytes, agent: str) -> bytes:
        inner, outer = self._states(key, agent)
        inner = inner.copy()
        inner.update(signed)
        outer = outer.copy()
        outer.update(inner.digest())
        return outer.digest()[:MAC_BYTES]


def _hmac_states(key: Key, agent: str) -> tuple[Hash, Hash]:
    """The inner and outer hash of HMAC-SHA256 for all PDUs of one agent, to be copied for each (RFC 2104, section 4).

    `hmac.HMAC.copy` does the same in four more Python calls.
    """
    secret = key.derive(agent)
    block = (secret if len(secret) <= _BLOCK else sha256(secret).digest()).ljust(_BLOCK, b"\0")
    return sha256(block.translate(_INNER_PAD) + _PDU_LABEL), sha256(block.translate(_OUTER_PAD))
