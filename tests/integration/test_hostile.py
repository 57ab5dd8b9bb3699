"""Hostile datagrams to a proxy or an agent have no effect beyond what the protocol allows."""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, cycle, product
from pathlib import Path
from typing import Final

import attrs
import pytest

from rproxy.net.addresses import Address, written
from rproxy.wire.pdu import (
    COUNT_MAX,
    UINT32_MAX,
    UINT64_MAX,
    WEIGHT_MAX,
    Pdu,
    ProbeResponse,
    Register,
    Unregister,
    encode,
)
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import assert_echoes
from tests.integration.conftest import Starter
from tests.integration.datagrams import (
    ELSEWHERE,
    EVERY_KIND,
    PLAIN,
    PROBE,
    REGISTER,
    RESPONSE,
    UNREGISTER,
    Mode,
    Peer,
    answer,
    batches,
    bytes_flipped,
    changing_nothing,
    flipped,
    forgeries,
    malformed,
    misfits,
    reasons,
    send_all,
    taken,
    uncalled_for,
)
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import Server, echo

NOT_ALLOWED: Final = "127.200.0.1"
PATIENT: Final = ("--probe-interval", "60", "--probe-timeout", "10", "--liveness", "120", "--allow", "127.0.0.0/9")
"""Nothing happens to a back-end by itself, and a busy machine may take its time."""
HASTY: Final = ("--probe-interval", "0.5", "--probe-timeout", "0.2", "--liveness", "1", "--allow", "127.0.0.0/8")
SEVERAL_S: Final = 4.0
"""Many of these intervals, and time for two more probes after a lost one."""
CLIENTS: Final = 20
INSISTENT: Final = 5
"""Instances and services that one agent registers."""

Make = Callable[..., Peer]


@pytest.fixture(scope="module", params=["plain", "keyed"])
def mode(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mode:
    return PLAIN if request.param == "plain" else keyed(tmp_path_factory.mktemp("keys"))


def keyed(folder: Path) -> Mode:
    return Mode.keyed(Keys(folder).master("master"))


keyed_only: Final = pytest.mark.parametrize("mode", ["keyed"], indirect=True, scope="module")
plain_only: Final = pytest.mark.parametrize("mode", ["plain"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def proxy(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("proxy"), *PATIENT, *mode.options) as proxy:
        yield proxy
        assert failures(proxy.log) == []


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a `Peer`, of what one is made of."""
    with ExitStack() as stack:

        def make(*arguments: object, **options: object) -> Peer:
            peer = Peer(*arguments, **options)  # type: ignore[arg-type]
            stack.callback(peer.close)
            return peer

        yield make


@pytest.fixture
def register() -> Register:
    """Of an instance that no other test has."""
    return attrs.evolve(REGISTER, instance=random.getrandbits(64))


@pytest.fixture
def agent(mode: Mode, proxy: Proxy, make: Make, register: Register) -> Iterator[Peer]:
    """To register what `register` says; it is gone after the test."""
    agent = make(mode, proxy.monitor)
    yield agent
    agent.tell(Unregister(register.service_port, register.instance))
    poll(lambda: not proxy.backends(), READY_S, "no back-end is left")


def wait_until_up(proxy: Proxy, agent: Peer, register: Register) -> None:
    backend = agent.address[0], register.service_port
    poll(lambda: proxy.state(backend) == "up", READY_S, f"{written(backend)} is up")


def test_a_proxy_drops_and_counts_what_is_no_pdu_or_not_called_for(mode: Mode, proxy: Proxy, make: Make) -> None:
    stranger = make(mode, proxy.monitor, NOT_ALLOWED)
    as_long_as_pdus = [*malformed(), *uncalled_for(), (encode(REGISTER), "not-allowed")]
    datagrams = [(stranger.seal(data), reason) for data, reason in as_long_as_pdus]
    datagrams += [*misfits(mode), *bytes_flipped(mode, stranger)]
    with changing_nothing(proxy, reasons(datagrams)):
        send_all(proxy, ((stranger, datagram) for datagram, _ in datagrams))
    assert stranger.heard() == []


def test_an_agent_answers_its_proxys_probes_once_each_and_nothing_else(mode: Mode, start: Starter, make: Make) -> None:
    """Nor does it log anything of it. The test is the proxy."""
    ours, stranger = make(mode), make(mode, host=ELSEWHERE, agent=LOOPBACK)
    told = ["--proxy", written(ours.address), "--port", "0", "--interval", "600"]
    agent = start.twistd("rproxy-agent", *told, *mode.options)
    assert isinstance(ours.hear(), Register)
    stranger.other = ours.other
    assert_answered(ours, PROBE.sequence)
    lines = len(agent.log.splitlines())
    for message in EVERY_KIND:
        stranger.tell(message)
    for batch in batches(not_for_agents(mode, ours)):
        for datagram in batch:
            ours.send(datagram)
        assert_answered(ours, 0, UINT32_MAX)
    assert stranger.heard() == []
    assert len(agent.log.splitlines()) == lines


def assert_answered(proxy: Peer, *sequences: int) -> None:
    """The agent says nothing before or between the answers to these probes, except that it is there."""
    for sequence in sequences:
        proxy.tell(attrs.evolve(PROBE, sequence=sequence))
    heard: list[int] = []
    while len(heard) < len(sequences):
        message = proxy.hear()
        if not isinstance(message, Register):
            assert isinstance(message, ProbeResponse)
            heard.append(message.sequence)
    assert heard == [*sequences]


def not_for_agents(mode: Mode, proxy: Peer) -> Iterator[bytes]:
    for datagram, _ in misfits(mode):
        yield datagram
    for data, _ in malformed():
        yield proxy.seal(data)
    for message in (REGISTER, RESPONSE, UNREGISTER):
        yield proxy.sealed(message)
    if mode.keys:
        for datagram, _ in forgeries(mode, PROBE):
            yield datagram


@keyed_only
def test_forgeries_of_what_would_count_are_dropped(
    mode: Mode, proxy: Proxy, make: Make, agent: Peer, register: Register
) -> None:
    """Each would do something, were it genuine; and each, genuine, does nothing from another address."""
    elsewhere = make(mode, proxy.monitor, ELSEWHERE)
    unregister = Unregister(register.service_port, register.instance)
    agent.tell(register)
    response = answer(agent.hear_probe())
    assert_only_genuine_counts(mode, proxy, agent, elsewhere, [attrs.evolve(register, weight=1), response, unregister])
    agent.tell(response)
    wait_until_up(proxy, agent, register)
    assert_only_genuine_counts(mode, proxy, agent, elsewhere, [attrs.evolve(register, weight=1), unregister])


def assert_only_genuine_counts(mode: Mode, proxy: Proxy, agent: Peer, elsewhere: Peer, messages: list[Pdu]) -> None:
    forged = [each for message in messages for each in forgeries(mode, message)]
    relayed = [agent.sealed(message) for message in messages]
    with changing_nothing(proxy, reasons(forged) + Counter({"seal": len(relayed)})):
        send_all(proxy, ((agent, datagram) for datagram, _ in forged))
        send_all(proxy, ((elsewhere, datagram) for datagram in relayed))
    assert (agent.heard(), elsewhere.heard()) == ([], [])


@plain_only
def test_a_plain_proxy_drops_keyed_pdus(proxy: Proxy, make: Make, tmp_path: Path) -> None:
    keyed_agent = make(keyed(tmp_path), proxy.monitor)
    with changing_nothing(proxy, {"sealed": len(EVERY_KIND)}):
        for message in EVERY_KIND:
            keyed_agent.tell(message)
    assert keyed_agent.heard() == []


def test_a_response_counts_once_from_where_the_probe_went_and_with_what_it_said(
    mode: Mode, proxy: Proxy, make: Make, agent: Peer, register: Register
) -> None:
    beside, elsewhere = make(mode, proxy.monitor), make(mode, proxy.monitor, ELSEWHERE)
    agent.tell(register)
    response = answer(agent.hear_probe())
    relayed = "seal" if mode.keys else "wrong-source"
    with changing_nothing(proxy, Counter({"wrong-source": 2, "unknown": 2}) + Counter({relayed: 1})):
        beside.tell(response)
        elsewhere.tell(response)
        elsewhere.send(agent.sealed(response))
        agent.tell(attrs.evolve(response, sequence=response.sequence + 1))
        agent.tell(attrs.evolve(response, token=response.token ^ 1))
    agent.tell(response)
    wait_until_up(proxy, agent, register)
    with changing_nothing(proxy, {"duplicate": 2}):
        agent.tell(response)
        agent.tell(attrs.evolve(response, cpu=100, tcp=1000, draining=True))


def test_only_the_instance_that_is_registered_is_unregistered_and_only_from_its_host(
    mode: Mode, proxy: Proxy, make: Make, agent: Peer, register: Register
) -> None:
    elsewhere = make(mode, proxy.monitor, ELSEWHERE)
    unregister = Unregister(register.service_port, register.instance)
    agent.tell(register)
    agent.tell(answer(agent.hear_probe()))
    wait_until_up(proxy, agent, register)
    with changing_nothing(proxy, {"wrong-instance": 1, "unknown": 2}):
        elsewhere.tell(unregister)
        agent.tell(attrs.evolve(unregister, instance=register.instance ^ 1))
        agent.tell(attrs.evolve(unregister, service_port=register.service_port + 1))


def test_back_ends_that_answer_are_no_more_than_the_option_says(start: Starter, make: Make) -> None:
    """An attacker with a whole network can register and answer: existing back-ends stay."""
    most, more = 5, 10
    pool = Pool(start.proxy(*PATIENT, "--max-backends", str(most)))
    start.closing(pool.abandon)
    first = pool.serve(echo).address
    strangers = [make(PLAIN, pool.proxy.monitor, f"127.1.0.{number}") for number in range(1, most + more)]
    for stranger in strangers:
        stranger.tell(REGISTER)
        stranger.tell(answer(stranger.hear_probe()))
    poll(lambda: taken(pool.proxy)[1] == {"table-full": more}, READY_S, "there is no room for the others")
    up = [backend for backend, row in pool.proxy.backends().items() if row["state"] == "up"]
    assert len(up) == most
    assert first in up


def test_no_field_does_harm_at_0_or_at_its_maximum(start: Starter, make: Make) -> None:
    """Each combination is a back-end of its own."""
    server = Server(echo, "0.0.0.0")
    start.closing(server.close)
    default_port = server.address[1]
    proxy = start.proxy(*PATIENT, "--backend-port", str(default_port))
    agents, expected = {}, {}
    for number, (register, response) in enumerate(extremes(), 1):
        agent = make(PLAIN, proxy.monitor, f"127.1.0.{number}")
        agent.tell(register)
        probe = agent.hear_probe()
        agent.tell(attrs.evolve(response, sequence=probe.sequence, token=probe.token))
        agents[agent] = Unregister(register.service_port, register.instance)
        key = agent.address[0], register.service_port or default_port
        expected[key] = (register.weight, register.interval_ms / 1000, response.cpu, response.memory, response.tcp)
    poll(lambda: taken(proxy)[0]["probe-response"] == len(expected), READY_S, "all have answered")
    names = ("weight", "interval_s", "cpu", "memory", "tcp")
    shown = {backend: tuple(row[name] for name in names) for backend, row in strict_backends(proxy).items()}
    assert shown == expected
    unregister(proxy, {agent: message for agent, message in agents.items() if message.service_port})
    for _ in range(CLIENTS):
        assert_echoes(proxy)
    strict_backends(proxy)
    unregister(proxy, {agent: message for agent, message in agents.items() if not message.service_port})
    assert proxy.backends() == {}
    assert failures(proxy.log) == []


def strict_backends(proxy: Proxy) -> dict[Address, dict[str, object]]:
    """The table, from a status without the NaN and Infinity that JSON does not have."""
    json.dumps(proxy.status(), allow_nan=False)
    backends = proxy.backends()
    assert {row["state"] for row in backends.values()} == {"up", "draining"}
    return backends


def unregister(proxy: Proxy, agents: dict[Peer, Unregister]) -> None:
    left = len(proxy.backends()) - len(agents)
    for agent, message in agents.items():
        agent.tell(message)
    poll(lambda: len(proxy.backends()) == left, READY_S, "they are gone")


def extremes() -> Iterator[tuple[Register, ProbeResponse]]:
    registers = [
        Register(port, interval_ms, instance, weight, draining)
        for port in (0, 65_535)
        for interval_ms in (1, UINT32_MAX)
        for instance in (0, UINT64_MAX)
        for weight in (1, WEIGHT_MAX)
        for draining in (False, True)
    ]
    percentages = (0, 100, None)
    responses = [
        ProbeResponse(0, 0, cpu, memory, load, tcp, draining)
        for cpu, memory, load in product(percentages, repeat=3)
        for tcp in (0, COUNT_MAX, None)
        for draining in (False, True)
    ]
    yield from zip(cycle(registers), responses, strict=False)


def test_no_datagram_of_a_stranger_earns_more_than_one_or_a_larger_one(mode: Mode, start: Starter, make: Make) -> None:
    """Each comes from an address of its own, with the right key if there are keys."""
    proxy = start.proxy(*HASTY, *mode.options)
    strangers = (make(mode, proxy.monitor, f"127.1.{high}.{low}") for high in count() for low in range(1, 255))
    letters = list(each_from_another(mode, strangers))
    send_all(proxy, letters)
    time.sleep(SEVERAL_S)
    sent: defaultdict[Peer, list[int]] = defaultdict(list)
    for stranger, datagram in letters:
        sent[stranger].append(len(datagram))
    earned = [(lengths, [len(each) for each in stranger.heard()]) for stranger, lengths in sent.items()]
    assert [(cost, gain) for cost, gain in earned if len(gain) > len(cost) or sum(gain) > sum(cost)] == []
    cost, gain = earned[0]
    assert gain == cost, "a registration earns a probe"


def each_from_another(mode: Mode, strangers: Iterator[Peer]) -> Iterator[tuple[Peer, bytes]]:
    draining = attrs.evolve(REGISTER, draining=True)
    contents = [encode(message) for message in (*EVERY_KIND, draining)]
    contents += [data for data, _ in (*malformed(), *uncalled_for())]
    for data in contents:
        stranger = next(strangers)
        yield stranger, stranger.seal(data)
    for datagram, _ in misfits(mode):
        yield next(strangers), datagram
    for message in EVERY_KIND:
        length = len(next(strangers).sealed(message))
        for offset in range(length):
            stranger = next(strangers)
            yield stranger, flipped(stranger.sealed(message), offset)
    insistent = next(strangers)
    for number in range(INSISTENT):
        yield insistent, insistent.sealed(attrs.evolve(REGISTER, instance=number))
        yield insistent, insistent.sealed(attrs.evolve(REGISTER, service_port=number))
