"""How loaded this host is: the samplers an agent can report from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import attrs
import psutil

from rproxy.wire.pdu import COUNT_MAX

FRESH_S: Final = 0.5
"""A sample this young is given out again: CPU use over a shorter time means nothing, and probes may come in bursts."""

_SNMP: Final = "/proc/net/snmp"


@attrs.frozen
class Load:
    """One sample: percentages 0..100 and established TCP connections, None where unknown."""

    cpu: int | None = None
    memory: int | None = None
    tcp: int | None = None
    application: int | None = None


class Sampler(Protocol):
    """The seam for a source of load figures."""

    def sample(self) -> Load: ...


def established() -> int:
    """The host's established TCP connections, both families.

    On Linux the kernel's own counter (RFC 4022's tcpCurrEstab, which includes CLOSE-WAIT): one short read, however
    many there are. Elsewhere psutil counts the list.
    """
    try:
        with open(_SNMP, encoding="ascii") as snmp:
            names, values = (line.split() for line in snmp if line.startswith("Tcp:"))
    except OSError:
        return sum(1 for connection in psutil.net_connections("tcp") if connection.status == psutil.CONN_ESTABLISHED)
    return int(values[names.index("CurrEstab")])


class HostSampler:
    """This host, by psutil: CPU averaged since the previous sample, as the report has it (chapter 4.1.1)."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._sampled_at = float("-inf")
        self._load = Load()
        psutil.cpu_percent()

    def sample(self) -> Load:
        now = self._seconds()
        if now - self._sampled_at >= FRESH_S:
            self._sampled_at = now
            cpu = round(psutil.cpu_percent())
            memory = round(psutil.virtual_memory().percent)
            self._load = Load(cpu=min(cpu, 100), memory=min(memory, 100), tcp=min(established(), COUNT_MAX))
        return self._load


@attrs.frozen
class FixedSampler:
    """Another sampler with some figures replaced: the report's test 2."""

    sampler: Sampler
    cpu: int | None = None
    memory: int | None = None
    tcp: int | None = None

    def sample(self) -> Load:
        load = self.sampler.sample()
        return attrs.evolve(
            load,
            cpu=load.cpu if self.cpu is None else self.cpu,
            memory=load.memory if self.memory is None else self.memory,
            tcp=load.tcp if self.tcp is None else self.tcp,
        )
