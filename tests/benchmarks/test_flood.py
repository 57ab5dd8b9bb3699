"""A small flood, and what it is made of."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import attrs
import pytest

from rproxy.wire.pdu import Flaw, MalformedPdu, Register, decode
from rproxy.wire.seal import Envelope, Key, Sealed, Unsealed
from tests.benchmarks.flood import Clients, Measured, Phase, options, outcomes, reasons, running, wrk_p99_ms
from tests.benchmarks.flooder import KINDS, datagrams
from tests.benchmarks.peers import programs
from tests.benchmarks.peers.programs import ProgramFailed
from tests.conftest import need

SEALED = Sealed((Key(1, b"k" * 32),))
SOURCE = "127.0.0.7"


def taken(envelope: Envelope, datagram: bytes) -> object:
    """What a monitor makes of it."""
    try:
        return decode(envelope.open(datagram, SOURCE))
    except MalformedPdu as error:
        return error.flaw


@pytest.mark.parametrize(("envelope", "strange"), [(Unsealed(), Flaw.SEALED), (SEALED, Flaw.SEAL)])
def test_a_flood_is_of_all_kinds(envelope: Envelope, strange: Flaw) -> None:
    made = [taken(envelope, each) for each in islice(datagrams(Random(1), envelope, SOURCE, [80, 81]), 6 * KINDS)]
    flaws = Counter(each for each in made if isinstance(each, Flaw))
    assert flaws == {Flaw.LENGTH: 12, Flaw.TYPE: 3, Flaw.VERSION: 3, strange: 6}
    ports = [each.service_port for each in made if isinstance(each, Register)]
    assert len(ports) == 6
    assert (ports.count(80), ports.count(81)) == (2, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_a_small_flood_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("nginx", "wrk")
    monkeypatch.setattr(programs, "LARGE_BYTES", 4096)
    chosen = options(["--seconds", "0.3", "--rate", "100", "--flood-rate", "2000"])
    with running("keyed", chosen, tmp_path) as bench:
        found = bench.phase("flood")
    assert found.sent_s > 0
    assert {"length", "type", "version", "rate-limited", "seal"} <= set(found.refused)
    assert found.clients.kept_per_s > 0
    assert found.clients.closed_p99_ms > 0


WRK = """  Latency Distribution
     50%    2.19ms
     75%    2.69ms
     90%    3.31ms
     99%    {p99}
  52276 requests in 2.01s, 16.85MB read
"""


@pytest.mark.parametrize(("p99", "ms"), [("6.53ms", 6.53), ("812.00us", 0.812), ("1.05s", 1050.0)])
def test_the_p99_of_wrk_is_understood(p99: str, ms: float) -> None:
    assert wrk_p99_ms(WRK.format(p99=p99)) == pytest.approx(ms)


def test_a_wrk_that_tells_no_p99_has_failed() -> None:
    with pytest.raises(ProgramFailed, match="no p99"):
        wrk_p99_ms("52276 requests in 2.01s")


CLIENTS = Clients(500.0, 2.0, 100.0, 10.0, 1.0)
PEACE = Phase(CLIENTS, busy=50.0, sent_s=0.0, kernel_drops=0, refused=Counter(), downs=0, lines=0)
FLOOD = attrs.evolve(PEACE, sent_s=49_000.0, kernel_drops=5, refused=Counter(length=30, seal=10), lines=2)
CONTROL = attrs.evolve(PEACE, sent_s=50_000.0)


def measured(*floods: Phase) -> Measured:
    return Measured([[PEACE, flood, CONTROL] for flood in floods])


def missed(*floods: Phase) -> list[str]:
    return [row.figure for row in outcomes(measured(*floods), 50_000.0) if row.reached is False]


def test_each_aim_is_judged_by_itself() -> None:
    assert missed(FLOOD) == []
    assert missed(attrs.evolve(FLOOD, clients=attrs.evolve(CLIENTS, kept_p99_ms=6.1, closed_p99_ms=30.0))) == [
        "… p99 ms"
    ]
    assert missed(attrs.evolve(FLOOD, sent_s=40_000.0)) == ["datagrams/s"]


def test_one_slow_round_is_forgiven_and_one_lost_backend_is_not() -> None:
    slow = attrs.evolve(FLOOD, clients=attrs.evolve(CLIENTS, kept_p99_ms=100.0))
    assert missed(FLOOD, slow, FLOOD) == []
    assert missed(slow, slow, FLOOD) == ["… p99 ms"]
    assert missed(FLOOD, FLOOD, attrs.evolve(FLOOD, downs=1)) == ["back-ends that went down"]


def test_growth_is_the_median_of_the_rounds_ratios() -> None:
    def round_(peace: float, flood: float) -> list[Phase]:
        return [attrs.evolve(each, busy=busy) for each, busy in [(PEACE, peace), (FLOOD, flood), (CONTROL, 1.0)]]

    made = Measured([round_(1.0, 5.0), round_(10.0, 20.0), round_(100.0, 100.0)])
    assert made.growth(lambda phase: phase.busy) == 2.0
    assert made.medians(lambda phase: phase.busy) == [10.0, 20.0, 1.0]
    assert made.totals(lambda phase: phase.lines) == [0, 6, 0]


def test_what_was_dropped_is_told_by_reason() -> None:
    assert reasons(measured(FLOOD, FLOOD)) == "Dropped by the proxy in the floods: 60 length, 20 seal."


@pytest.mark.parametrize("option", ["--rounds", "--seconds", "--rate", "--flood-rate"])
def test_nothing_to_do_is_refused(option: str) -> None:
    with pytest.raises(SystemExit):
        options([option, "0"])
