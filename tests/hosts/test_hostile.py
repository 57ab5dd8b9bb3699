"""Forged and replayed datagrams, and networks on which nothing can be sent: with real agents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from ipaddress import IPv4Address
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from rproxy.pool.limits import Limits
from rproxy.wire import pdu
from rproxy.wire.pdu import PduType, encode
from tests.hosts.datagrams import INCOMING, Forger, Letter, SystemsProxy, Tap, within
from tests.hosts.net import PORT, Host, ip
from tests.hosts.system import POLL_S, System, kill
from tests.integration.datagrams import PLAIN, REGISTER, Mode, Peer, answer, changing_nothing, taken
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll

pytestmark = pytest.mark.hosts

SPOOFED: Final = "10.8.0.0/15"
SPOOFED_FIRST: Final = IPv4Address("10.8.0.1")
SPOOFED_MANY: Final = 100_000
ARRIVING: Final = 0.9
"""At least this share of them; a kernel that is busy drops some."""
AGENT_PORT: Final = 5555
BATCH: Final = 5_000
"""Datagrams that the proxy's socket has room for."""
LIMITS: Final = Limits()
AT_ONCE: Final = 5
"""Registrations from one address."""
BURST: Final = 5
"""Probes that a timer may be early or late by."""
LINES_MAX: Final = 10
"""In the log; there may be one every few seconds."""
BROADCAST: Final = ("10.1.1.255", AGENT_PORT)
UNSENDABLE: Final = 2
"""The kernel keeps what bears a host's own address from it."""
UNPROBED: Final = ("--probe-interval", "60", "--liveness", "120")
"""A back-end that is up is left alone for as long as a test takes."""
HASTY: Final = ("--probe-interval", "0.5", "--liveness", "3")
ANSWER_S: Final = 0.6
"""Longer than a probe may take."""
HELD_S: Final = 10.0
"""A back-end that went down stays so for this long."""


@pytest.fixture
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> Mode:
    return PLAIN if request.param == "plain" else Mode.keyed(Keys(tmp_path).master("master"))


both_modes: Final = pytest.mark.parametrize("mode", ["plain", "keyed"], indirect=True)
keyed_only: Final = pytest.mark.parametrize("mode", ["keyed"], indirect=True)


@pytest.fixture
def forger(system: System) -> Iterator[Forger]:
    """The router, through which the proxy also answers all those whom it does not know."""
    with closing(Forger(system.network.router)) as forger:
        yield forger


def spoofed(system: System) -> Iterator[Letter]:
    """Registrations, each from another address."""
    proxy = system.network.proxy.address, AGENT_PORT
    datagram = encode(REGISTER)
    for number in range(SPOOFED_MANY):
        yield Letter((str(SPOOFED_FIRST + number), AGENT_PORT), proxy, datagram)


@pytest.mark.alone  # the flood takes a core, and the proxy the other
def test_a_hundred_thousand_spoofed_registrations_cost_no_back_end_and_few_probes(
    system: System, forger: Forger
) -> None:
    server, _ = system.network.servers
    router = system.network.router
    ip("-n", router.namespace, "route", "add", "local", SPOOFED, "dev", "lo")
    system.start_httpd(server)
    system.start_proxy("--allow", SPOOFED, "--probe-interval", "0.5")
    system.start_agent(server)
    system.wait_until_up(server)
    answered = taken(SystemsProxy(system))[0]["probe-response"]
    lines = len(system.proxy.log.splitlines())
    with closing(Tap(router, INCOMING)) as probed:
        started = time.monotonic()
        probes = flood(system, forger, server, probed)
        flood_s = time.monotonic() - started
    assert max(Counter(probe.destination for probe in probes).values()) == 1
    assert {len(probe.datagram) for probe in probes} == {pdu.SIZE}
    assert flood_s < len(probes) <= LIMITS.first_probes_per_s * flood_s + BURST
    dropped = taken(SystemsProxy(system))[1]
    assert dropped.pop("late", 0) <= flood_s  # probes that a busy machine answers late
    assert set(dropped) == {"table-full"}
    assert taken(SystemsProxy(system))[0]["probe-response"] >= answered + flood_s
    assert len(system.proxy.log.splitlines()) - lines <= LINES_MAX
    assert failures(system.proxy.log) == []


def flood(system: System, forger: Forger, server: Host, probed: Tap) -> list[Letter]:
    """Send them all, as fast as they are taken in; the probes that this earns."""
    due = registrations(system.status())
    letters, probes = spoofed(system), []
    while batch := list(islice(letters, BATCH)):
        for letter in batch:
            forger.send(letter)
        due += round(ARRIVING * len(batch))
        poll(lambda due=due: registrations(system.status()) >= due, READY_S, "they are taken in")  # type: ignore[misc]
        assert_bounded(system.status(), server)
        assert system.served_by() == server.name
        probes += [letter for letter in probed.take() if letter.source[0] == system.network.proxy.address]
    return probes


def assert_bounded(status: dict[str, Any], server: Host) -> None:
    states = {row["address"]: row["state"] for row in status["backends"]}
    assert states.pop(server.address) in ("up", "suspect")
    assert len(states) <= LIMITS.unconfirmed
    assert set(states.values()) == {"registered"}


def registrations(status: dict[str, Any]) -> int:
    """How many were accepted or dropped."""
    counters = status["counters"]
    taken_in: int = counters["accepted"]["register"] + sum(counters["dropped"].values())
    return taken_in


def test_a_start_of_an_agent_registers_five_times_at_once_and_then_once_a_second(
    system: System, forger: Forger
) -> None:
    """With something new each time; another host is not held back by that, nor another start."""
    one, two = system.network.servers
    system.start_proxy()
    proxy, watched = (system.network.proxy.address, AGENT_PORT), SystemsProxy(system)
    weights = count(1)

    def register(host: Host, times: int, *, instance: int = 1) -> tuple[int, int]:
        accepted, dropped = taken(watched)
        for weight in islice(weights, times):
            datagram = encode(attrs.evolve(REGISTER, weight=weight, instance=instance))
            forger.send(Letter((host.address, AGENT_PORT), proxy, datagram))
        due = accepted.total() + dropped.total() + times
        poll(lambda: sum(each.total() for each in taken(watched)) >= due, READY_S, "all are taken in")
        accepted_now, dropped_now = taken(watched)
        assert set(dropped_now) <= {"rate-limited"}
        return (accepted_now - accepted)["register"], (dropped_now - dropped)["rate-limited"]

    started = time.monotonic()
    accepted, dropped = register(one, 20)
    assert AT_ONCE <= accepted <= AT_ONCE + time.monotonic() - started
    assert accepted + dropped == 20
    assert register(two, AT_ONCE) == (AT_ONCE, 0)
    assert register(one, 1, instance=2) == (1, 0)
    time.sleep(2.5)
    accepted, _ = register(one, AT_ONCE)
    assert 2 <= accepted <= time.monotonic() - started
    assert failures(system.proxy.log) == []


@both_modes
def test_an_answer_counts_from_the_host_that_was_asked_alone(system: System, forger: Forger, mode: Mode) -> None:
    """While the probe is still open, and with all that it said."""
    server, other = system.network.servers
    system.start_proxy(*UNPROBED, "--probe-timeout", "10", *mode.options)
    proxy = system.network.proxy.address, AGENT_PORT
    agent, elsewhere = (within(host, partial(Peer, mode, proxy, host.address)) for host in (server, other))
    with closing(agent), closing(elsewhere):
        agent.tell(REGISTER)
        response = answer(agent.hear_probe())
        with changing_nothing(SystemsProxy(system), {"seal" if mode.keys else "wrong-source": 2}):
            elsewhere.send(agent.sealed(response))
            forger.send(Letter((other.address, agent.address[1]), proxy, agent.sealed(response)))
        agent.tell(response)
        system.wait_until_up(server)
        assert elsewhere.heard() == []


@both_modes
def test_what_an_agent_said_changes_nothing_when_it_is_said_again(system: System, forger: Forger, mode: Mode) -> None:
    """Exact replays with its source address: while it runs, after it stopped, and after a successor started."""
    server, other = system.network.servers
    system.start_proxy(*UNPROBED, *mode.options)
    with closing(Tap(server)) as tap:
        scene = Scene(system, forger, tap)
        first = scene.start(mode, weight=1)
        scene.send(first, dropped={"duplicate": 1}, accepted={"register": 1})
        system.agents[server].stop()
        first.append(tap.first(PduType.UNREGISTER))
        scene.send(first, dropped={"retired-instance": 1, "duplicate": 1, "unknown": 1})
        assert system.backend(server) == {}
        second = scene.start(mode, weight=2)
        scene.send(first, dropped={"retired-instance": 2, "duplicate": 1})
        if mode.keys:
            relayed = [attrs.evolve(letter, source=(other.address, AGENT_PORT)) for letter in (*first, *second)]
            scene.send(relayed, dropped={"seal": len(relayed)})
        kill(system.agents[server])
        third = scene.start(mode, weight=3)
        scene.send(second, accepted={"register": 1}, dropped={"duplicate": 1}, probes=1)
        system.agents[server].stop()
        third.append(tap.first(PduType.UNREGISTER))
        kill(system.proxy)
        system.start_proxy(*UNPROBED, *mode.options)
        scene.start(mode, weight=4)
        scene.send(second, accepted={"register": 1}, dropped={"unknown": 1}, probes=1)
        scene.send(third, accepted={"register": 1}, dropped={"unknown": 1, "wrong-instance": 1}, probes=1)
    assert failures(system.proxy.log) == []


@attrs.frozen
class Scene:
    """Agents started and stopped on one server, and an attacker who has captured their datagrams."""

    system: System
    forger: Forger
    tap: Tap

    def start(self, mode: Mode, *, weight: int) -> list[Letter]:
        """An agent, which its weight tells from others: its registration and its answer, with which it is up."""
        system = self.system
        server, _ = system.network.servers
        self.tap.take()
        system.start_agent(server, "--weight", str(weight), *mode.options)
        poll(lambda: system.are_up(server) and system.backend(server)["weight"] == weight, READY_S, "it is up")
        return [self.tap.first(PduType.REGISTER), self.tap.first(PduType.PROBE_RESPONSE)]

    def send(
        self,
        letters: list[Letter],
        *,
        dropped: dict[str, int],
        accepted: dict[str, int] | None = None,
        probes: int = 0,
    ) -> None:
        """They change nothing, and cause so many probes, which are not answered."""
        self.tap.take()
        with changing_nothing(SystemsProxy(self.system), dropped, accepted):
            for letter in letters:
                self.forger.send(letter)
            time.sleep(ANSWER_S if probes else 0)
        kinds = [letter.kind for letter in self.tap.take()]
        assert kinds.count(PduType.PROBE_REQUEST) == probes


@contextmanager
def no_route(here: Host, there: Host, kind: str = "throw") -> Iterator[None]:
    """Nothing can be sent meanwhile; `kind` is that of the route in its place, which tells the error."""
    route = [kind, f"{there.address}/32"]
    ip("-n", here.namespace, "route", "add", *route)
    yield
    ip("-n", here.namespace, "route", "del", *route)


def test_a_registration_in_a_name_that_nothing_can_be_sent_to_is_forgotten(system: System, forger: Forger) -> None:
    """Everybody's, nobody's, and the proxy's own. A probe to everybody would be one of each who hears it."""
    server, _ = system.network.servers
    take_from_everybody(system.network.proxy)
    system.start_proxy()
    proxy = system.network.proxy.address, AGENT_PORT
    with closing(Tap(server)) as tap:
        for source in (BROADCAST, (server.address, 0), proxy):
            forger.send(Letter(source, proxy, encode(REGISTER)))
        poll(lambda: sum(system.status()["counters"]["send_errors"].values()) >= UNSENDABLE, READY_S, "it has tried")
        poll(lambda: system.status()["backends"] == [], READY_S, "they are forgotten")
        assert tap.take() == []
    assert failures(system.proxy.log) == []


def take_from_everybody(host: Host) -> None:
    """Its kernel does not compare sources with its routes."""
    for port in ("all", PORT):
        host.write(f"/proc/sys/net/ipv4/conf/{port}/rp_filter", "0")


@both_modes
def test_an_agent_that_starts_without_a_route_registers_when_there_is_one(system: System, mode: Mode) -> None:
    server, _ = system.network.servers
    system.start_proxy(*mode.options)
    with no_route(server, system.network.proxy):
        system.start_agent(server, *mode.options)
        agent = system.agents[server]
        agent.logged(r"(agent registers with)")
        assert system.backend(server) == {}
    system.wait_until_up(server)
    assert failures(agent.log) == []


@keyed_only
def test_back_ends_are_up_again_soon_after_their_datagrams_can_be_sent_again(system: System, mode: Mode) -> None:
    """Neither of the agents can send, one of which must first find its address; and to a third the proxy cannot."""
    network = system.network
    finding, told = network.servers
    unreachable = network.router
    take_from_everybody(told)
    servers = (finding, told, unreachable)
    system.start_proxy(*HASTY, *mode.options)
    system.start_agent(finding, *mode.options)
    system.start_agent(told, "--trace", "--advertise", told.address, *mode.options)
    system.start_agent(unreachable, *mode.options)
    system.wait_until_up(*servers)
    with (
        no_route(finding, network.proxy),
        no_route(told, network.proxy),
        no_route(network.proxy, unreachable, "prohibit"),
    ):
        poll(lambda: {system.backend(server)["state"] for server in servers} == {"down"}, READY_S, "all are down")
        system.agents[told].logged(r"not sent: .*(Network is unreachable)")
    assert system.status()["counters"]["send_errors"]["PermissionError"] > 1
    poll(lambda: system.are_up(*servers), HELD_S + READY_S, "all are up again", every_s=POLL_S)
    for program in (system.proxy, *system.agents.values()):
        assert program.running
        assert failures(program.log) == []
