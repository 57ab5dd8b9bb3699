"""The timers of one back-end, over a real pool and with an agent that answers at once or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock

from rproxy.pool.backend import Backend
from rproxy.pool.events import ProbeLost
from rproxy.pool.probes import Probe
from rproxy.pool.states import State
from rproxy.sources.agents.monitor import TICK_S
from rproxy.sources.agents.probe_timeouts import ProbeTimeouts
from rproxy.sources.agents.prober import Prober, Timing
from rproxy.timing.wheel import Wheel
from tests.fakes import logged, run
from tests.pool.driving import Driver, response

HOLD_S = 10.0
"""The first hold-down."""


class Probes:
    """The probing of one back-end that has registered: `times` of probes, checks and losses.

    What is `broken`, of "probe" and "check", raises.
    """

    def __init__(self, timing: Timing | None = None, jitter: Callable[[], float] = lambda: 0.5) -> None:
        self._time = Clock()
        self.clock: IReactorTime = self._time
        self.timing = timing or Timing()
        self.jitter = jitter
        self.timeouts = ProbeTimeouts(
            self.clock, self.timing.probe_timeout_s, lambda since: self.clock.seconds() - since
        )
        self.wheel = Wheel(self.clock, TICK_S)
        self.answering = True
        self.broken: set[str] = set()
        self.on_check: Callable[[], None] = lambda: None
        self.times: list[float] = []
        self.checks: list[float] = []
        self.losses: list[float] = []
        self._tokens = count(1)
        driver = Driver()
        driver.now = self.clock.seconds()
        self._pool = driver.pool
        self.backend = driver.register()
        self.prober = Prober(self, self.backend)

    def probe(self, backend: Backend) -> None:
        assert backend is self.backend
        self.times.append(self.clock.seconds())
        self._fail("probe")
        probe = self.send()
        if self.answering:
            self.answer(probe)

    def send(self) -> Probe:
        backend, now = self.backend, self.clock.seconds()
        probe = self._pool.probe(backend, backend.registration, next(self._tokens), now)
        self.prober.sent(probe)
        return probe

    def answer(self, probe: Probe) -> None:
        self._pool.respond(probe.registration.agent, response(probe), self.clock.seconds())
        self.prober.answered(probe.request.token)

    def timed_out(self, probe: Probe) -> None:
        self.losses.append(self.clock.seconds())
        for event in self._pool.lost(probe.request.token, self.clock.seconds()):
            if isinstance(event, ProbeLost) and event.first:
                self.prober.reprobe()

    def check(self, backend: Backend) -> None:
        assert backend is self.backend
        self.checks.append(self.clock.seconds())
        self._fail("check")
        self.on_check()

    def _fail(self, where: str) -> None:
        if where in self.broken:
            raise ValueError(f"a bug in {where}")

    def up(self) -> Probes:
        """The first probe, which others send, is answered."""
        self.answer(self.send())
        return self

    def down(self) -> Probes:
        """It has answered, and then never again: 8 s later it is down."""
        self.up().answering = False
        self.run(8.0)
        assert self.backend.state is State.DOWN
        return self

    def done(self) -> list[list[float]]:
        return [list(each) for each in (self.times, self.checks, self.losses)]

    def run(self, seconds: float) -> None:
        run(self._time, seconds)


def test_before_its_first_answer_nothing_is_probed() -> None:
    probes = Probes()
    probes.run(60.0)
    assert probes.times == []


def test_from_its_first_answer_on_it_is_probed_at_the_interval() -> None:
    probes = Probes(Timing(probe_interval_s=2.0))
    probes.run(3.0)
    probes.up()
    probes.run(8.5)
    assert probes.times == [5.0, 7.0, 9.0, 11.0]


@pytest.mark.parametrize(("draw", "interval_s"), [(0.0, 4.5), (0.25, 4.75), (0.5, 5.0), (1.0, 5.5)])
def test_jitter_moves_a_probe_by_a_tenth_of_the_interval_at_most(draw: float, interval_s: float) -> None:
    probes = Probes(jitter=lambda: draw).up()
    probes.run(17.5)
    assert probes.times == pytest.approx([interval_s, 2 * interval_s, 3 * interval_s])


def test_every_interval_is_drawn_anew() -> None:
    draws: Iterator[float] = iter([0.0, 1.0, 0.5, 0.0])
    probes = Probes(jitter=lambda: next(draws)).up()
    probes.run(15.5)
    assert probes.times == pytest.approx([4.5, 10.0, 15.0])


def test_answers_do_not_bring_the_next_probe_forward() -> None:
    probes = Probes().up()
    for _ in range(4):
        probes.run(1.0)
        probes.answer(probes.send())
    probes.run(2.0)
    assert probes.times == [5.0]


def test_a_probe_is_lost_once_its_timeout_is_over_and_told_once() -> None:
    probes = Probes(Timing(probe_timeout_s=0.25)).up()
    probes.send()
    probes.run(0.25)
    probes.run(2.0)
    assert probes.losses == [0.25]


def test_a_probe_that_is_answered_within_its_timeout_is_not_lost() -> None:
    probes = Probes().up()
    probe = probes.send()
    probes.run(0.499)
    probes.answer(probe)
    probes.run(60.0)
    assert probes.losses == []


def test_several_probes_on_their_way_end_each_by_itself() -> None:
    probes = Probes()
    sent = []
    for _ in range(4):
        sent.append(probes.send())
        probes.run(0.1)
    probes.answer(sent[1])
    probes.answer(sent[2])
    probes.run(0.5)
    assert probes.losses == pytest.approx([0.5, 0.8])


def test_after_a_first_miss_it_is_probed_again_1_and_2_seconds_later_and_is_down_within_8() -> None:
    probes = Probes().up()
    probes.answering = False
    probes.run(8.0)
    assert probes.times == [5.0, 6.5, 7.5]
    assert probes.losses == [5.5, 7.0, 8.0]
    assert probes.backend.state is State.DOWN


def test_while_it_is_down_it_is_probed_at_the_interval_alone() -> None:
    probes = Probes().down()
    probes.run(22.0)
    assert probes.times == [5.0, 6.5, 7.5, 10.0, 15.0, 20.0, 25.0, 30.0]


@pytest.mark.parametrize(("silent_s", "times"), [(6.0, [5.0, 6.5]), (7.0, [5.0, 6.5, 7.5])])
def test_an_answer_ends_the_probes_that_were_to_follow_soon(silent_s: float, times: list[float]) -> None:
    probes = Probes().up()
    probes.answering = False
    probes.run(silent_s)
    probes.answering = True
    probes.run(13.0 - silent_s)
    assert probes.times == [*times, 10.0]
    assert probes.backend.state is State.UP


def test_an_answer_to_a_probe_sent_before_the_miss_ends_them_too() -> None:
    probes = Probes().up()
    probes.send()
    probes.run(0.4)
    later = probes.send()
    probes.run(0.2)
    assert probes.losses == [0.5]
    probes.answer(later)
    probes.run(4.0)
    assert (probes.times, probes.losses) == ([], [0.5])


def test_another_first_miss_is_followed_soon_again() -> None:
    probes = Probes().up()
    for _ in range(3):
        probes.answering = False
        probes.run(6.0)
        probes.answering = True
        probes.run(4.0)
    missed = [at for each in range(3) for at in (10 * each + 5.0, 10 * each + 6.5, 10 * each + 10.0)]
    assert probes.times == missed


def test_a_miss_of_one_that_is_down_is_not_followed_soon() -> None:
    probes = Probes().down()
    probes.answering = True
    probes.run(2.0)
    assert (probes.backend.state, probes.backend.health.misses) == (State.DOWN, 0)
    probes.answering = False
    probes.run(11.0)
    assert probes.times[-3:] == [10.0, 15.0, 20.0]


def test_one_that_answers_again_is_probed_as_soon_as_its_hold_down_is_over() -> None:
    probes = Probes().down()
    held_until = 8.0 + HOLD_S
    probes.answering = True
    probes.run(20.0)
    assert probes.times[3:] == [10.0, 15.0, held_until, held_until + 5.0, held_until + 10.0]
    assert probes.backend.state is State.UP


def test_after_its_hold_down_the_answer_that_brings_it_up_is_asked_for_a_second_after_the_first() -> None:
    probes = Probes().down()
    probes.run(21.0)
    probes.answering = True
    probes.run(7.5)
    assert probes.times[-3:] == [30.0, 31.0, 36.0]
    assert probes.backend.state is State.UP


def test_the_hold_down_never_puts_a_probe_off() -> None:
    probes = Probes(Timing(probe_interval_s=0.75)).up()
    probes.answering = False
    probes.run(2.75)
    assert probes.backend.state is State.DOWN
    probes.answering = True
    probes.run(6.0)
    assert probes.times[-8:] == pytest.approx([3.0 + 0.75 * number for number in range(8)])


def test_one_that_came_up_again_and_misses_is_probed_soon_again() -> None:
    probes = Probes().down()
    probes.answering = True
    probes.run(HOLD_S)
    assert probes.backend.state is State.UP
    probes.answering = False
    probes.run(8.0)
    assert probes.times[-3:] == [23.0, 24.5, 25.5]


def test_until_its_first_answer_life_is_checked_at_an_interval_of_its_own() -> None:
    probes = Probes(Timing(liveness_s=7.0))
    probes.send()
    probes.run(30.0)
    assert probes.checks == [7.0, 14.0, 21.0, 28.0]


def test_from_its_first_answer_on_life_is_checked_beside_every_periodic_probe() -> None:
    probes = Probes(Timing(liveness_s=7.0))
    probes.run(8.0)
    probes.up().answering = False
    probes.run(22.0)
    assert probes.times == [13.0, 14.5, 15.5, 18.0, 23.0, 28.0]
    assert probes.checks == [7.0, 13.0, 18.0, 23.0, 28.0]


def test_life_is_checked_before_the_probe_is_sent() -> None:
    probes = Probes().up()
    sent: list[int] = []
    probes.on_check = lambda: sent.append(len(probes.times))
    probes.run(15.0)
    assert sent == [0, 1, 2]


@pytest.mark.parametrize("answered", [False, True])
def test_an_error_in_a_check_is_logged_and_checks_and_probes_go_on(answered: bool) -> None:
    probes = Probes(Timing(liveness_s=5.0))
    if answered:
        probes.up()
    probes.broken = {"check"}
    with logged() as events:
        probes.run(10.0)
    assert [event["log_failure"].type for event in events] == [ValueError, ValueError]
    probes.broken.clear()
    probes.run(10.0)
    assert probes.checks == [5.0, 10.0, 15.0, 20.0]
    assert probes.times == (probes.checks if answered else [])


def test_an_error_in_a_probe_is_logged_and_the_probes_go_on() -> None:
    probes = Probes().up()
    probes.broken = {"probe"}
    with logged() as events:
        probes.run(5.0)
    assert [event["log_failure"].type for event in events] == [ValueError]
    probes.broken.clear()
    probes.run(10.0)
    assert probes.times == [5.0, 10.0, 15.0]


def test_an_error_in_a_probe_that_follows_soon_is_logged_and_the_next_one_comes() -> None:
    probes = Probes().up()
    probes.answering = False
    probes.run(6.0)
    probes.broken = {"probe"}
    with logged() as events:
        probes.run(1.0)
    assert [event["log_failure"].type for event in events] == [ValueError]
    probes.broken.clear()
    probes.run(1.0)
    assert probes.times == [5.0, 6.5, 7.5]


def fresh(probes: Probes) -> None:
    """It has only registered."""


def asked(probes: Probes) -> None:
    probes.send()
    probes.send()


def answered(probes: Probes) -> None:
    probes.up()


def missed(probes: Probes) -> None:
    probes.up().answering = False
    probes.run(6.6)


def down_timeout(probes: Probes) -> None:
    probes.down()


@pytest.mark.parametrize("state", [fresh, asked, answered, missed, down_timeout], ids=lambda it: it.__name__)
def test_a_stop_cancels_every_timer_and_may_come_twice(state: Callable[[Probes], None]) -> None:
    probes = Probes()
    state(probes)
    done = probes.done()
    for _ in range(2):
        probes.prober.stop()
        probes.timeouts.stop()
        probes.wheel.stop()
        assert probes.clock.getDelayedCalls() == []
    probes.run(60.0)
    assert probes.done() == done


def test_after_a_stop_no_probe_is_lost_whoever_else_waits_for_answers() -> None:
    probes = Probes().up()
    probes.send()
    probes.prober.stop()
    probes.run(60.0)
    assert probes.losses == []
    assert probes.clock.getDelayedCalls() == []


@pytest.mark.parametrize("answered", [False, True])
def test_a_check_may_stop_everything_itself(answered: bool) -> None:
    probes = Probes()
    if answered:
        probes.up()
    probes.on_check = probes.prober.stop
    probes.run(30.0)
    assert (probes.checks, probes.times) == ([5.0 if answered else 10.0], [])
    assert probes.clock.getDelayedCalls() == []


def test_the_loss_of_the_only_probe_of_what_never_answered_may_stop_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = Probes()
    told = probes.timed_out

    def forget(probe: Probe) -> None:
        told(probe)
        assert probes.backend.state is State.FORGOTTEN
        probes.prober.stop()

    monkeypatch.setattr(probes, "timed_out", forget)
    probes.send()
    probes.run(0.5)
    assert probes.losses == [0.5]
    assert probes.clock.getDelayedCalls() == []


def test_probes_that_have_ended_are_not_remembered() -> None:
    probes = Probes().up()
    probes.run(30.0)
    probes.answering = False
    probes.run(30.5)
    assert (len(probes.losses), probes.prober._open) == (8, set())
