"""What the monitor logs with a trace."""

from __future__ import annotations

import pytest

from rproxy.wire.pdu import (
    ProbeRequest,
    ProbeResponse,
    Register,
)
from tests.fakes import logged, run, texts
from tests.sources.monitoring import AGENT, Bench


def test_a_trace_logs_every_pdu_in_and_out_and_what_the_round_trip_came_to() -> None:
    """The lines of the report's figures 5.2 to 5.10."""
    bench = Bench(trace=True)
    with logged() as events:
        bench.up()
    request, response = ProbeRequest(0, 1000, sessions=0, instance_tag=1), ProbeResponse(0, 1000, 17, 89, None, 3)
    assert [event["pdu"] for event in events if "pdu" in event] == [Register(80, 20_000, 1), request, response]
    assert [event["source"] for event in events if "source" in event] == [AGENT[0], AGENT[0]]
    measured = next(event for event in events if "sample_ms" in event)
    assert (measured["sample_ms"], measured["smoothed_ms"]) == (pytest.approx(10), pytest.approx(176.25))
    lines = texts(events)
    assert f">> [10.0.0.1] {Register(80, 20_000, 1)}" in lines
    assert f"<< [10.0.0.1:80] {request}" in lines
    assert ":: [10.0.0.1:80] RTT sample 10.000 ms, smoothed 176.250 ms" in lines


def test_a_trace_logs_losses_and_what_was_dropped_and_why() -> None:
    bench = Bench(trace=True)
    bench.silent.add(AGENT[0])
    bench.register()
    with logged() as events:
        run(bench.clock, 0.5)
        bench.monitor.datagramReceived(b"garbage", AGENT)
    assert ":: [10.0.0.1:80] probe lost, 1 in a row" in texts(events)
    assert texts(events)[-1] == ">> [10.0.0.1] dropped: length"


def test_without_a_trace_no_pdu_is_logged() -> None:
    bench = Bench()
    bench.up()
    with logged() as events:
        bench.register()
        bench.receive(ProbeRequest(0, 1))
        run(bench.clock, 20)
    assert list(events) == []
