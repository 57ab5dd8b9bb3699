"""Plain PDUs of the monitoring protocol, version 0, second edition: 24 bytes each, network byte order.

Types 1 to 3 come from the report (chapters 3 and 4.1), which leaves their layout open. UNREGISTER, the token, the
instance and its tag, weight, limit of sessions, application load, the draining bit and the session counts are
additions. A peer that does not know the tag, the limit or the counts sends 0 there, and ignores what it receives.
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum

import attrs

SIZE = 24
"""Bytes in a PDU of any type."""
VERSION = 0
UDP_PORT = 5555
"""The default port of the proxy and of agents (the report, chapter 4)."""
WEIGHT_NORMAL = 100
WEIGHT_MAX = 65535
UINT16_MAX = 2**16 - 1
UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1

_UNKNOWN_PERCENTAGE = 255
_PERCENTAGES: dict[int, int | None] = {**{value: value for value in range(101)}, _UNKNOWN_PERCENTAGE: None}
"""The values of a byte of PROBE RESPONSE that holds a percentage, decoded."""
_UNKNOWN_TCP = UINT32_MAX
COUNT_MAX = UINT32_MAX - 1
"""The largest count of connections or sessions; one of the field's values stands for "unknown".

For sessions that is 0, as a peer of the first edition sends it, and counts are sent plus 1.
"""
_DRAINING = 0b100
"""A bit of the first byte of REGISTER and PROBE RESPONSE."""

_REGISTER = struct.Struct("!BxHIQII")
_PROBE_REQUEST = struct.Struct("!B3xIQII")
_PROBE_RESPONSE = struct.Struct("!BBBBIQII")
_UNREGISTER = struct.Struct("!BxH4xQ8x")


class PduType(IntEnum):
    """The upper three bits of the first byte."""

    REGISTER = 1
    PROBE_REQUEST = 2
    PROBE_RESPONSE = 3
    UNREGISTER = 4


_REGISTER_BYTE = PduType.REGISTER << 5 | VERSION << 3
_PROBE_REQUEST_BYTE = PduType.PROBE_REQUEST << 5 | VERSION << 3
_PROBE_RESPONSE_BYTE = PduType.PROBE_RESPONSE << 5 | VERSION << 3
_UNREGISTER_BYTE = PduType.UNREGISTER << 5 | VERSION << 3


class Flaw(StrEnum):
    """Why a datagram is not a valid PDU. The value is the name of the counter to increment."""

    LENGTH = "length"
    TYPE = "type"
    VERSION = "version"
    PERCENTAGE = "percentage"
    INTERVAL = "interval"
    WEIGHT = "weight"
    SEALED = "sealed"
    """A keyed PDU where plain ones are expected."""
    UNSEALED = "unsealed"
    """A plain PDU where keyed ones are expected."""
    KEY_ID = "key-id"
    """The id of a key that the receiver does not have."""
    SEAL = "seal"
    """The MAC does not match."""


class MalformedPdu(ValueError):
    """The datagram is not a valid PDU of this version; `flaw` says why."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


def _check_ranges(pdu: object, *fields: tuple[str, int, int, int]) -> None:
    """Check (name, value, lowest, highest) of each field. Raises `TypeError` or `ValueError`.

    attrs' validators take four times as long, and this runs for every datagram.
    """
    for name, value, low, high in fields:
        if not isinstance(value, int):
            raise TypeError(f"{name} of a {type(pdu).__name__} must be a whole number, not {value!r}")
        if not low <= value <= high:
            raise ValueError(f"{name} of a {type(pdu).__name__} must be from {low} to {high}, not {value}")


@attrs.frozen
class Register:
    """Agent to proxy: registers a back-end, or renews its registration.

    `service_port` 0 stands for the proxy's default back-end port. `interval_ms` is the time until the next
    registration, in milliseconds, above 0. `instance` is random for every start of the agent. `weight` is relative to
    `WEIGHT_NORMAL`. While `draining`, the back-end is to get no new clients. `max_connections` is the most sessions of
    one proxy at once, above 0; None for no limit of its own.
    """

    service_port: int
    interval_ms: int
    instance: int
    weight: int = WEIGHT_NORMAL
    draining: bool = False
    max_connections: int | None = None

    def __attrs_post_init__(self) -> None:
        _check_ranges(
            self,
            ("service_port", self.service_port, 0, UINT16_MAX),
            ("interval_ms", self.interval_ms, 1, UINT32_MAX),
            ("instance", self.instance, 0, UINT64_MAX),
            ("weight", self.weight, 1, WEIGHT_MAX),
            ("max_connections", 1 if self.max_connections is None else self.max_connections, 1, UINT32_MAX),
        )


@attrs.frozen
class ProbeRequest:
    """Proxy to agent: asks for the host's load.

    `token` is random for every request; only a response that returns it is accepted. `sessions` is the number of
    sessions that this proxy has on the back-end, None if unknown. Only the instance with that `instance_tag` (see
    `tag_of`) answers; 0 addresses any instance.
    """

    sequence: int
    token: int
    sessions: int | None = None
    instance_tag: int = 0

    def __attrs_post_init__(self) -> None:
        _check_ranges(
            self,
            ("sequence", self.sequence, 0, UINT32_MAX),
            ("token", self.token, 0, UINT64_MAX),
            ("sessions", 0 if self.sessions is None else self.sessions, 0, COUNT_MAX),
            ("instance_tag", self.instance_tag, 0, UINT32_MAX),
        )


@attrs.frozen(init=False)
class ProbeResponse:
    """Agent to proxy: the answer to the request with the same `sequence` and `token`.

    `cpu`, `memory` and `load` (of the application) are percentages, 0..100; `tcp` is the number of established TCP
    connections of the host; `others` is the number of sessions that other proxies have on this back-end, as they
    reported it to the agent. None means unknown. While `draining`, the back-end is to get no new clients.
    """

    sequence: int
    token: int
    cpu: int | None
    memory: int | None
    load: int | None
    tcp: int | None
    draining: bool = False
    others: int | None = None

    def __init__(
        self,
        sequence: int,
        token: int,
        cpu: int | None,
        memory: int | None,
        load: int | None,
        tcp: int | None,
        draining: bool = False,
        others: int | None = None,
    ) -> None:
        """Written out, not generated: a proxy decodes one for every probe, and attrs' own is code in another file."""
        _check_ranges(
            self,
            ("sequence", sequence, 0, UINT32_MAX),
            ("token", token, 0, UINT64_MAX),
            ("cpu", 0 if cpu is None else cpu, 0, 100),
            ("memory", 0 if memory is None else memory, 0, 100),
            ("load", 0 if load is None else load, 0, 100),
            ("tcp", 0 if tcp is None else tcp, 0, COUNT_MAX),
            ("others", 0 if others is None else others, 0, COUNT_MAX),
        )
        assign = object.__setattr__
        assign(self, "sequence", sequence)
        assign(self, "token", token)
        assign(self, "cpu", cpu)
        assign(self, "memory", memory)
        assign(self, "load", load)
        assign(self, "tcp", tcp)
        assign(self, "draining", draining)
        assign(self, "others", others)


@attrs.frozen
class Unregister:
    """Agent to proxy: the agent stops, and with it the registration of that `instance`."""

    service_port: int
    instance: int

    def __attrs_post_init__(self) -> None:
        _check_ranges(
            self, ("service_port", self.service_port, 0, UINT16_MAX), ("instance", self.instance, 0, UINT64_MAX)
        )


Pdu = Register | ProbeRequest | ProbeResponse | Unregister


def tag_of(instance: int) -> int:
    """The tag of an instance: its low 32 bits."""
    return instance & UINT32_MAX


def encode(pdu: Pdu) -> bytes:
    """The `SIZE` bytes of `pdu`. Never raises: values out of range cannot be constructed."""
    match pdu:
        case ProbeRequest():
            sessions = 0 if pdu.sessions is None else pdu.sessions + 1
            return _PROBE_REQUEST.pack(_PROBE_REQUEST_BYTE, pdu.sequence, pdu.token, sessions, pdu.instance_tag)
        case ProbeResponse():
            return _PROBE_RESPONSE.pack(
                _PROBE_RESPONSE_BYTE | (_DRAINING if pdu.draining else 0),
                _UNKNOWN_PERCENTAGE if pdu.cpu is None else pdu.cpu,
                _UNKNOWN_PERCENTAGE if pdu.memory is None else pdu.memory,
                _UNKNOWN_PERCENTAGE if pdu.load is None else pdu.load,
                pdu.sequence,
                pdu.token,
                _UNKNOWN_TCP if pdu.tcp is None else pdu.tcp,
                0 if pdu.others is None else pdu.others + 1,
            )
        case Register():
            first = _REGISTER_BYTE | (_DRAINING if pdu.draining else 0)
            limit = pdu.max_connections or 0
            return _REGISTER.pack(first, pdu.service_port, pdu.interval_ms, pdu.instance, pdu.weight, limit)
        case Unregister():
            return _UNREGISTER.pack(_UNREGISTER_BYTE, pdu.service_port, pdu.instance)


def _decode_register(data: bytes) -> Register:
    first, port, interval_ms, instance, weight, limit = _REGISTER.unpack(data)
    if interval_ms == 0:
        raise MalformedPdu(Flaw.INTERVAL)
    if not 1 <= weight <= WEIGHT_MAX:
        raise MalformedPdu(Flaw.WEIGHT)
    return Register(port, interval_ms, instance, weight, bool(first & _DRAINING), limit or None)


def _decode_probe_request(data: bytes) -> ProbeRequest:
    _, sequence, token, sessions, instance_tag = _PROBE_REQUEST.unpack(data)
    return ProbeRequest(sequence, token, sessions - 1 if sessions else None, instance_tag)


def _decode_probe_response(data: bytes) -> ProbeResponse:
    first, cpu, memory, load, sequence, token, tcp, others = _PROBE_RESPONSE.unpack(data)
    try:
        return ProbeResponse(
            sequence,
            token,
            _PERCENTAGES[cpu],
            _PERCENTAGES[memory],
            _PERCENTAGES[load],
            None if tcp == _UNKNOWN_TCP else tcp,
            bool(first & _DRAINING),
            others - 1 if others else None,
        )
    except KeyError:
        raise MalformedPdu(Flaw.PERCENTAGE) from None


def _decode_unregister(data: bytes) -> Unregister:
    _, port, instance = _UNREGISTER.unpack(data)
    return Unregister(port, instance)


_DECODERS = {
    PduType.REGISTER: _decode_register,
    PduType.PROBE_REQUEST: _decode_probe_request,
    PduType.PROBE_RESPONSE: _decode_probe_response,
    PduType.UNREGISTER: _decode_unregister,
}


def decode(data: bytes) -> Pdu:
    """The PDU in a datagram. Reserved bits and unused bytes are ignored.

    Raises `MalformedPdu` for anything that is not a valid PDU of version 0, whatever its bytes.
    """
    if len(data) != SIZE:
        raise MalformedPdu(Flaw.LENGTH)
    decoder = _DECODERS.get(data[0] >> 5)  # type: ignore[call-overload]
    if decoder is None:
        raise MalformedPdu(Flaw.TYPE)
    if data[0] >> 3 & 0b11 != VERSION:
        raise MalformedPdu(Flaw.VERSION)
    pdu: Pdu = decoder(data)
    return pdu
