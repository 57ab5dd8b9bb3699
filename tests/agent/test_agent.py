"""The back-end's side of the protocol: what is answered, counted, logged and sent."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import pytest
from twisted.internet.error import MessageLengthError

from rproxy.agent.sampler import Load
from rproxy.net.addresses import Address
from rproxy.wire.pdu import COUNT_MAX, UINT32_MAX, UINT64_MAX, Pdu, ProbeRequest, ProbeResponse, Unregister, encode
from tests.agent.bench import HINT, INSTANCE, OTHER, PROXY, REGISTER, Bench, Names
from tests.fakes import logged, run, texts

VECTORS = Path(__file__).parents[1] / "data" / "vectors.json"
DROPPED = [pytest.param(vector["hex"], id=vector["name"]) for vector in json.loads(VECTORS.read_text())["dropped"]]


@pytest.mark.parametrize(
    ("request_", "load"),
    [
        (ProbeRequest(0, 1), Load(cpu=17, memory=89, tcp=5)),
        (ProbeRequest(2**32 - 1, UINT64_MAX), Load(cpu=0, memory=100, tcp=2**32 - 2, application=75)),
        (ProbeRequest(7, 0), Load()),
    ],
)
def test_a_probe_is_answered_with_its_sequence_number_its_token_and_the_load(
    request_: ProbeRequest, load: Load
) -> None:
    bench = Bench()
    bench.sampler.load = load
    bench.transport.take()
    bench.receive(request_)
    answer = ProbeResponse(request_.sequence, request_.token, load.cpu, load.memory, load.application, load.tcp)
    assert bench.transport.take() == [(answer, PROXY)]


def test_an_answer_is_one_datagram_no_larger_than_the_probe() -> None:
    bench = Bench()
    bench.transport.take()
    request = encode(ProbeRequest(0, 1))
    bench.agent.datagramReceived(request, PROXY)
    ((answer, _),) = bench.transport.written
    assert len(answer) <= len(request)


@pytest.mark.parametrize(
    "source",
    [("10.1.1.12", 5555), (PROXY[0], 5556), ("::1", 5555), OTHER],
    ids=["another host", "another port", "another family", "no proxy of this agent's"],
)
def test_a_probe_from_elsewhere_is_counted_and_not_answered(source: Address) -> None:
    bench = Bench()
    bench.transport.take()
    bench.probe(source)
    assert (bench.transport.sent, bench.sampler.asked) == ([], 0)
    assert bench.agent.counters == {"wrong-source": 1}


@pytest.mark.parametrize("pdu", [REGISTER, Unregister(80, INSTANCE), ProbeResponse(0, 1, 1, 1, 1, 1)])
def test_any_other_pdu_from_the_proxy_is_counted_and_not_answered(pdu: Pdu) -> None:
    bench = Bench()
    bench.transport.take()
    bench.receive(pdu)
    assert bench.transport.sent == []
    assert bench.agent.counters == {"unexpected-type": 1}


@pytest.mark.parametrize("tag", [2, UINT32_MAX, 1 << 31])
def test_a_probe_for_another_instance_is_counted_but_not_answered_and_does_not_count_as_a_probe(tag: int) -> None:
    """As when a registration of an earlier start is replayed, and a restarted proxy probes that instance."""
    bench = Bench()
    bench.transport.take()
    with logged() as events:
        bench.receive(ProbeRequest(0, 1, instance_tag=tag))
    assert bench.transport.sent == []
    assert bench.agent.counters == {"wrong-instance": 1}
    assert list(events) == []


@pytest.mark.parametrize("datagram", DROPPED)
def test_garbage_from_the_proxy_is_counted_and_not_answered(datagram: str) -> None:
    bench = Bench()
    bench.transport.take()
    with logged() as events:
        bench.agent.datagramReceived(bytes.fromhex(datagram), PROXY)
    assert bench.transport.sent == []
    assert sum(bench.agent.counters.values()) == 1
    assert list(events) == []


def test_random_datagrams_are_answered_only_where_they_are_probes_of_the_proxy() -> None:
    bench = Bench()
    bench.probe()
    bench.transport.take()
    rng = random.Random(5)
    probes = 0
    with logged() as events:
        for number in range(20_000):
            datagram = rng.randbytes(24 if number % 5 in (0, 1) else rng.randrange(65))
            source = PROXY if number % 3 else OTHER
            if number % 5 == 0 and len(datagram) == 24:
                datagram = datagram[:20] + bytes(4)  # for any instance
            probes += source == PROXY and len(datagram) == 24 and datagram[0] >> 3 == 0b01000 and not any(datagram[20:])
            bench.agent.datagramReceived(datagram, source)
    assert probes > 0
    assert len(bench.transport.sent) == probes
    assert sum(bench.agent.counters.values()) == 20_000 - probes
    assert list(events) == []


def test_a_sampler_that_fails_leaves_an_answer_of_unknown_figures_and_one_log_entry() -> None:
    bench = Bench()
    bench.probe()
    bench.sampler.error = RuntimeError("no /proc here")
    bench.transport.take()
    with logged() as events:
        for _ in range(3):
            bench.probe()
    assert bench.transport.sent == [(ProbeResponse(0, 1, None, None, None, None), PROXY)] * 3
    assert [event["log_failure"].type for event in events] == [RuntimeError]
    assert bench.agent.counters["sample-failed"] == 3


def test_each_proxy_is_answered_where_it_asked_from() -> None:
    bench = Bench(PROXY, OTHER)
    bench.transport.take()
    bench.probe(OTHER)
    bench.probe(PROXY)
    assert [address for _, address in bench.transport.take()] == [OTHER, PROXY]


@pytest.mark.parametrize(
    "error",
    [BlockingIOError(11, "would block"), OSError(101, "no route"), MessageLengthError("long")],
    ids=lambda error: type(error).__name__,
)
def test_a_send_that_fails_is_counted_and_registering_goes_on(error: Exception) -> None:
    bench = Bench(interval_s=2)
    bench.transport.error = error
    with logged() as events:
        run(bench.clock, 9)
        bench.probe()
    assert bench.agent.counters[type(error).__name__] >= 5
    assert [event for event in events if "log_failure" in event] == []
    bench.transport.error = None
    bench.times.clear()
    run(bench.clock, 2)
    assert bench.registered() == [10]


def test_unregister_is_sent_to_each_proxy_whose_address_is_known_and_stops_every_timer() -> None:
    names = Names(proxy="10.1.1.10", other="10.1.1.11")
    bench = Bench(("proxy", 5555), ("other", 5556), ("nowhere", 5555), resolve=names.resolve)
    bench.probe()
    run(bench.clock, 5)
    bench.transport.take()
    bench.agent.unregister()
    goodbye = Unregister(80, INSTANCE)
    assert bench.transport.sent == [(goodbye, PROXY), (goodbye, OTHER)]
    bench.agent.stopProtocol()
    assert bench.clock.getDelayedCalls() == []


def test_unregister_drops_a_look_up_that_is_open() -> None:
    names = Names()
    names.hold = True
    with logged() as events:
        bench = Bench(("proxy", 5555), resolve=names.resolve)
        bench.agent.unregister()
        assert names.held[0].called
    assert bench.transport.sent == []
    assert list(events) == []
    assert bench.clock.getDelayedCalls() == []


def test_unregister_survives_a_send_that_fails() -> None:
    bench = Bench()
    bench.transport.error = OSError(101, "no route")
    bench.agent.unregister()
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize("after_s", [0, 0.5, 13, 30])
def test_no_timer_is_left_when_the_port_closes(after_s: float) -> None:
    bench = Bench(PROXY, OTHER)
    bench.probe()
    run(bench.clock, after_s)
    bench.agent.stopProtocol()
    assert bench.clock.getDelayedCalls() == []


def test_an_ipv6_socket_reaches_an_ipv4_proxy_as_mapped_and_knows_it_by_its_ipv4_address() -> None:
    bench = Bench(family=socket.AF_INET6)
    mapped = ("::ffff:10.1.1.10", 5555)
    assert bench.transport.take() == [(REGISTER, mapped)]
    bench.probe(mapped)
    assert [address for _, address in bench.transport.sent] == [mapped]


def test_a_trace_logs_every_pdu_in_and_out() -> None:
    with logged() as events:
        bench = Bench(trace=True)
        bench.probe()
        bench.agent.unregister()
    pdus = [REGISTER, ProbeRequest(0, 1), ProbeResponse(0, 1, 17, 89, None, 5), Unregister(80, INSTANCE)]
    assert [event["pdu"] for event in events if "pdu" in event] == pdus
    assert {event["proxy"] for event in events if "pdu" in event} == {"10.1.1.10:5555"}
    assert f"<< [10.1.1.10:5555] {REGISTER}" in texts(events)
    assert f">> [10.1.1.10:5555] {ProbeRequest(0, 1)}" in texts(events)


def test_a_trace_logs_what_could_not_be_sent() -> None:
    bench = Bench(trace=True)
    bench.transport.error = OSError(101, "no route")
    with logged() as events:
        run(bench.clock, 1)
    assert texts(events) == ["<< [10.1.1.10:5555] not sent: [Errno 101] no route"]


def test_without_a_trace_no_pdu_is_logged() -> None:
    with logged() as events:
        bench = Bench()
        run(bench.clock, 50)
        bench.agent.unregister()
    assert texts(events) == [HINT]


def say(bench: Bench, source: Address, sessions: int | None, sequence: int, instance_tag: int = 0) -> int | None:
    """What a proxy that says how many sessions it has is told of the others'."""
    bench.transport.take()
    bench.receive(ProbeRequest(sequence, sequence, sessions, instance_tag), source)
    ((answer, address),) = bench.transport.take()
    assert isinstance(answer, ProbeResponse)
    assert address == source
    return answer.others


def test_each_proxy_is_told_the_sessions_of_the_others() -> None:
    bench = Bench(PROXY, OTHER)
    assert say(bench, PROXY, 3, 0) is None
    assert say(bench, OTHER, 40, 1000) == 3
    assert say(bench, PROXY, 4, 1) == 40
    run(bench.clock, 6)
    assert say(bench, PROXY, None, 2) == 40
    assert say(bench, OTHER, 40, 1001) is None
    run(bench.clock, 12)
    assert say(bench, PROXY, 4, 3) is None


def test_a_draining_agent_passes_it_on_as_well() -> None:
    bench = Bench(PROXY, OTHER)
    bench.agent.drain()
    say(bench, PROXY, 3, 0)
    assert say(bench, OTHER, 40, 1000) == 3


def test_two_names_of_one_proxy_are_one() -> None:
    names = Names(proxy=PROXY[0], alias=PROXY[0], other=OTHER[0])
    bench = Bench(("proxy", 5555), ("alias", 5555), ("other", 5556), resolve=names.resolve)
    assert say(bench, PROXY, 3, 0) is None
    assert say(bench, OTHER, 40, 1000) == 3
    assert say(bench, PROXY, 5, 1) == 40
    assert say(bench, OTHER, 40, 1001) == 5


def test_a_proxy_whose_name_moves_does_not_count_twice() -> None:
    names = Names(proxy=PROXY[0], other=OTHER[0])
    bench = Bench(("proxy", 5555), ("other", 5556), resolve=names.resolve)
    say(bench, PROXY, 3, 500)
    names.hosts["proxy"] = ["10.1.1.99"]
    for second in range(301):  # until the name is looked up again
        say(bench, OTHER, 40, 1000 + second)
        say(bench, PROXY, 3, 501 + second)
        run(bench.clock, 1)
    assert say(bench, ("10.1.1.99", 5555), 7, 0) == 40
    assert say(bench, OTHER, 40, 1301) == 7


@pytest.mark.parametrize(
    ("source", "tag"), [(("10.9.9.9", 5555), 0), (OTHER, 0x99)], ids=["from elsewhere", "for another instance"]
)
def test_a_probe_that_does_not_count_says_nothing(source: Address, tag: int) -> None:
    bench = Bench(PROXY, OTHER)
    say(bench, OTHER, 40, 0)
    bench.receive(ProbeRequest(1, 1, 77, tag), source)
    assert say(bench, PROXY, 3, 1000) == 40


def test_a_count_on_the_wire_is_what_the_vectors_say() -> None:
    bench = Bench(PROXY, OTHER)
    say(bench, OTHER, COUNT_MAX, 0)
    bench.receive(ProbeRequest(1000, 1, 0))
    datagram, _ = bench.transport.written[-1]
    assert datagram[20:] == bytes([255] * 4)
