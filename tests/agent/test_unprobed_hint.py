"""What an unprobed agent logs, once."""

from __future__ import annotations

import pytest

from rproxy.wire.pdu import ProbeRequest, Register, encode
from rproxy.wire.seal import Key, Sealed
from tests.agent.bench import HINT, OTHER, PROXY, Bench
from tests.fakes import logged, run, texts


def test_an_unprobed_agent_logs_once_what_may_be_wrong() -> None:
    bench = Bench()
    with logged() as events:
        run(bench.clock, 9)
        assert texts(events) == []
        run(bench.clock, 1000)
    assert texts(events) == [HINT]


def test_the_hint_names_the_host_that_probes_instead_and_is_repeated_if_that_is_seen_late() -> None:
    with logged() as events:
        bench = Bench()
        run(bench.clock, 20)
        assert texts(events) == [HINT]
        for _ in range(100):
            bench.probe(OTHER)
            run(bench.clock, 1)
    assert texts(events) == [HINT, f"{HINT}; probes come from 10.1.1.11:5556, which no --proxy names"]


@pytest.mark.parametrize("seal", [Sealed((Key(9, bytes(32), is_derived=False),)), None])
def test_the_hint_names_an_unknown_prober_whatever_its_seal(seal: Sealed | None) -> None:
    probe = encode(ProbeRequest(0, 1))
    with logged() as events:
        bench = Bench()
        bench.agent.datagramReceived(b"garbage", ("10.1.1.66", 1))
        bench.agent.datagramReceived(seal.seal(probe, "::") if seal else probe, OTHER)
        bench.agent.datagramReceived(encode(Register(80, 1, 1)), ("10.1.1.67", 1))
        run(bench.clock, 1000)
    assert texts(events) == [f"{HINT}; probes come from 10.1.1.11:5556, which no --proxy names"]


def test_unknown_probers_do_not_fill_the_log() -> None:
    with logged() as events:
        bench = Bench()
        for number in range(20_000):
            bench.probe(("10.1.1.11", number))
            run(bench.clock, 0.1)
    assert len(texts(events)) == 1


def test_the_unknown_prober_is_forgotten_when_a_proxy_probes() -> None:
    bench = Bench()
    bench.probe(OTHER)
    bench.probe()
    with logged() as events:
        run(bench.clock, 100)
    assert texts(events)[-1] == HINT
    assert bench.times[0][1] == PROXY
