"""How an agent finds its proxy among the addresses of a name, and follows it to others."""

from __future__ import annotations

from rproxy.agent.registrar import LOOKUP_S
from tests.agent.bench import FOUR, FURTHER, OTHER, PROXY, REGISTER, SIX, Bench, Names, is_address, named, run_probed
from tests.fakes import logged, run, texts


def bench_of(names: Names, interval_s: float = 20) -> Bench:
    return Bench(("proxy", 5555), interval_s=interval_s, resolve=names.resolve)


def tried(bench: Bench) -> list[tuple[float, str]]:
    return [(at, host) for at, (host, _) in bench.times]


def test_a_name_is_looked_up_and_its_address_registered_with() -> None:
    names = Names(proxy="10.1.1.10")
    bench = Bench(("proxy", 5555), resolve=names.resolve)
    assert names.asked == ["proxy"]
    assert bench.transport.sent == [(REGISTER, PROXY)]


def test_a_slow_look_up_holds_up_nothing_and_is_not_started_twice() -> None:
    names = Names()
    names.hold = True
    bench = Bench(
        ("proxy", 5555), OTHER, resolve=lambda host: names.resolve(host) if host == "proxy" else is_address(host)
    )
    run(bench.clock, 10)
    assert names.asked == ["proxy"]
    assert bench.registered() == []
    assert bench.registered(OTHER) == [0, 1, 3, 7]
    names.held[0].callback(["10.1.1.10"])
    assert bench.registered() == [10]


def test_a_name_that_cannot_be_found_is_looked_up_again_and_logged_once() -> None:
    names = Names()
    with logged() as events:
        bench = Bench(("proxy", 5555), resolve=names.resolve)
        run(bench.clock, 10)
        assert len(names.asked) == 4
        names.hosts["proxy"] = ["10.1.1.10"]
        run(bench.clock, 5)
    assert bench.registered() == [15]
    assert bench.agent.counters == {"unresolved": 4}
    (line,) = texts(events)
    assert "proxy:5555" in line
    assert "Name or service not known" in line


def test_a_known_address_is_not_looked_up_while_the_proxy_probes() -> None:
    names = Names(proxy="10.1.1.10")
    bench = Bench(("proxy", 5555), resolve=names.resolve)
    run_probed(bench, 61)
    assert names.asked == ["proxy"]


def test_a_proxy_that_moved_is_found_at_its_new_address_once_it_has_fallen_silent() -> None:
    names = Names(proxy="10.1.1.10")
    bench = Bench(("proxy", 5555), interval_s=1000, resolve=names.resolve)
    bench.probe()
    names.hosts["proxy"] = ["10.1.1.20"]
    run(bench.clock, 14)
    assert bench.registered(("10.1.1.20", 5555)) == [12, 13]
    bench.transport.take()
    bench.probe(("10.1.1.10", 5555))
    assert bench.transport.sent == []
    bench.probe(("10.1.1.20", 5555))
    assert [address for _, address in bench.transport.sent] == [("10.1.1.20", 5555)]


def test_a_failed_look_up_keeps_the_address_that_was_known() -> None:
    names = Names(proxy="10.1.1.10")
    bench = Bench(("proxy", 5555), interval_s=1000, resolve=names.resolve)
    bench.probe()
    names.hosts.clear()
    run(bench.clock, 12.5)
    assert bench.registered() == [0, 12]


def test_all_addresses_of_a_name_are_tried_in_turn_and_the_waits_grow_by_the_round() -> None:
    bench = bench_of(named(FOUR, SIX, FURTHER), interval_s=1000)
    run(bench.clock, 9.5)
    four, six, further = FOUR[0], SIX[0], FURTHER[0]
    assert tried(bench) == [(0, four), (1, six), (2, further), (3, four), (5, six), (7, further), (9, four)]


def test_the_first_address_that_probes_is_kept_to() -> None:
    bench = bench_of(named(FOUR, SIX), interval_s=10)
    run(bench.clock, 1.5)
    with logged() as events:
        run_probed(bench, 40, SIX)
    assert [host for _, host in tried(bench)] == [FOUR[0], SIX[0], SIX[0], SIX[0], SIX[0], SIX[0]]
    assert texts(events) == ["proxy:5555 ([2001:db8::10]:5555) probes this agent"]


def test_an_address_that_was_tried_before_may_still_answer() -> None:
    bench = bench_of(named(FOUR, SIX), interval_s=1000)
    run(bench.clock, 1.5)
    bench.transport.take()
    bench.probe(FOUR)
    assert [address for _, address in bench.transport.take()] == [FOUR]
    bench.probe(SIX)  # late: it would be a second back-end, of the same host
    assert bench.transport.take() == []
    assert bench.agent.counters == {"wrong-source": 1}


def test_after_a_silence_the_address_that_probed_has_the_first_turn() -> None:
    bench = bench_of(named(FOUR, SIX), interval_s=1000)
    run(bench.clock, 1.5)
    bench.probe(SIX)
    bench.times.clear()
    run(bench.clock, 15)
    assert tried(bench) == [(13.5, SIX[0]), (14.5, FOUR[0]), (15.5, SIX[0])]


def test_an_order_that_changes_changes_nothing() -> None:
    names = named(FOUR, SIX)
    bench = bench_of(names, interval_s=1000)
    names.hosts["proxy"].reverse()
    run(bench.clock, 3.5)
    assert [host for _, host in tried(bench)] == [FOUR[0], SIX[0], FOUR[0]]


def test_no_more_than_some_addresses_are_tried() -> None:
    names = Names()
    names.hosts["proxy"] = [f"10.0.{number // 256}.{number % 256}" for number in range(1000)]
    bench = bench_of(names, interval_s=1000)
    run(bench.clock, 40)
    assert {host for _, host in tried(bench)} == set(names.hosts["proxy"][:16])


def test_a_name_is_looked_up_every_5_minutes_also_while_its_proxy_probes() -> None:
    names = named(FOUR)
    bench = bench_of(names)
    run_probed(bench, 3 * LOOKUP_S + 1)
    assert len(names.asked) == 4


def test_a_proxy_that_has_moved_is_followed_once_it_probes_from_its_new_address() -> None:
    names = named(FOUR)
    bench = bench_of(names, interval_s=10)
    run_probed(bench, LOOKUP_S - 1, FOUR)
    names.hosts["proxy"] = [FURTHER[0]]
    bench.times.clear()
    run_probed(bench, 22, FOUR)
    assert {host for _, host in tried(bench)} == {FOUR[0], FURTHER[0]}
    bench.transport.take()
    with logged() as events:
        bench.probe(FURTHER)
        bench.probe(FOUR)
    assert [address for _, address in bench.transport.take()] == [FURTHER]
    assert texts(events) == ["proxy:5555 (10.1.1.20:5555) probes this agent"]
    bench.times.clear()
    run_probed(bench, 21, FURTHER)
    assert {host for _, host in tried(bench)} == {FURTHER[0]}


def test_a_name_that_no_longer_resolves_does_not_affect_a_proxy_that_probes() -> None:
    names = named(FOUR)
    bench = bench_of(names)
    run_probed(bench, LOOKUP_S - 1, FOUR)
    names.hosts.clear()
    bench.transport.take()
    run_probed(bench, 2 * LOOKUP_S, FOUR)
    assert {address for _, address in bench.transport.take()} == {FOUR}


def test_two_names_of_one_proxy_are_both_probed() -> None:
    bench = Bench(("one", 5555), ("other", 5555), resolve=lambda host: is_address(PROXY[0]))
    with logged() as events:
        run_probed(bench, 30)
    assert sorted(texts(events)) == [
        "one:5555 (10.1.1.10:5555) probes this agent",
        "other:5555 (10.1.1.10:5555) probes this agent",
    ]
