"""Which clients a service takes, and how many of each."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from rproxy.net.addresses import Network
from rproxy.sessions.client_gate import ClientGate, ClientRules
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.fakes import logged, run, texts


def networks(*names: str) -> tuple[Network, ...]:
    return tuple(ip_network(name) for name in names)


class Bench:
    def __init__(self, rules: ClientRules) -> None:
        self.clock = Clock()
        self.gate = ClientGate(self.clock, rules)

    def admitted(self, *hosts: str) -> list[bool]:
        return [self.gate.admit(host) for host in hosts]

    @property
    def table(self) -> dict[bytes, int]:
        return self.gate._sessions


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    with logged():
        yield


def test_without_rules_everybody_is_admitted_and_counted() -> None:
    bench = Bench(ClientRules())
    assert ClientRules().are_none
    assert bench.admitted("192.0.2.1", "192.0.2.1", "2001:db8::1") == [True] * 3
    assert sorted(bench.table.values()) == [1, 2]


def test_clients_of_other_networks_are_refused() -> None:
    bench = Bench(ClientRules(clients=networks("10.0.0.0/8", "2001:db8::/32")))
    assert bench.admitted("10.1.2.3", "11.0.0.1", "2001:db8::7", "2001:db9::7") == [True, False, True, False]
    assert bench.gate.refused == {"clients": 2}


def test_who_is_denied_is_refused_even_if_of_the_clients() -> None:
    bench = Bench(ClientRules(networks("10.0.0.0/8"), networks("10.9.0.0/16")))
    assert bench.admitted("10.1.2.3", "10.9.0.1", "192.0.2.1") == [True, False, False]
    assert bench.gate.refused == {"deny": 1, "clients": 1}


def test_who_is_not_denied_is_admitted() -> None:
    assert Bench(ClientRules(deny=networks("10.9.0.0/16"))).admitted("10.1.2.3", "10.9.0.1", "::1") == [
        True,
        False,
        True,
    ]


def test_a_client_has_so_many_sessions_at_once_and_no_more() -> None:
    bench = Bench(ClientRules(sessions_max=2))
    assert bench.admitted(*["192.0.2.1"] * 4, "192.0.2.2") == [True, True, False, False, True]
    bench.gate.leave("192.0.2.1")
    assert bench.admitted("192.0.2.1", "192.0.2.1") == [True, False]
    assert bench.gate.refused == {"max-connections-per-client": 3}


def test_clients_of_one_ipv6_network_of_64_bits_are_one() -> None:
    bench = Bench(ClientRules(sessions_max=1))
    assert bench.admitted("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1") == [True, False, True]


def test_a_client_has_so_many_new_sessions_a_second() -> None:
    bench = Bench(ClientRules(rate=2.0))
    assert bench.admitted(*["192.0.2.1"] * 3, "192.0.2.2") == [True, True, False, True]
    bench.clock.advance(0.5)
    assert bench.admitted("192.0.2.1", "192.0.2.1") == [True, False]
    assert bench.gate.refused == {"connections-per-second-per-client": 2}


def test_who_is_refused_for_another_reason_does_not_use_up_the_rate() -> None:
    bench = Bench(ClientRules(sessions_max=1, rate=2.0))
    assert bench.admitted(*["192.0.2.1"] * 5) == [True] + [False] * 4
    bench.gate.leave("192.0.2.1")
    assert bench.admitted("192.0.2.1") == [True]


@given(steps=st.lists(st.tuples(st.sampled_from(["admit", "leave", "count"]), st.integers(0, 4)), max_size=100))
def test_counts_are_those_of_the_sessions_and_nothing_is_left_of_who_has_none(steps: list[tuple[str, int]]) -> None:
    bench, model = Bench(ClientRules(sessions_max=3)), [0] * 5
    for step, number in steps:
        host = f"192.0.2.{number}"
        if step == "count":
            bench.gate.count(host)
            model[number] += 1
        elif step == "admit":
            admitted = bench.gate.admit(host)
            assert admitted is (model[number] < 3)
            model[number] += admitted
        elif model[number]:
            bench.gate.leave(host)
            model[number] -= 1
    assert sorted(bench.table.values()) == sorted(count for count in model if count)


def test_new_rules_apply_at_once_and_counts_stay() -> None:
    bench = Bench(ClientRules())
    assert bench.admitted(*["192.0.2.1"] * 3) == [True] * 3
    bench.gate.apply(ClientRules(sessions_max=3))
    assert bench.admitted("192.0.2.1") == [False]
    bench.gate.leave("192.0.2.1")
    assert bench.admitted("192.0.2.1") == [True]
    bench.gate.apply(ClientRules(deny=networks("192.0.2.0/24")))
    assert bench.admitted("192.0.2.1") == [False]
    bench.gate.apply(ClientRules())
    assert bench.admitted("192.0.2.1") == [True]
    for _ in range(4):
        bench.gate.leave("192.0.2.1")
    assert bench.table == {}


def test_new_rules_with_the_same_rate_do_not_grant_it_again() -> None:
    bench = Bench(ClientRules(rate=1.0))
    assert bench.admitted("192.0.2.1", "192.0.2.1") == [True, False]
    bench.gate.apply(ClientRules(sessions_max=9, rate=1.0))
    assert bench.admitted("192.0.2.1") == [False]
    bench.gate.apply(ClientRules(rate=2.0))
    assert bench.admitted("192.0.2.1") == [True]


def test_refusals_are_a_line_at_once_and_then_one_in_ten_seconds() -> None:
    bench = Bench(ClientRules(deny=networks("10.0.0.0/8"), sessions_max=1))
    with logged() as events:
        bench.admitted("192.0.2.1", "192.0.2.1")
        assert texts(events) == ["1 client(s) refused: max-connections-per-client (1); most often 192.0.2.1 (1)"]
        bench.admitted("10.0.0.1", *["192.0.2.1"] * 5, "10.0.0.2")
        bench.admitted("2001:db8::1", *["2001:db8::5"] * 9)
        assert len(events) == 1
        run(bench.clock, LOG_EVERY_S)
        assert texts(events)[1:] == [
            "16 client(s) refused: max-connections-per-client (14), deny (2); most often 2001:db8::/64 (9)"
        ]
        run(bench.clock, 5 * LOG_EVERY_S)
    assert len(events) == 2
    assert {event["log_level"] for event in events} == {LogLevel.warn}
    assert bench.clock.calls == []


def test_the_worst_is_named_among_any_number_of_others() -> None:
    bench = Bench(ClientRules(deny=networks("::/0", "10.0.0.0/8")))
    bench.admitted("10.0.0.1")
    with logged() as events:
        for number in range(3000):
            bench.admitted("10.0.0.7" if number % 3 == 0 else f"2001:db8:{number:x}::1")
        run(bench.clock, LOG_EVERY_S)
    (line,) = texts(events)
    assert "3000 client(s) refused: deny (3000); most often 10.0.0.7 (" in line
    assert line.endswith("or more)")


def test_a_stop_logs_the_rest_and_leaves_no_timer() -> None:
    bench = Bench(ClientRules(deny=networks("10.0.0.0/8")))
    bench.admitted("10.0.0.1", "10.0.0.2")
    with logged() as events:
        bench.gate.stop()
        bench.gate.stop()
    assert len(events) == 1
    assert bench.clock.calls == []
