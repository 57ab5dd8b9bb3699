"""Plain PDUs of the monitoring protocol, version 0, second edition: 24 bytes each, network byte order.

Types 1 to 3 are those of the report (chapters 3 and 4.1), which leaves their layout open; UNREGISTER, token,
instance and its tag, weight, application load, the draining bit and the counts of sessions are additions. A side of
the first edition sends 0 for the tag and the counts, and ignores what it gets there.
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
_UNKNOWN_TCP = UINT32_MAX
COUNT_MAX = UINT32_MAX - 1
"""The largest count of connections or sessions: the wire uses one more value for "unknown" or "not said"."""
_DRAINING = 0b100

_REGISTER = struct.Struct("!BxHIQI4x")
_PROBE_REQUEST = struct.Struct("!B3xIQII")
_PROBE_RESPONSE = struct.Struct("!BBBBIQII")
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
    """The proxy asks one agent for its load. `token` is random for every request and proves the answer.

    `sessions` is how many sessions this proxy has on the back-end, None if it does not say. `instance_tag` is the tag
    (see `tag_of`) of the instance that is asked, which alone answers; 0 asks any.
    """

    sequence: int
    token: int
    sessions: int | None = None
    instance_tag: int = 0

    def __attrs_post_init__(self) -> None:
        _check(self, "sequence", self.sequence, 0, UINT32_MAX)
        _check(self, "token", self.token, 0, UINT64_MAX)
        _check(self, "instance_tag", self.instance_tag, 0, UINT32_MAX)
        if self.sessions is not None:
            _check(self, "sessions", self.sessions, 0, COUNT_MAX)


@attrs.frozen
class ProbeResponse:
    """The agent's answer: percentages 0..100 and the host's established TCP connections, None where unknown.

    `others` is how many sessions the agent's other proxies have told it of, None if it does not say.
    """

    sequence: int
    token: int
    cpu: int | None
    memory: int | None
    load: int | None
    tcp: int | None
    draining: bool = False
    others: int | None = None

    def __attrs_post_init__(self) -> None:
        _check(self, "sequence", self.sequence, 0, UINT32_MAX)
        _check(self, "token", self.token, 0, UINT64_MAX)
        for name, count in (("tcp", self.tcp), ("others", self.others)):
            if count is not None:
                _check(self, name, count, 0, COUNT_MAX)
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


def tag_of(instance: int) -> int:
    """The instance's tag: its low 32 bits."""
    return instance & UINT32_MAX


def _first_byte(kind: PduType, draining: bool = False) -> int:
    return kind << 5 | VERSION << 3 | (_DRAINING if draining else 0)


def _byte(percentage: int | None) -> int:
    return _UNKNOWN if percentage is None else percentage


def _plus_one(count: int | None) -> int:
    """A count that need not be said: 0 says nothing."""
    return 0 if count is None else count + 1


def _minus_one(field: int) -> int | None:
    return field - 1 if field else None


def encode(pdu: Pdu) -> bytes:
    """The 24 bytes of `pdu`."""
    match pdu:
        case ProbeRequest():
            first = _first_byte(PduType.PROBE_REQUEST)
            return _PROBE_REQUEST.pack(first, pdu.sequence, pdu.token, _plus_one(pdu.sessions), pdu.instance_tag)
        case ProbeResponse():
            return _PROBE_RESPONSE.pack(
                _first_byte(PduType.PROBE_RESPONSE, pdu.draining),
                _byte(pdu.cpu),
                _byte(pdu.memory),
                _byte(pdu.load),
                pdu.sequence,
                pdu.token,
                _UNKNOWN_TCP if pdu.tcp is None else pdu.tcp,
                _plus_one(pdu.others),
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
    _, sequence, token, sessions, instance_tag = _PROBE_REQUEST.unpack(data)
    return ProbeRequest(sequence, token, _minus_one(sessions), instance_tag)


def _decode_probe_response(data: bytes) -> ProbeResponse:
    first, cpu, memory, load, sequence, token, tcp, others = _PROBE_RESPONSE.unpack(data)
    return ProbeResponse(
        sequence,
        token,
        _percentage(cpu),
        _percentage(memory),
        _percentage(load),
        None if tcp == _UNKNOWN_TCP else tcp,
        bool(first & _DRAINING),
        _minus_one(others),
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
