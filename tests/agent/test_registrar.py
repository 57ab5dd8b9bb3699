"""When an agent registers with its proxy, and which probes it believes."""

from __future__ import annotations

import pytest

from rproxy.agent.registrar import Registration
from rproxy.net.addresses import Address
from rproxy.wire.pdu import ProbeResponse
from tests.agent.bench import (
    FOUR,
    FURTHER,
    HINT,
    INSTANCE,
    OTHER,
    OWN,
    PROXY,
    REGISTER,
    SIX,
    Bench,
    KeyedBench,
    Names,
    named,
    run_probed,
)
from tests.fakes import logged, run, texts


def test_it_registers_what_it_serves_as_soon_as_it_starts() -> None:
    assert Bench().transport.sent == [(REGISTER, PROXY)]


def test_it_registers_at_every_interval_while_it_is_probed() -> None:
    bench = Bench()
    run_probed(bench, 61)
    assert bench.registered() == [0, 20, 40, 60]


def test_unprobed_it_registers_after_1_2_and_4_seconds_and_so_on_up_to_10() -> None:
    bench = Bench()
    run(bench.clock, 60)
    retries = [0, 1, 3, 7, 15, 25, 35, 45, 55]
    assert bench.registered() == sorted({*retries, 20, 40, 60})


def test_no_wait_is_longer_than_the_interval() -> None:
    bench = Bench(interval_s=3)
    run(bench.clock, 10.5)
    assert bench.registered() == [0, 1, 3, 3, 6, 6, 9, 9]


def test_the_first_probe_ends_the_retries() -> None:
    bench = Bench()
    run(bench.clock, 1.5)
    run_probed(bench, 17)
    assert bench.registered() == [0, 1]


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_jitter_shortens_the_waits_by_a_tenth_at_most_and_never_lengthens_them(draw: float) -> None:
    bench = Bench(interval_s=1000, jitter=lambda: draw)
    run(bench.clock, 40)
    waits = [later - earlier for earlier, later in zip(bench.registered(), bench.registered()[1:], strict=False)]
    assert waits == pytest.approx([wait * (1 - 0.1 * draw) for wait in (1, 2, 4, 8, 10, 10)])


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_a_proxy_silent_for_12_seconds_is_registered_with_at_once_and_the_retries_start_anew(draw: float) -> None:
    bench = Bench(interval_s=1000, jitter=lambda: draw)
    run(bench.clock, 8)
    bench.probe()
    bench.times.clear()
    run(bench.clock, 20)
    short = 1 - 0.1 * draw
    expected = [8 + wait * short for wait in (12, 12 + 1, 12 + 3, 12 + 7)]
    assert bench.registered() == pytest.approx([at for at in expected if at <= 28])
    assert len(bench.registered()) >= 3


def test_a_proxy_that_goes_on_probing_is_not_registered_with_between_the_intervals() -> None:
    bench = Bench(interval_s=1000)
    for _ in range(10):
        bench.probe()
        run(bench.clock, 11.9)
    assert bench.registered() == [0]


def test_a_probe_touches_no_timer_and_after_a_stop_starts_none() -> None:
    bench = Bench()
    run_probed(bench, 3)
    before = [(call, call.getTime()) for call in bench.clock.getDelayedCalls()]
    bench.probe()
    assert [(call, call.getTime()) for call in bench.clock.getDelayedCalls()] == before
    bench.agent.stopProtocol()
    bench.probe()
    assert bench.clock.getDelayedCalls() == []


def test_the_first_probe_and_a_silence_are_logged_once_each() -> None:
    bench = Bench()
    with logged() as events:
        run_probed(bench, 30)
        run(bench.clock, 60)
    assert texts(events) == [
        "10.1.1.10:5555 probes this agent",
        "10.1.1.10:5555 has stopped probing; registering again",
        HINT,
    ]


def test_a_probe_from_elsewhere_does_not_pass_for_the_proxys() -> None:
    bench = Bench()
    for _ in range(4):
        bench.probe(OTHER)
        run(bench.clock, 1)
    assert bench.registered() == [0, 1, 3]


def test_several_proxies_are_registered_with_and_kept_apart() -> None:
    bench = Bench(PROXY, OTHER, interval_s=1000)
    run_probed(bench, 8, OTHER)
    assert bench.registered(PROXY) == [0, 1, 3, 7]
    assert bench.registered(OTHER) == [0]
    run_probed(bench, 11, PROXY)
    assert bench.registered(PROXY) == [0, 1, 3, 7]
    assert bench.registered(OTHER) == [0, 7 + 12]


def test_an_exception_in_the_registering_loop_is_logged_and_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    run_probed(bench, 19)
    with logged() as events, monkeypatch.context() as broken:
        broken.setattr(bench.agent, "send", lambda *_: 1 / 0)
        run(bench.clock, 2)
    assert [event["log_failure"].type for event in events if "log_failure" in event] == [ZeroDivisionError]
    run_probed(bench, 25)
    assert bench.registered() == [0, 40]


@pytest.mark.parametrize(("interval_s", "interval_ms"), [(20, 20_000), (0.0005, 1), (0.25, 250), (1e-9, 1)])
def test_the_interval_on_the_wire_is_in_milliseconds_and_never_zero(interval_s: float, interval_ms: int) -> None:
    assert Registration(interval_s, INSTANCE).interval_ms == interval_ms


def test_what_is_sent_to_each_address_is_sealed_for_the_local_address_that_it_sees() -> None:
    bench = KeyedBench(named(FOUR, SIX))
    run(bench.clock, 1.5)
    assert [address for _, address in bench.take()] == [FOUR, SIX]
    bench.probe(SIX)
    ((answer, address),) = bench.take()
    assert (type(answer), address) == (ProbeResponse, SIX)
    run(bench.clock, 12.5)
    assert [address for _, address in bench.take()] == [SIX]


def test_an_old_probe_that_is_sent_again_does_not_pass_for_a_proxy_that_lives() -> None:
    bench = KeyedBench(named(FOUR))
    for _ in range(10):
        bench.probe()
        run(bench.clock, 5)
    bench.take()
    with logged() as events:
        for _ in range(5):
            bench.agent.datagramReceived(bench.recorded[3], FOUR)
            assert ProbeResponse in {type(pdu) for pdu, _ in bench.take()}
            run(bench.clock, 4)
    assert "proxy:5555 has stopped probing; registering again" in texts(events)
    assert bench.agent.counters["stale-probe"] == 5


def test_a_restarted_proxy_is_registered_with_in_time_while_its_whole_former_life_is_sent_again_in_order() -> None:
    names = named(FOUR)
    bench = KeyedBench(names)
    for _ in range(100):
        bench.probe()
        run(bench.clock, 5)
    former = bench.recorded.copy()
    bench.restart_proxy()
    for _ in range(3):  # it is started again, and again
        bench.probe()
        run(bench.clock, 5)
    bench.take()
    names.asked.clear()
    for datagram in former[:40]:
        bench.agent.datagramReceived(datagram, FOUR)
        run(bench.clock, 1)
    assert bench.registrations() >= 40 / 12
    assert len(names.asked) >= 40 / 12
    bench.restart_proxy()
    with logged() as events:
        bench.probe()
    assert texts(events) == ["proxy:5555 (10.1.1.10:5555) probes this agent"]


def test_an_old_probe_of_another_address_of_the_name_is_no_reason_to_go_there() -> None:
    bench = KeyedBench(named(FOUR, SIX))
    run(bench.clock, 1.5)
    bench.probe(SIX)
    old = bench.recorded[-1]
    run(bench.clock, 12.5)
    run(bench.clock, 1)
    bench.take()
    bench.agent.datagramReceived(old, SIX)
    bench.take()
    bench.probe(FOUR)
    run(bench.clock, 1)
    bench.agent.datagramReceived(old, SIX)
    assert [address for _, address in bench.take()] == [FOUR]


def others_told(bench: KeyedBench, source: Address) -> int | None:
    """What the last answer told the proxy at `source`."""
    pdu, address = bench.take()[-1]
    assert isinstance(pdu, ProbeResponse)
    assert address == source
    return pdu.others


@pytest.fixture
def two_proxies(monkeypatch: pytest.MonkeyPatch) -> KeyedBench:
    """At `FOUR` and `FURTHER`, which see the agent at the same address."""
    monkeypatch.setitem(OWN, FURTHER, OWN[FOUR])
    return KeyedBench(Names(proxy=FOUR[0], further=FURTHER[0]), 1000, "proxy", "further")


def test_a_replayed_probe_changes_nothing_that_the_other_proxies_are_told(two_proxies: KeyedBench) -> None:
    """Neither from its own proxy's address nor from that of another one, which the seal does not cover."""
    bench = two_proxies
    bench.probe(FOUR, 3)
    bench.restart_proxy()
    bench.probe(FURTHER, 40)
    bench.restart_proxy()
    bench.probe(FOUR, 5)
    assert others_told(bench, FOUR) == 40
    bench.restart_proxy()
    old, further, _ = bench.recorded
    for source in (FOUR, FURTHER):
        bench.agent.datagramReceived(old, source)
    assert bench.agent.counters["stale-probe"] == 2
    bench.agent.datagramReceived(further, FURTHER)
    assert others_told(bench, FURTHER) == 5
    bench.probe(FOUR, 5)
    assert others_told(bench, FOUR) == 40


def test_another_proxys_probe_that_is_replayed_does_not_pass_for_a_proxy_that_lives(two_proxies: KeyedBench) -> None:
    bench = two_proxies
    bench.probe(FURTHER)
    with logged() as events:
        for _ in range(15):
            bench.probe(FOUR)
            bench.agent.datagramReceived(bench.recorded[-1], FURTHER)
            run(bench.clock, 1)
    assert "further:5555 has stopped probing; registering again" in texts(events)
    assert bench.agent.counters["stale-probe"] == 15
