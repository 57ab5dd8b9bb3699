"""An agent that is stopped waits until its proxies have no session on its service."""

from __future__ import annotations

from rproxy.agent.drain_wait import REMIND_S, DrainWait
from rproxy.agent.echo import FORGET_S
from rproxy.timing.rate_limit import LOG_EVERY_S
from rproxy.wire.pdu import ProbeRequest, ProbeResponse
from tests.agent.bench import OTHER, PROXY, Bench
from tests.fakes import logged, run, texts
from tests.tap.services import ended

LIMIT_S = 30.0


class Waiting(Bench):
    """An agent of two proxies; its wait begins with `begin`."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        super().__init__(PROXY, OTHER, interval_s=1000)
        self.told: list[int] = []
        self.wait = DrainWait(self.clock, self.agent, limit_s, self.told.append)
        self.over: list[object] = []
        self._numbers = {PROXY: 0, OTHER: 1_000_000}

    def begin(self) -> None:
        run(self.clock, 0.5)
        self.over = ended(self.wait.start())
        run(self.clock, 0.01)

    def say(self, sessions: int | None, source: tuple[str, int] = PROXY) -> ProbeResponse:
        """A probe that tells how many sessions its proxy has; returns the answer."""
        self._numbers[source] += 1
        self.receive(ProbeRequest(self._numbers[source], 1, sessions), source)
        ((pdu, _),) = self.transport.sent[-1:]
        assert isinstance(pdu, ProbeResponse)
        return pdu

    @property
    def is_over(self) -> bool:
        """Whether it is soon."""
        run(self.clock, 0.15)
        return self.over == [None]


def test_it_ends_once_the_proxy_has_no_session_left() -> None:
    bench = Waiting()
    bench.say(2)
    bench.begin()
    for sessions in (2, 2, 1):
        assert bench.say(sessions).draining
        assert not bench.is_over
    bench.say(0)
    timers = len(bench.clock.getDelayedCalls())
    assert bench.is_over
    assert len(bench.clock.getDelayedCalls()) == timers - 2


def test_what_it_said_before_it_knew_that_the_agent_drains_does_not_count() -> None:
    """It may have given the service another client until the first answer arrived."""
    bench = Waiting()
    bench.say(0)
    bench.begin()
    assert not bench.is_over
    bench.say(0)
    assert not bench.is_over
    bench.say(1)
    assert not bench.is_over
    bench.say(0)
    assert bench.is_over


def test_it_ends_when_all_proxies_have_none() -> None:
    bench = Waiting()
    bench.say(1)
    bench.say(1, OTHER)
    bench.begin()
    for _ in range(3):
        bench.say(0)
        bench.say(1, OTHER)
        assert not bench.is_over
    bench.say(0, OTHER)
    assert bench.is_over


def test_a_proxy_that_comes_meanwhile_is_waited_for_too() -> None:
    bench = Waiting()
    bench.say(1)
    bench.begin()
    bench.say(0)
    bench.say(3, OTHER)
    assert not bench.is_over
    bench.say(0)
    assert not bench.is_over
    bench.say(1, OTHER)
    assert not bench.is_over
    bench.say(0, OTHER)
    assert bench.is_over


def test_a_proxy_that_has_gone_is_not_waited_for() -> None:
    bench = Waiting()
    bench.say(1)
    bench.say(5, OTHER)
    bench.begin()
    for _ in range(int(FORGET_S) - 1):
        run(bench.clock, 1)
        bench.say(0)
    assert not bench.is_over
    run(bench.clock, 1)
    assert bench.is_over


def test_it_lasts_no_longer_than_its_limit_whatever_they_say() -> None:
    bench = Waiting()
    bench.say(None)
    with logged() as events:
        bench.begin()
        for second in range(int(LIMIT_S)):
            bench.say(None if second > 20 else 4)
            run(bench.clock, 1)
    assert bench.over == [None]
    assert bench.told == [4, 4, 4]
    assert [text for text in texts(events) if text.startswith("stopping")] == [
        "stopping: 4 session(s) left, for up to 30 s",
        "stopping: 4 session(s) left, for up to 20 s",
        "stopping: 4 session(s) left, for up to 10 s",
        "stopping: 0 session(s) left besides those of 1 proxies that do not say, after 30 s",
    ]
    assert LOG_EVERY_S == 10


def test_meanwhile_it_registers_every_second_or_so_and_asks_for_no_new_clients() -> None:
    bench = Waiting()
    bench.say(1)
    bench.begin()
    bench.times.clear()
    for _ in range(5):
        run(bench.clock, REMIND_S)
        bench.say(1)
    assert len(bench.registered()) >= 5
    assert all(pdu.draining for pdu, _ in bench.transport.sent[-8:] if not isinstance(pdu, ProbeRequest))  # type: ignore[union-attr]


def test_without_a_proxy_that_probes_there_is_no_wait() -> None:
    bench = Waiting()
    bench.begin()
    assert bench.over == [None]
    bench = Waiting()
    bench.say(1)
    run(bench.clock, FORGET_S)
    bench.begin()
    assert bench.over == [None]


def test_without_a_limit_there_is_no_wait() -> None:
    bench = Waiting(limit_s=0)
    bench.say(1)
    bench.begin()
    assert bench.over == [None]
    assert not bench.agent.draining


def test_it_can_be_ended_and_that_again() -> None:
    bench = Waiting()
    bench.wait.end()
    bench.say(1)
    bench.begin()
    bench.wait.end()
    assert bench.over == [None]
    bench.wait.end()
