"""A peer that speaks the monitoring protocol datagram by datagram; and datagrams that must change nothing."""

from __future__ import annotations

import secrets
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

import attrs

from rproxy.net.addresses import Address
from rproxy.wire import pdu, seal
from rproxy.wire.keyfile import parse_keys
from rproxy.wire.pdu import Pdu, ProbeRequest, ProbeResponse, Register, Unregister, decode, encode
from rproxy.wire.seal import Envelope, Key, Sealed, Unsealed
from tests.integration.addresses import LOOPBACK
from tests.integration.polling import READY_S, SOCKET_S, poll
from tests.integration.sockets import is_readable

ELSEWHERE: Final = "127.0.0.2"
INSTANCE: Final = 0x0123456789ABCDEF
REGISTER: Final = Register(service_port=80, interval_ms=20_000, instance=INSTANCE)
PROBE: Final = ProbeRequest(sequence=7, token=8)
RESPONSE: Final = ProbeResponse(sequence=7, token=8, cpu=10, memory=20, load=30, tcp=40)
UNREGISTER: Final = Unregister(service_port=80, instance=INSTANCE)
EVERY_KIND: Final = (REGISTER, PROBE, RESPONSE, UNREGISTER)
KEY_ID: Final = pdu.SIZE
"""Offset of the key id in a keyed PDU."""
LARGEST: Final = 65_507
"""Bytes: the largest UDP payload over IPv4."""
_BATCH: Final = 32

T = TypeVar("T")
Reasoned = tuple[bytes, str]
"""A datagram, and the reason for which the proxy must drop it."""


@attrs.frozen
class Mode:
    """Plain or keyed PDUs; `options` are those of proxy and agent for it."""

    envelope: Envelope = Unsealed()
    keys: tuple[Key, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def keyed(cls, keyring: Path) -> Self:
        keys = parse_keys(keyring.read_text())
        return cls(Sealed(keys), keys, ("--keyring", str(keyring)))


PLAIN: Final = Mode()


class Peer:
    """A socket that sends given datagrams to `other`. PDUs are sealed for the agent at `agent`."""

    def __init__(self, mode: Mode, other: Address | None = None, host: str = LOOPBACK, *, agent: str = "") -> None:
        self.other = other
        self._mode = mode
        self._agent = agent or host
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.settimeout(SOCKET_S)

    def close(self) -> None:
        self._socket.close()

    @property
    def address(self) -> Address:
        host, port = self._socket.getsockname()
        return host, port

    def seal(self, data: bytes) -> bytes:
        return self._mode.envelope.seal(data, self._agent)

    def sealed(self, message: Pdu) -> bytes:
        return self.seal(encode(message))

    def send(self, datagram: bytes) -> None:
        assert self.other is not None
        self._socket.sendto(datagram, self.other)

    def tell(self, message: Pdu) -> None:
        self.send(self.sealed(message))

    def hear(self) -> Pdu:
        """Receive the next PDU; its sender becomes `other`. Raises `TimeoutError` or `MalformedPdu`."""
        datagram, self.other = self._socket.recvfrom(LARGEST)
        return decode(self._mode.envelope.open(datagram, self._agent))

    def hear_probe(self) -> ProbeRequest:
        probe = self.hear()
        assert isinstance(probe, ProbeRequest), probe
        return probe

    def heard(self) -> list[bytes]:
        """The datagrams that have arrived."""
        datagrams = []
        while is_readable(self._socket):
            datagrams.append(self._socket.recv(LARGEST))
        return datagrams


def answer(probe: ProbeRequest) -> ProbeResponse:
    return ProbeResponse(probe.sequence, probe.token, cpu=0, memory=0, load=None, tcp=0)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def flipped(data: bytes, offset: int, bits: int = 0xFF) -> bytes:
    return patched(data, offset, bytes([data[offset] ^ bits]))


def malformed() -> Iterator[Reasoned]:
    """Datagrams of the size of a plain PDU that are not PDUs."""
    register, response = encode(REGISTER), encode(RESPONSE)
    for kind in (0, 5, 6, 7):
        yield patched(register, 0, bytes([kind << 5])), "type"
    for message in EVERY_KIND:
        for version in (1, 2, 3):
            yield flipped(encode(message), 0, version << 3), "version"
    for offset in (1, 2, 3):
        for percentage in (101, 254):
            yield patched(response, offset, bytes([percentage])), "percentage"
    yield patched(register, 4, bytes(4)), "interval"
    for weight in (0, pdu.WEIGHT_MAX + 1, pdu.UINT32_MAX):
        yield patched(register, 16, weight.to_bytes(4, "big")), "weight"


def uncalled_for() -> Iterator[Reasoned]:
    """Plain PDUs that a proxy rejects from unknown hosts."""
    yield encode(PROBE), "unexpected-probe-request"
    for message in (RESPONSE, UNREGISTER):
        yield encode(message), "unknown"
    for number in (0, pdu.UINT64_MAX):
        yield encode(ProbeResponse(0, number, None, None, None, 0)), "unknown"
        yield encode(ProbeResponse(pdu.UINT32_MAX, number, 100, 100, 100, pdu.COUNT_MAX)), "unknown"
        yield encode(Unregister(0, number)), "unknown"
        yield encode(Unregister(65_535, number)), "unknown"


def misfits(mode: Mode) -> Iterator[Reasoned]:
    """Datagrams of a length that no PDU of the mode has."""
    other_mode = (pdu.SIZE, "unsealed") if mode.keys else (seal.SIZE, "sealed")
    lengths = (0, 1, pdu.SIZE - 1, pdu.SIZE + 1, seal.SIZE - 1, seal.SIZE + 1, LARGEST)
    for length, reason in (other_mode, *((length, "length") for length in lengths)):
        yield (encode(REGISTER) * (LARGEST // pdu.SIZE + 1))[:length], reason


def reasons(datagrams: list[Reasoned]) -> Counter[str]:
    return Counter(reason for _, reason in datagrams)


def bytes_flipped(mode: Mode, peer: Peer) -> Iterator[Reasoned]:
    """PDUs of every type with one byte flipped, from a host that may not register."""
    for message in EVERY_KIND:
        datagram = peer.sealed(message)
        for offset in range(len(datagram)):
            reason = _reason_where_keyed(offset) if mode.keys else _reason_where_plain(message, offset)
            yield flipped(datagram, offset), reason


def _reason_where_keyed(offset: int) -> str:
    return "key-id" if offset == KEY_ID else "seal"


def _reason_where_plain(message: Pdu, offset: int) -> str:
    """Why a PDU with a flipped byte at `offset` is dropped: its field is invalid, or it is a valid PDU of its type."""
    match message:
        case Register():
            return {0: "type", 16: "weight", 17: "weight"}.get(offset, "not-allowed")
        case ProbeResponse():
            return {0: "version", 1: "percentage", 2: "percentage", 3: "percentage"}.get(offset, "unknown")
        case Unregister():
            return {0: "version"}.get(offset, "unknown")
        case _:
            return {0: "type"}.get(offset, "unexpected-probe-request")


def forgeries(mode: Mode, message: Pdu) -> Iterator[Reasoned]:
    """Forgeries of a PDU without the key of the agent at 127.0.0.1."""
    (key,) = mode.keys
    data = encode(message)
    genuine = mode.envelope.seal(data, LOOPBACK)
    for offset, bit in product(range(len(genuine)), range(8)):
        yield flipped(genuine, offset, 1 << bit), _reason_where_keyed(offset)
    yield Sealed((Key(key.id, secrets.token_bytes(32)),)).seal(data, LOOPBACK), "seal"
    yield Sealed((Key(key.id, key.derive(ELSEWHERE), is_derived=True),)).seal(data, LOOPBACK), "seal"
    yield Sealed((Key(key.id + 1, key.secret),)).seal(data, LOOPBACK), "key-id"
    yield data, "unsealed"


def batches(datagrams: Iterable[T]) -> Iterator[list[T]]:
    """Batches small enough for any socket's buffer."""
    rest = iter(datagrams)
    while batch := list(islice(rest, _BATCH)):
        yield batch


class Watched(Protocol):
    """The part of a proxy that these functions use."""

    @property
    def log(self) -> str: ...
    def status(self) -> dict[str, Any]: ...


def send_all(proxy: Watched, datagrams: Iterable[tuple[Peer, bytes]]) -> None:
    """Send no faster than the proxy reads, so that none is lost."""
    for batch in batches(datagrams):
        due = total(proxy) + len(batch)
        for peer, datagram in batch:
            peer.send(datagram)
        poll(lambda due=due: total(proxy) >= due, READY_S, "the datagrams are taken in")  # type: ignore[misc]


def taken(proxy: Watched) -> tuple[Counter[str], Counter[str]]:
    """Datagrams accepted by type, and dropped by reason."""
    counters = proxy.status()["counters"]
    return Counter(counters["accepted"]), Counter(counters["dropped"])


def rows(proxy: Watched) -> dict[Address, tuple[object, ...]]:
    """The columns of the status table that a datagram may change."""
    names = ("state", "weight", "interval_s", "cpu", "memory", "tcp", "loss", "rtt_ms")
    return {(row["address"], row["port"]): tuple(row[name] for name in names) for row in proxy.status()["backends"]}


def total(proxy: Watched) -> int:
    """Datagrams accepted or dropped in all."""
    return sum(counter.total() for counter in taken(proxy))


@contextmanager
def changing_nothing(
    proxy: Watched, dropped: Mapping[str, int], accepted: Mapping[str, int] | None = None
) -> Iterator[None]:
    """Datagrams sent in the block are dropped or accepted as given, and the table does not change.

    They may cause a line in the log, but not one each.
    """
    table, lines = rows(proxy), len(proxy.log.splitlines())
    accepted_before, dropped_before = taken(proxy)
    accepted = accepted or {}
    due = total(proxy) + sum(dropped.values()) + sum(accepted.values())
    yield
    poll(lambda: total(proxy) >= due, READY_S, "all are taken in")
    accepted_now, dropped_now = taken(proxy)
    assert dropped_now - dropped_before == Counter(dropped)
    assert accepted_now - accepted_before == Counter(accepted)
    assert rows(proxy) == table
    said = proxy.log.splitlines()[lines:]
    assert len(said) <= 1, said
