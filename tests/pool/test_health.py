"""What lost probes, failed connects and silence do to a back-end, and for how long it is held down."""

from __future__ import annotations

import pytest

from rproxy.pool.backend import Backend
from rproxy.pool.health import FALL, HOLD_MAX_S, HOLD_MIN_S, REFUSALS, is_silent
from rproxy.pool.states import State
from tests.pool.driving import Driver, agent, transition_of


class TestGoingDown:
    def test_the_third_probe_lost_in_a_row_takes_it_down(self, driver: Driver) -> None:
        backend = driver.up()
        suspected = driver.lose(driver.probe(backend))
        assert suspected is not None
        assert (suspected.before, suspected.after) == (State.UP, State.SUSPECT)
        assert driver.lose(driver.probe(backend)) is None
        assert driver.pool.eligible == [backend]
        transition = driver.lose(driver.probe(backend))
        assert transition is not None
        assert (transition.backend, transition.before, transition.after) == (backend, State.SUSPECT, State.DOWN)
        assert driver.pool.eligible == []

    def test_an_answer_in_between_starts_the_count_anew(self, driver: Driver) -> None:
        backend = driver.up()
        for lost in [True, True, False, True, True]:
            probe = driver.probe(backend)
            if lost:
                driver.lose(probe)
            else:
                driver.answer(probe)
        assert driver.pool.eligible == [backend]

    def test_more_losses_are_no_more_transitions(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        assert driver.lose(driver.probe(backend)) is None
        assert backend.state is State.DOWN

    def test_one_that_never_answered_is_forgotten_with_its_first_loss(self, driver: Driver) -> None:
        transition = driver.lose(driver.probe(driver.register()))
        assert transition is not None
        assert (transition.before, transition.after) == (State.REGISTERED, State.FORGOTTEN)
        assert len(driver.pool) == 0

    def test_registering_does_not_bring_it_up(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.register()
        assert backend.state is State.DOWN
        assert driver.pool.eligible == []

    def test_the_second_answer_in_a_row_brings_it_up(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.now = backend.health.held_until
        assert driver.report(backend).transition is None
        assert driver.pool.eligible == []
        transition = driver.report(backend).transition
        assert transition is not None
        assert (transition.before, transition.after) == (State.DOWN, State.UP)
        assert driver.pool.eligible == [backend]

    def test_a_loss_in_between_starts_the_count_of_answers_anew(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.now = backend.health.held_until
        driver.report(backend)
        driver.lose(driver.probe(backend))
        driver.report(backend)
        assert driver.pool.eligible == []
        driver.report(backend)
        assert driver.pool.eligible == [backend]

    def test_its_losses_are_cleared_when_it_recovers(self, driver: Driver) -> None:
        backend = driver.up()
        for _ in range(50):
            driver.lose(driver.probe(backend))
        driver.recover(backend)
        assert (backend.losses.rate, backend.health.misses) == (0.0, 0)

    def test_losses_that_did_not_take_it_down_stay_in_the_window(self, driver: Driver) -> None:
        backend = driver.up()
        driver.lose(driver.probe(backend))
        driver.report(backend)
        assert backend.losses.rate == pytest.approx(1 / 3)


class TestLivenessCheck:
    LIVENESS_S = 10.0

    def check(self, driver: Driver, backend: Backend) -> State | None:
        transition = driver.check(backend, self.LIVENESS_S)
        return None if transition is None else transition.after

    @pytest.mark.parametrize(("silent_s", "after"), [(0.0, None), (10.0, None), (10.5, State.DOWN)])
    def test_one_that_answered_nothing_since_the_last_check_goes_down(
        self, driver: Driver, silent_s: float, after: State | None
    ) -> None:
        backend = driver.up()
        driver.now += silent_s
        assert self.check(driver, backend) is after
        assert backend.eligible is (after is None)

    def test_registering_is_no_sign_of_life(self, driver: Driver) -> None:
        backend = driver.up()
        driver.now += 11
        driver.register()
        assert self.check(driver, backend) is State.DOWN

    def test_one_that_never_answered_is_forgotten(self, driver: Driver) -> None:
        backend = driver.register()
        assert self.check(driver, backend) is State.FORGOTTEN
        assert len(driver.pool) == 0

    @pytest.mark.parametrize("state", [State.UP, State.SUSPECT])
    @pytest.mark.parametrize(("interval_s", "patience_s"), [(0.5, 60.0), (20.0, 200.0), (7200.0, 72_000.0)])
    def test_one_that_answers_but_does_not_register_any_more_is_forgotten_after_ten_intervals(
        self, driver: Driver, interval_s: float, patience_s: float, state: State
    ) -> None:
        """Its agent was started again for another service: what answers is not what has registered."""
        backend = driver.up(interval_ms=round(interval_s * 1000))
        registered_at = driver.now
        driver.now = registered_at + patience_s - 1
        driver.report(backend, after_s=0)
        if state is State.SUSPECT:
            driver.lose(driver.probe(backend))
        assert (backend.state, self.check(driver, backend)) == (state, None)
        driver.now = registered_at + patience_s
        assert self.check(driver, backend) is State.FORGOTTEN

    def test_one_that_registers_as_it_said_is_kept(self, driver: Driver) -> None:
        backend = driver.up()
        for _ in range(100):
            driver.now += 20
            driver.register()
            driver.report(backend)
            assert self.check(driver, backend) is None

    def test_a_forgotten_one_is_left_alone(self, driver: Driver) -> None:
        backend = driver.register()
        driver.unregister()
        assert self.check(driver, backend) is None

    @pytest.mark.parametrize(
        ("interval_s", "patience_s"), [(0.5, 60.0), (20.0, 60.0), (30.0, 90.0), (86_400.0, 3600.0)]
    )
    def test_one_that_is_down_is_forgotten_after_lasting_silence(
        self, driver: Driver, interval_s: float, patience_s: float
    ) -> None:
        """Three of its intervals, but no less than a minute and no more than an hour."""
        backend = driver.up(interval_ms=round(interval_s * 1000))
        driver.down(backend)
        assert backend.answered_at is not None
        silent_since = backend.answered_at
        driver.now = silent_since + patience_s - 0.5
        assert self.check(driver, backend) is None
        driver.now = silent_since + patience_s
        assert self.check(driver, backend) is State.FORGOTTEN
        assert driver.pool.get(backend.address, backend.port) is None

    def test_one_that_is_down_is_forgotten_whoever_repeats_its_registration(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        transitions = []
        for _ in range(4):
            driver.now += 20
            driver.register()
            transitions.append(self.check(driver, backend))
        assert transitions == [None, None, State.FORGOTTEN, None]

    def test_a_forgotten_backend_may_come_back(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.now += 61
        self.check(driver, backend)
        again = driver.up()
        assert again is not backend
        assert driver.pool.eligible == [again]


class TestHoldDown:
    def test_answers_do_not_bring_it_up_before_its_hold_down_is_over(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        for _ in range(5):
            driver.report(backend)
        assert backend.health.held_until - driver.now == pytest.approx(HOLD_MIN_S, abs=0.1)
        assert driver.pool.eligible == []
        driver.now = backend.health.held_until
        assert driver.report(backend).transition is not None

    def test_it_doubles_up_to_five_minutes(self, driver: Driver) -> None:
        backend = driver.up()
        holds = []
        for _ in range(7):
            driver.down(backend)
            holds.append(backend.health.hold_s)
            driver.now = backend.health.held_until
            driver.report(backend)
            driver.report(backend)
        assert holds == [10, 20, 40, 80, 160, 300, 300]

    def refuse(self, driver: Driver, backend: Backend) -> float:
        """It comes up when its hold-down is over, and all connects to it fail: its next hold-down."""
        driver.now = max(driver.now, backend.health.held_until)
        driver.report(backend)
        driver.report(backend)
        driver.fail_connects(backend, REFUSALS)
        return backend.health.hold_s

    def test_of_one_that_refuses_it_doubles_while_others_serve(self, driver: Driver) -> None:
        dead, well = driver.up(agent(2)), driver.up(agent(3))
        holds_s = []
        for _ in range(4):
            holds_s.append(self.refuse(driver, dead))
            driver.opened(well)
        assert holds_s == [10, 20, 40, 80]

    def test_it_stays_as_it_is_while_no_connect_to_anybody_succeeds(self, driver: Driver) -> None:
        """The network is at fault, or all of the service: as soon as that is well, so is the pool."""
        backends = [driver.up(agent(number)) for number in range(2, 6)]
        assert [self.refuse(driver, backend) for _ in range(5) for backend in backends] == [10] * 20
        driver.recover(backends[0])
        driver.opened(backends[0])
        assert [self.refuse(driver, backend) for _ in range(2) for backend in backends[1:]] == [20] * 6

    def test_of_one_that_is_silent_it_doubles_whoever_serves(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        driver.now = backend.health.held_until
        driver.report(backend)
        driver.report(backend)
        driver.down(backend)
        assert backend.health.hold_s == 20

    def test_it_is_short_again_after_five_minutes_without_trouble(self, driver: Driver) -> None:
        backend = driver.up()
        holds = []
        for up_s in (0, HOLD_MAX_S, HOLD_MAX_S - 10):
            driver.now += up_s
            driver.down(backend)
            holds.append(backend.health.hold_s)
            driver.recover(backend)
        assert holds == [HOLD_MIN_S, HOLD_MIN_S, 2 * HOLD_MIN_S]

    def test_a_new_instance_does_not_end_it(self, driver: Driver) -> None:
        """An agent that crashes again and again is another instance each time."""
        backend = driver.up()
        driver.down(backend)
        driver.register(instance=2)
        driver.answer(driver.probe(backend, driver.candidate(backend)))
        driver.report(backend)
        assert backend.state is State.DOWN


class TestRefusedConnects:
    def test_the_third_in_a_row_takes_it_down(self, driver: Driver) -> None:
        backend = driver.up()
        assert driver.fail_connects(backend, 2) is None
        transition = driver.fail_connects(backend)
        assert transition is not None
        assert (transition.before, transition.after) == (State.UP, State.DOWN)
        assert driver.pool.eligible == []

    def test_one_that_succeeds_starts_the_count_anew(self, driver: Driver) -> None:
        backend = driver.up()
        driver.fail_connects(backend, 2)
        driver.opened(backend)
        driver.fail_connects(backend, 2)
        assert backend.state is State.UP

    def test_a_connect_alone_proves_nothing(self, driver: Driver) -> None:
        """Its end may be the failure."""
        backend = driver.up()
        for _ in range(REFUSALS):
            driver.lease(backend)
            driver.pool.connected(backend)
            transition = driver.fail_connects(backend)
        assert transition is not None
        assert backend.state is State.DOWN

    def test_one_that_answers_no_new_session_goes_down_at_once_and_comes_back_as_after_refusals(
        self, driver: Driver
    ) -> None:
        backend, other = driver.up(), driver.up(agent(2))
        transition = transition_of(driver.pool.unresponsive(backend, 5, 10.4, driver.now))
        assert transition is not None
        assert (transition.after, transition.reason) == (State.DOWN, "5 new sessions got no byte for 10 s")
        assert driver.pool.eligible == [other]
        assert transition_of(driver.pool.unresponsive(backend, 5, 10.4, driver.now)) is None
        driver.recover(backend)
        assert set(driver.pool.eligible) == {backend, other}

    def test_answered_probes_bring_it_up_after_its_hold_down_and_then_one_failure_is_enough(
        self, driver: Driver
    ) -> None:
        backend, other = driver.up(), driver.up(agent(2))
        driver.fail_connects(backend, REFUSALS)
        driver.report(backend)
        assert driver.pool.eligible == [other]
        driver.opened(other)
        driver.now = backend.health.held_until
        driver.report(backend)
        assert driver.pool.eligible == [other, backend]
        assert driver.fail_connects(backend) is not None
        assert (backend.state, backend.health.hold_s) == (State.DOWN, 20)

    def test_after_a_connect_that_succeeds_it_takes_three_again(self, driver: Driver) -> None:
        backend = driver.up()
        driver.fail_connects(backend, REFUSALS)
        driver.recover(backend)
        driver.opened(backend)
        assert driver.fail_connects(backend, REFUSALS - 1) is None

    def test_it_is_silent_only_if_probes_are_lost_as_well(self, driver: Driver) -> None:
        backend = driver.up()
        driver.fail_connects(backend, REFUSALS)
        silent = [is_silent(backend)]
        for _ in range(FALL):
            driver.lose(driver.probe(backend))
            silent.append(is_silent(backend))
        driver.answer(driver.probe(backend))
        silent.append(is_silent(backend))
        assert silent == [False, False, False, True, False]

    def test_one_that_lost_probes_is_silent(self, driver: Driver) -> None:
        backend = driver.up()
        driver.down(backend)
        assert is_silent(backend)

    @pytest.mark.parametrize("state", [State.REGISTERED, State.FORGOTTEN])
    def test_one_that_gets_no_client_is_left_alone(self, driver: Driver, state: State) -> None:
        backend = driver.register()
        if state is State.FORGOTTEN:
            driver.unregister()
        assert driver.fail_connects(backend, REFUSALS) is None
        assert backend.state is state
