"""Services that are this proxy itself, by whatever address of its host."""

from __future__ import annotations

import socket

import pytest
from twisted.internet.task import Clock

from rproxy.net.own_addresses import ephemeral_ports, local_addresses
from rproxy.net.own_listeners import ADDRESSES_MAX_AGE_S, BARRED_MAX, BARRED_S, OwnListeners
from rproxy.pool.backend import Backend, Registration


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.ours = ["192.0.2.1", "2001:db8::1", "fe80::1"]
        self.looks = 0
        self.error: OSError | None = None
        self.own = OwnListeners(self.clock.seconds, self._look)

    def _look(self) -> list[str]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.ours


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("everywhere", "ipv6_only", "families"),
    [("0.0.0.0", False, {4}), ("::", False, {4, 6}), ("::", True, {6})],
    ids=["IPv4's", "all", "IPv6's"],
)
@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%2", "127.0.0.1", "127.8.9.10", "::1"])
def test_a_listener_on_every_address_is_meant_by_each_of_its_families(
    host: str, everywhere: str, ipv6_only: bool, families: set[int], bench: Bench
) -> None:
    bench.own.add(everywhere, 80, ipv6_only=ipv6_only)
    assert bench.own.leads_here((host, 80)) is ((6 if ":" in host else 4) in families)
    assert not bench.own.leads_here((host, 81))


@pytest.mark.parametrize("host", ["192.0.2.2", "2001:db8::2"])
def test_another_host_is_none(host: str, bench: Bench) -> None:
    bench.own.add("::", 80)
    assert not bench.own.leads_here((host, 80))


@pytest.mark.parametrize("listening", ["192.0.2.1", "::ffff:192.0.2.1"])
def test_a_listener_on_one_address_is_meant_by_that_alone(listening: str, bench: Bench) -> None:
    bench.own.add(listening, 80)
    assert bench.own.leads_here(("192.0.2.1", 80))
    assert not bench.own.leads_here(("127.0.0.1", 80))


def test_addresses_come_and_go_and_are_looked_at_now_and_then(bench: Bench) -> None:
    bench.own.add("::", 80)
    for _ in range(1000):
        assert not bench.own.leads_here(("192.0.2.9", 80))
    assert bench.looks == 1
    bench.ours.append("192.0.2.9")
    bench.clock.advance(ADDRESSES_MAX_AGE_S)
    assert bench.own.leads_here(("192.0.2.9", 80))
    bench.error = OSError(24, "Too many open files")
    bench.clock.advance(ADDRESSES_MAX_AGE_S)
    assert bench.own.leads_here(("192.0.2.9", 80))
    bench.error = None
    bench.ours.remove("192.0.2.9")
    bench.clock.advance(ADDRESSES_MAX_AGE_S)
    assert not bench.own.leads_here(("192.0.2.9", 80))


def test_nobody_looks_for_a_port_that_is_not_ours(bench: Bench) -> None:
    bench.own.add("::", 80)
    assert not bench.own.leads_here(("192.0.2.9", 8080))
    assert bench.looks == 0


def test_what_leads_back_is_barred_for_a_while(bench: Bench) -> None:
    bench.own.bar(("192.0.2.9", 80))
    assert bench.own.leads_here(("192.0.2.9", 80))
    assert not bench.own.leads_here(("192.0.2.9", 81))
    bench.clock.advance(BARRED_S)
    assert not bench.own.leads_here(("192.0.2.9", 80))


def test_not_too_many_are_barred(bench: Bench) -> None:
    for port in range(BARRED_MAX + 1):
        bench.own.bar(("192.0.2.9", port))
    assert not bench.own.leads_here(("192.0.2.9", 0))
    assert bench.own.leads_here(("192.0.2.9", BARRED_MAX))


def test_this_host_has_addresses() -> None:
    assert "127.0.0.1" in local_addresses()


@pytest.mark.parametrize(
    ("host", "ephemeral", "expected"),
    [("192.0.2.1", True, True), ("127.0.0.1", True, True), ("192.0.2.1", False, False), ("198.51.100.7", True, False)],
)
def test_only_a_connect_to_a_port_here_that_may_be_chosen_for_it_can_meet_itself(
    host: str, ephemeral: bool, expected: bool, bench: Bench
) -> None:
    port = ephemeral_ports()[0] if ephemeral else ephemeral_ports()[0] - 1
    backend = Backend(host, port, Registration((host, 5555), 1, 20.0, 100))
    assert bench.own.may_self_connect((backend.address, backend.port)) is expected


def test_the_kernel_tells_which_ports_it_gives_to_connections() -> None:
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        assert client.getsockname()[1] in ephemeral_ports()


@pytest.mark.parametrize(
    ("listening", "other", "overlaps"),
    [
        (("192.0.2.1", False), ("192.0.2.1", False), True),
        (("192.0.2.1", False), ("192.0.2.2", False), False),
        (("192.0.2.1", False), ("::ffff:192.0.2.1", False), True),
        (("192.0.2.1", False), ("0.0.0.0", False), True),
        (("192.0.2.1", False), ("::", False), True),
        (("192.0.2.1", False), ("::", True), False),
        (("0.0.0.0", False), ("192.0.2.1", False), True),
        (("0.0.0.0", False), ("::", False), True),
        (("0.0.0.0", False), ("::", True), False),
        (("0.0.0.0", False), ("2001:db8::1", False), False),
        (("::", True), ("2001:db8::1", False), True),
        (("::", True), ("fe80::1%2", False), True),
        (("::", True), ("192.0.2.1", False), False),
        (("fe80::1%1", False), ("fe80::1%2", False), False),
    ],
)
def test_listeners_overlap_whose_clients_could_be_the_same(
    listening: tuple[str, bool], other: tuple[str, bool], overlaps: bool, bench: Bench
) -> None:
    bench.own.add(listening[0], 80, ipv6_only=listening[1])
    assert bench.own.overlaps(other[0], 80, ipv6_only=other[1]) is overlaps
    assert not bench.own.overlaps(other[0], 81, ipv6_only=other[1])
