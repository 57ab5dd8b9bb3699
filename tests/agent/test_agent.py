"""The back-end's side of the protocol, on a clock of its own and with names that resolve when the test says."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import MessageLengthError
from twisted.internet.task import Clock

from rproxy.agent.agent import Agent
from rproxy.agent.environment import Environment, Resolve
from rproxy.agent.registrar import Registration
from rproxy.agent.sampler import Load
from rproxy.net.addresses import Address
from rproxy.wire.pdu import UINT32_MAX, UINT64_MAX, Pdu, ProbeRequest, ProbeResponse, Register, Unregister, encode
from tests.fakes import Datagrams, StubSampler, logged, run, texts

VECTORS = Path(__file__).parents[1] / "data" / "vectors.json"
DROPPED = [pytest.param(vector["hex"], id=vector["name"]) for vector in json.loads(VECTORS.read_text())["dropped"]]
PROXY: Address = ("10.1.1.10", 5555)
OTHER: Address = ("10.1.1.11", 5556)
INSTANCE = 0x0102030405060708
REGISTER = Register(80, 20_000, INSTANCE, 150)


class Names:
    """A resolver; `hold` keeps look-ups open until the test ends them."""

    def __init__(self, **hosts: str) -> None:
        self.hosts = {name: [address] for name, address in hosts.items()}
        self.asked: list[str] = []
        self.hold = False
        self.held: list[Deferred[Sequence[str]]] = []

    def resolve(self, host: str) -> Deferred[Sequence[str]]:
        self.asked.append(host)
        if self.hold:
            self.held.append(Deferred())
            return self.held[-1]
        if host in self.hosts:
            return succeed(self.hosts[host])
        return fail(socket.gaierror(-2, "Name or service not known"))


def is_address(host: str) -> Deferred[Sequence[str]]:
    return succeed([host])


HINT = (
    "10.1.1.10:5555 does not probe this agent: is it running, does UDP pass both ways, do its --allow and --keyring "
    "fit this host? trying on"
)


class Bench:
    """An agent that has started, and when it registered with whom."""

    def __init__(
        self,
        *proxies: Address,
        interval_s: float = 20.0,
        resolve: Resolve = is_address,
        jitter: Callable[[], float] = lambda: 0.0,
        family: socket.AddressFamily = socket.AF_INET,
        trace: bool = False,
    ) -> None:
        self.clock = Clock()
        self.sampler = StubSampler()
        self.agent = Agent(
            Registration(interval_s, INSTANCE, 80, 150),
            proxies or (PROXY,),
            self.sampler,
            Environment(self.clock, resolve, jitter),
            trace=trace,
        )
        self.transport = Datagrams(family)
        self.transport.on_write = self._note
        self.times: list[tuple[float, Address]] = []
        self.agent.makeConnection(self.transport)

    def _note(self, pdu: Pdu, address: Address) -> None:
        if isinstance(pdu, Register):
            self.times.append((self.clock.seconds(), address))

    def registered(self, proxy: Address = PROXY) -> list[float]:
        return [at for at, address in self.times if address == proxy]

    def receive(self, pdu: Pdu, source: Address = PROXY) -> None:
        self.agent.datagramReceived(encode(pdu), source)

    def probe(self, source: Address = PROXY) -> None:
        self.receive(ProbeRequest(0, 1), source)


def run_probed(bench: Bench, seconds: float, *sources: Address) -> None:
    """Let time pass with a probe from each of `sources` every second."""
    for _ in range(int(seconds)):
        for source in sources or (PROXY,):
            bench.probe(source)
        run(bench.clock, 1)


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


def test_an_agent_that_nobody_probes_says_once_what_may_be_wrong() -> None:
    bench = Bench()
    with logged() as events:
        run(bench.clock, 9)
        assert texts(events) == []
        run(bench.clock, 1000)
    assert texts(events) == [HINT]


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


def test_a_probe_from_elsewhere_does_not_pass_for_the_proxys() -> None:
    bench = Bench()
    for _ in range(4):
        bench.probe(OTHER)
        run(bench.clock, 1)
    assert bench.registered() == [0, 1, 3]


@pytest.mark.parametrize("pdu", [REGISTER, Unregister(80, INSTANCE), ProbeResponse(0, 1, 1, 1, 1, 1)])
def test_any_other_pdu_from_the_proxy_is_counted_and_not_answered(pdu: Pdu) -> None:
    bench = Bench()
    bench.transport.take()
    bench.receive(pdu)
    assert bench.transport.sent == []
    assert bench.agent.counters == {"unexpected-type": 1}


@pytest.mark.parametrize("tag", [2, UINT32_MAX, 1 << 31])
def test_a_probe_for_another_instance_is_counted_not_answered_and_no_sign_of_life(tag: int) -> None:
    """Somebody repeats the registration of an earlier start, and a proxy that was restarted asks for that."""
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


def test_several_proxies_are_registered_with_and_kept_apart() -> None:
    bench = Bench(PROXY, OTHER, interval_s=1000)
    run_probed(bench, 8, OTHER)
    assert bench.registered(PROXY) == [0, 1, 3, 7]
    assert bench.registered(OTHER) == [0]
    run_probed(bench, 11, PROXY)
    assert bench.registered(PROXY) == [0, 1, 3, 7]
    assert bench.registered(OTHER) == [0, 7 + 12]


def test_each_proxy_is_answered_where_it_asked_from() -> None:
    bench = Bench(PROXY, OTHER)
    bench.transport.take()
    bench.probe(OTHER)
    bench.probe(PROXY)
    assert [address for _, address in bench.transport.take()] == [OTHER, PROXY]


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


def test_an_exception_in_the_registering_loop_is_logged_and_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    run_probed(bench, 19)
    with logged() as events, monkeypatch.context() as broken:
        broken.setattr(bench.agent, "send", lambda *_: 1 / 0)
        run(bench.clock, 2)
    assert [event["log_failure"].type for event in events if "log_failure" in event] == [ZeroDivisionError]
    run_probed(bench, 25)
    assert bench.registered() == [0, 40]


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


def test_unregister_tells_each_proxy_whose_address_is_known_and_stops_every_timer() -> None:
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


@pytest.mark.parametrize(("interval_s", "interval_ms"), [(20, 20_000), (0.0005, 1), (0.25, 250), (1e-9, 1)])
def test_the_interval_on_the_wire_is_in_milliseconds_and_never_zero(interval_s: float, interval_ms: int) -> None:
    assert Registration(interval_s, INSTANCE).interval_ms == interval_ms


def test_two_names_of_one_proxy_are_both_probed() -> None:
    bench = Bench(("one", 5555), ("other", 5555), resolve=lambda host: is_address(PROXY[0]))
    with logged() as events:
        run_probed(bench, 30)
    assert sorted(texts(events)) == [
        "one:5555 (10.1.1.10:5555) probes this agent",
        "other:5555 (10.1.1.10:5555) probes this agent",
    ]
