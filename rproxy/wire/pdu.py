"""Plain PDUs of the monitoring protocol, version 0: 24 bytes each, network byte order.

Types 1 to 3 are those of the report (chapters 3 and 4.1), which leaves their layout open; UNREGISTER, token,
instance, weight, application load and the draining bit are additions.
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum

import attrs

SIZE = 24
VERSION = 0
WEIGHT_NORMAL = 100
WEIGHT_MAX = 65535
UINT16_MAX = 2**16 - 1
UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1

_UNKNOWN = 255
_DRAINING = 0b100

_REGISTER = struct.Struct("!BxHIQI4x")
_PROBE_REQUEST = struct.Struct("!B3xIQ8x")
_PROBE_RESPONSE = struct.Struct("!BBBBIQI4x")
_UNREGISTER = struct.Struct("!BxH4xQ8x")


class PduType(IntEnum):
    """The upper three bits of the first byte."""

    REGISTER = 1
    PROBE_REQUEST = 2
    PROBE_RESPONSE = 3
    UNREGISTER = 4


class Flaw(StrEnum):
    """Why a datagram is not a PDU; each is a counter's name."""

    LENGTH = "length"
    TYPE = "type"
    VERSION = "version"
    PERCENTAGE = "percentage"
    INTERVAL = "interval"
    WEIGHT = "weight"
    SEALED = "sealed"
    """A keyed PDU where plain ones are expected."""
    UNSEALED = "unsealed"
    KEY_ID = "key-id"
    SEAL = "seal"


class MalformedPdu(ValueError):
    """A datagram that is not a PDU of this version."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.value)
        self.flaw = flaw


def _check(pdu: object, name: str, value: int | None, low: int, high: int) -> None:
    """Raises `TypeError` or `ValueError`. attrs' own validators take four times as long, for every datagram."""
    if not isinstance(value, int):
        raise TypeError(f"{name} of a {type(pdu).__name__} must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} of a {type(pdu).__name__} must be from {low} to {high}, not {value}")


@attrs.frozen
class Register:
    """An agent says that it exists, and when it means to say so again.

    `service_port` 0 stands for the proxy's default back-end port; `interval_ms` is in milliseconds and above 0;
    `instance` is drawn anew at every agent start; `weight` 100 is normal.
    """

    service_port: int
    interval_ms: int
    instance: int
    weight: int = WEIGHT_NORMAL
    draining: bool = False

    def __attrs_post_init__(self) -> None:
        _check(self, "service_port", self.service_port, 0, UINT16_MAX)
        _check(self, "interval_ms", self.interval_ms, 1, UINT32_MAX)
        _check(self, "instance", self.instance, 0, UINT64_MAX)
        _check(self, "weight", self.weight, 1, WEIGHT_MAX)


@attrs.frozen
class ProbeRequest:
    """The proxy asks one agent for its load. `token` is random for every request and proves the answer."""

    sequence: int
    token: int

    def __attrs_post_init__(self) -> None:
        _check(self, "sequence", self.sequence, 0, UINT32_MAX)
        _check(self, "token", self.token, 0, UINT64_MAX)


@attrs.frozen
class ProbeResponse:
    """The agent's answer: percentages 0..100 or None where unknown, and the host's established TCP connections."""

    sequence: int
    token: int
    cpu: int | None
    memory: int | None
    load: int | None
    tcp: int
    draining: bool = False

    def __attrs_post_init__(self) -> None:
        _check(self, "sequence", self.sequence, 0, UINT32_MAX)
        _check(self, "token", self.token, 0, UINT64_MAX)
        _check(self, "tcp", self.tcp, 0, UINT32_MAX)
        for name, value in (("cpu", self.cpu), ("memory", self.memory), ("load", self.load)):
            if value is not None:
                _check(self, name, value, 0, 100)


@attrs.frozen
class Unregister:
    """An agent that stops says so, naming the instance it registered."""

    service_port: int
    instance: int

    def __attrs_post_init__(self) -> None:
        _check(self, "service_port", self.service_port, 0, UINT16_MAX)
        _check(self, "instance", self.instance, 0, UINT64_MAX)


Pdu = Register | ProbeRequest | ProbeResponse | Unregister


def _first_byte(kind: PduType, draining: bool = False) -> int:
    return kind << 5 | VERSION << 3 | (_DRAINING if draining else 0)


def _byte(percentage: int | None) -> int:
    return _UNKNOWN if percentage is None else percentage


def encode(pdu: Pdu) -> bytes:
    """The 24 bytes of `pdu`."""
    match pdu:
        case ProbeRequest():
            return _PROBE_REQUEST.pack(_first_byte(PduType.PROBE_REQUEST), pdu.sequence, pdu.token)
        case ProbeResponse():
            return _PROBE_RESPONSE.pack(
                _first_byte(PduType.PROBE_RESPONSE, pdu.draining),
                _byte(pdu.cpu),
                _byte(pdu.memory),
                _byte(pdu.load),
                pdu.sequence,
                pdu.token,
                pdu.tcp,
            )
        case Register():
            first = _first_byte(PduType.REGISTER, pdu.draining)
            return _REGISTER.pack(first, pdu.service_port, pdu.interval_ms, pdu.instance, pdu.weight)
        case Unregister():
            return _UNREGISTER.pack(_first_byte(PduType.UNREGISTER), pdu.service_port, pdu.instance)


def _percentage(byte: int) -> int | None:
    if byte <= 100:
        return byte
    if byte == _UNKNOWN:
        return None
    raise MalformedPdu(Flaw.PERCENTAGE)


def _decode_register(data: bytes) -> Register:
    first, port, interval_ms, instance, weight = _REGISTER.unpack(data)
    if interval_ms == 0:
        raise MalformedPdu(Flaw.INTERVAL)
    if not 1 <= weight <= WEIGHT_MAX:
        raise MalformedPdu(Flaw.WEIGHT)
    return Register(port, interval_ms, instance, weight, bool(first & _DRAINING))


def _decode_probe_request(data: bytes) -> ProbeRequest:
    _, sequence, token = _PROBE_REQUEST.unpack(data)
    return ProbeRequest(sequence, token)


def _decode_probe_response(data: bytes) -> ProbeResponse:
    first, cpu, memory, load, sequence, token, tcp = _PROBE_RESPONSE.unpack(data)
    return ProbeResponse(
        sequence, token, _percentage(cpu), _percentage(memory), _percentage(load), tcp, bool(first & _DRAINING)
    )


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
    """The PDU in one datagram.

    Reserved bits and unused bytes are ignored. Raises `MalformedPdu`, with the flaw, for everything else that is
    not a PDU of version 0.
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
