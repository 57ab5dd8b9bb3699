"""Which addresses are static back-ends: as configured, as names are looked up, and as both change."""

from __future__ import annotations

import socket

import pytest

from rproxy.net.addresses import Address
from rproxy.pool.states import State
from rproxy.sources.static.backends import ADDRESSES_MAX, FIRST_LOOK_UP_S, LOOK_UP_S
from tests.fakes import confirm, logged, registered, texts
from tests.sources.static.bench import PASSED, Bench, entries, entry

UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def named(*addresses: str, port: int = 80) -> Bench:
    """A service whose back-ends are those of one name, which has been found to have these addresses."""
    bench = Bench(entry("db.example", port))
    bench.dials.outcomes |= {(address, port): PASSED for address in addresses}
    bench.start()
    bench.lookups.answer(*addresses)
    bench.run(2)
    return bench


class TestNames:
    def test_every_address_of_either_family_is_a_back_end(self) -> None:
        bench = named("10.0.0.1", "2001:db8::1", "10.0.0.2")
        assert bench.keys == [("10.0.0.1", 80), ("2001:db8::1", 80), ("10.0.0.2", 80)]
        assert {backend.state for backend in bench.pool} == {State.UP}

    def test_it_is_looked_up_again_every_30_seconds(self) -> None:
        bench = named("10.0.0.1")
        for _ in range(3):
            asked = len(bench.lookups.asked)
            bench.run(LOOK_UP_S)
            assert len(bench.lookups.asked) == asked + 1
            bench.lookups.answer("10.0.0.1")

    def test_while_a_lookup_is_under_way_there_is_no_second_one(self) -> None:
        bench = named("10.0.0.1")
        bench.run(300)
        assert len(bench.lookups.asked) == 2

    def test_an_address_that_vanishes_is_drained_and_one_that_comes_is_added(self) -> None:
        bench = named("10.0.0.1", "10.0.0.2")
        stays, goes = (bench.backend((host, 80)) for host in ("10.0.0.1", "10.0.0.2"))
        assert bench.pool.choose(bench.clock.seconds(), [stays]) is goes
        bench.pool.connected(goes)
        bench.run(LOOK_UP_S)
        with logged() as events:
            bench.lookups.answer("10.0.0.3", "10.0.0.1")
        assert (goes.state, goes.connections, stays.state) == (State.DEPARTED, 1, State.UP)
        assert texts(events) == [
            "back-end 10.0.0.2:80: up -> departed (db.example has not this address any more; static)",
            "static back-end(s) added: 10.0.0.3:80",
        ]
        bench.pool.closed(goes, bench.clock.seconds(), was_connected=True, served_s=1.0)
        assert set(bench.keys) == {("10.0.0.1", 80), ("10.0.0.3", 80)}

    def test_the_order_of_addresses_does_not_matter(self) -> None:
        bench = named("10.0.0.1", "10.0.0.2")
        before = list(bench.pool)
        bench.run(LOOK_UP_S)
        with logged() as events:
            bench.lookups.answer("10.0.0.2", "10.0.0.1")
            bench.run(LOOK_UP_S)
        assert (list(bench.pool), texts(events)) == (before, [])

    def test_a_lookup_that_fails_changes_nothing_and_is_logged_once(self) -> None:
        bench = named("10.0.0.1")
        with logged() as events:
            for asked in range(2, 7):
                bench.run(LOOK_UP_S + 1)
                assert len(bench.lookups.asked) == asked
                bench.lookups.fail(UNKNOWN)
        assert bench.backend(("10.0.0.1", 80)).state is State.UP
        assert texts(events) == ["db.example: cannot be looked up: Name or service not known; its known addresses stay"]
        bench.run(LOOK_UP_S + 1)
        with logged() as events:
            bench.lookups.answer("10.0.0.1")
        assert texts(events) == ["db.example: looked up again"]

    def test_one_that_was_never_found_is_looked_up_sooner(self) -> None:
        bench = Bench(entry("db.example"))
        bench.start()
        with logged() as events:
            bench.lookups.fail(UNKNOWN)
        assert texts(events) == ["db.example: cannot be looked up: Name or service not known; it is tried again"]
        bench.run(1.1 * FIRST_LOOK_UP_S)
        bench.lookups.answer("10.0.0.1")
        assert bench.keys == [("10.0.0.1", 80)]

    def test_of_very_many_addresses_the_first_ones_are_used(self) -> None:
        bench = Bench(entry("many.example"))
        bench.start()
        hosts = [f"10.1.{number >> 8}.{number & 255}" for number in range(ADDRESSES_MAX + 10)]
        with logged() as events:
            bench.lookups.answer(*hosts)
        assert len(bench.pool) == ADDRESSES_MAX
        assert any("over 1024 addresses" in text for text in texts(events))

    @pytest.mark.parametrize("found", ["::ffff:10.0.0.1", "10.0.0.1"])
    def test_a_mapped_address_is_plain_ipv4(self, found: str) -> None:
        assert named(found).keys == [("10.0.0.1", 80)]

    def test_two_ports_of_one_name_are_looked_up_once(self) -> None:
        bench = Bench(entry("db.example", 80), entry("db.example", 81, check="none"))
        bench.start()
        bench.lookups.answer("10.0.0.1")
        assert (bench.keys, len(bench.lookups.asked)) == ([("10.0.0.1", 80), ("10.0.0.1", 81)], 1)

    def test_one_that_is_not_configured_any_more_is_looked_up_no_more(self) -> None:
        bench = named("10.0.0.1")
        bench.backends.apply([])
        bench.run(300)
        assert (bench.keys, len(bench.lookups.asked)) == ([], 1)

    def test_an_answer_that_comes_after_that_is_not_used(self) -> None:
        bench = Bench(entry("db.example"))
        bench.start()
        bench.backends.apply([])
        assert bench.lookups.cancelled == ["db.example"]
        bench.run(300)
        assert (bench.keys, len(bench.lookups.asked)) == ([], 1)


class TestApply:
    def test_nothing_is_added_before_the_start(self) -> None:
        bench = Bench(*entries("10.0.0.1"))
        assert bench.keys == []
        bench.start()
        assert bench.keys == [("10.0.0.1", 80)]

    def test_back_ends_come_and_go(self) -> None:
        bench = Bench(*entries("10.0.0.1", "10.0.0.2"))
        bench.start()
        kept = bench.backend(("10.0.0.2", 80))
        bench.backends.apply(entries("10.0.0.2", "10.0.0.3"))
        assert bench.keys == [("10.0.0.2", 80), ("10.0.0.3", 80)]
        assert bench.backend(("10.0.0.2", 80)) is kept

    def test_a_weight_changes_in_place(self) -> None:
        key: Address = ("10.0.0.1", 80)
        bench = Bench(entry(*key))
        bench.dials.outcomes[key] = PASSED
        bench.start()
        backend = bench.backend(key)
        bench.backends.apply([entry(*key, weight=300)])
        assert (bench.backend(key), backend.weight, backend.state) == (backend, 300, State.UP)

    def test_another_check_is_used_from_the_next_one_on(self) -> None:
        key: Address = ("10.0.0.1", 80)
        bench = Bench(entry(*key))
        bench.dials.outcomes[key] = PASSED
        bench.start(5)
        bench.backends.apply([entry(*key, check="none")])
        checked = len(bench.dials.made)
        bench.run(20)
        assert len(bench.dials.made) == checked
        assert bench.backend(key).static is not None

    def test_of_entries_with_one_address_the_first_counts(self) -> None:
        bench = Bench(entry("10.0.0.1", weight=1), entry("10.0.0.1", weight=2), entry("db.example", weight=3))
        bench.start()
        bench.lookups.answer("10.0.0.1", "10.0.0.2")
        assert [(backend.address, backend.registration.weight) for backend in bench.pool] == [
            ("10.0.0.1", 1),
            ("10.0.0.2", 3),
        ]
        bench.backends.apply([entry("db.example", weight=3)])
        assert {backend.registration.weight for backend in bench.pool} == {3}

    def test_who_asks_is_told_what_is_in_use(self) -> None:
        bench = Bench(entry("10.0.0.1", send_proxy=2), entry("db.example"))
        bench.start()
        bench.lookups.answer("10.0.0.2")
        assert {key: each.send_proxy for key, each in bench.in_use.items()} == {
            ("10.0.0.1", 80): 2,
            ("10.0.0.2", 80): None,
        }

    @pytest.mark.parametrize(
        ("text", "host"),
        [("2001:DB8:0::1", "2001:db8::1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%2", "fe80::1%2")],
    )
    def test_addresses_are_written_as_sockets_have_them(self, text: str, host: str) -> None:
        bench = Bench(entry(text))
        bench.start()
        assert bench.keys == [(host, 80)]
        assert bench.lookups.asked == []

    def test_one_that_an_agent_has_registered_is_replaced(self) -> None:
        bench = Bench()
        agents = registered(bench.pool, "10.0.0.1")
        confirm(bench.pool, agents, token=1)
        bench.start()
        bench.backends.apply(entries("10.0.0.1"))
        assert [backend.has_agent for backend in bench.pool] == [False]
        assert agents.state is State.FORGOTTEN
