"""Back-ends without an agent: checks are to them what probes are to others, and what their agent-checks say counts."""

from __future__ import annotations

import pytest

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal
from rproxy.pool.backend import Backend, StaticTerms
from rproxy.pool.events import AgentCheckChanged, Checked, EligibilityChanged, Events
from rproxy.pool.health import FALL, HOLD_MIN_S, REFUSALS, RISE, SLOW_START_S, is_silent
from rproxy.pool.limits import Limits
from rproxy.pool.states import State
from rproxy.sources.saved.rows import is_kept
from rproxy.wire.agent_check import read
from tests.fakes import UNLIMITED, CountingPolicy
from tests.pool.driving import AGENT, REGISTER, Driver, refused, transition_of

KEY: Address = ("10.0.0.9", 5432)
EVERY_S = 2.0


class Static(Driver):
    """A pool with a static back-end, which `KEY` names."""

    def put(self, key: Address = KEY, *, weight: int = 100, check: str = "connect") -> Backend:
        self.pool.static.put(key, StaticTerms(weight, check), self.now)
        backend = self.pool.get(*key)
        assert backend is not None
        return backend

    def checked(self, backend: Backend, failure: str = "", *, refused: bool = False, times: int = 1) -> Events:
        """So many checks come to this. What the last one has caused."""
        events: Events = ()
        for _ in range(times):
            self.now += EVERY_S
            rtt_ms = None if failure else 0.5
            events = self.pool.static.checked(backend, self.now, failure, rtt_ms=rtt_ms, refused=refused)
        return events

    def static(self, key: Address = KEY, *, weight: int = 100, check: str = "connect") -> Backend:
        """One that is up."""
        backend = self.put(key, weight=weight, check=check)
        self.checked(backend)
        return backend

    def say(self, backend: Backend, line: str) -> Events:
        return self.pool.static.said(backend, read(line), self.now)


@pytest.fixture
def driver() -> Static:
    return Static()


class TestChecks:
    def test_it_gets_no_client_before_a_check_was_answered(self, driver: Static) -> None:
        backend = driver.put()
        assert (backend.state, backend.has_agent, list(driver.pool.eligible)) == (State.REGISTERED, False, [])
        driver.checked(backend)
        assert (backend.state, list(driver.pool.eligible)) == (State.UP, [backend])
        assert backend.answered_at == driver.now
        assert backend.rtt.last_ms == 0.5

    def test_three_failures_in_a_row_take_it_down(self, driver: Static) -> None:
        backend = driver.static()
        states = []
        for _ in range(FALL):
            driver.checked(backend, "Connection refused")
            states.append(backend.state)
        assert states == [State.SUSPECT, State.SUSPECT, State.DOWN]
        assert not backend.eligible

    def test_an_answer_in_between_starts_the_count_anew(self, driver: Static) -> None:
        backend = driver.static()
        for _ in range(5):
            driver.checked(backend, "Connection refused", times=FALL - 1)
            driver.checked(backend)
        assert backend.is_up

    def test_two_answers_bring_it_up_again_after_its_hold_down(self, driver: Static) -> None:
        backend = driver.static()
        driver.checked(backend, "no connection", times=FALL)
        fell_at = driver.now
        driver.checked(backend, times=RISE)
        assert not backend.is_up
        while backend.state is State.DOWN:
            driver.checked(backend)
        assert driver.now - fell_at == pytest.approx(HOLD_MIN_S, abs=EVERY_S)

    def test_a_single_answer_after_the_hold_down_does_not(self, driver: Static) -> None:
        backend = driver.static()
        driver.checked(backend, "no connection", times=FALL)
        driver.now += HOLD_MIN_S
        driver.checked(backend)
        assert not backend.is_up
        driver.checked(backend)
        assert backend.is_up

    def test_one_that_fails_from_the_start_is_down_and_stays_in_the_pool(self, driver: Static) -> None:
        backend = driver.put()
        driver.checked(backend, "Connection refused", times=FALL - 1)
        assert backend.state is State.REGISTERED
        transition = transition_of(driver.checked(backend, "Connection refused"))
        assert transition is not None
        assert transition.reason == "3 checks in a row failed: Connection refused"
        driver.checked(backend, "Connection refused", times=10_000)
        assert (backend.state, list(driver.pool)) == (State.DOWN, [backend])

    def test_one_that_is_down_gets_clients_in_a_panic(self) -> None:
        driver = Static(limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
        backend = driver.put()
        driver.checked(backend, "no connection", times=FALL)
        assert (driver.pool.panicking, backend.eligible) == (True, True)

    def test_one_whose_checks_are_refused_gets_none_then_until_one_succeeds(self) -> None:
        driver = Static(limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
        backend = driver.static()
        driver.checked(backend, "Connection refused", refused=True, times=FALL)
        assert (driver.pool.panicking, backend.eligible) == (True, False)
        driver.checked(backend, "no answer")
        assert backend.eligible
        driver.checked(backend, "Connection refused", refused=True)
        assert not backend.eligible
        driver.checked(backend, refused=True)  # it was answered, and did not fail
        assert (backend.state, backend.eligible) == (State.DOWN, True)

    def test_it_starts_slowly(self) -> None:
        driver = Static(limits=UNLIMITED)
        backend = driver.static()
        assert backend.share == 0.1
        driver.now += SLOW_START_S
        driver.pool.tick(driver.now)
        assert backend.share == 1

    def test_failed_connects_of_clients_take_it_down_and_checks_bring_it_up(self, driver: Static) -> None:
        backend = driver.static(check="none")
        driver.fail_connects(backend, REFUSALS)
        assert not backend.is_up
        driver.pool.static.checked(backend, driver.now)
        driver.pool.static.checked(backend, driver.now)
        assert not backend.is_up
        driver.now += HOLD_MIN_S
        driver.pool.static.checked(backend, driver.now)
        driver.pool.static.checked(backend, driver.now)
        assert backend.is_up

    def test_without_a_connect_nothing_is_measured(self, driver: Static) -> None:
        backend = driver.put(check="none")
        driver.pool.static.checked(backend, driver.now)
        assert (backend.state, backend.answered_at, backend.rtt.last_ms) == (State.UP, None, None)

    def test_the_policy_hears_of_every_check(self) -> None:
        policy = CountingPolicy()
        driver = Static(policy)
        backend = driver.static()
        driver.checked(backend, times=3)
        driver.checked(backend, "no connection", times=2)
        assert (policy.told["reported"][backend], policy.told["failed"][backend]) == (4, 2)

    def test_the_first_event_is_the_check(self, driver: Static) -> None:
        backend = driver.put()
        assert driver.checked(backend, "Connection refused")[0] == Checked(backend, "Connection refused")
        assert driver.checked(backend)[0] == Checked(backend, "")

    def test_the_sessions_that_a_check_has_seen_are_those_of_its_end(self, driver: Static) -> None:
        backend = driver.static()
        driver.opened(backend, 3)
        driver.checked(backend)
        assert backend.report.counted == 3

    @pytest.mark.parametrize(("answered", "silent"), [(True, False), (False, True)])
    def test_one_that_refuses_may_still_serve_its_sessions(self, driver: Static, answered: bool, silent: bool) -> None:
        backend = driver.static()
        driver.checked(backend, "it fails", refused=answered, times=FALL)
        assert is_silent(backend) is silent

    def test_neither_is_one_silent_that_says_that_it_is_down(self, driver: Static) -> None:
        backend = driver.static()
        driver.say(backend, "down")
        assert (backend.state, is_silent(backend)) == (State.DOWN, False)

    def test_no_liveness_check_removes_it(self, driver: Static) -> None:
        backend = driver.put()
        driver.now += 1e6
        assert driver.check(backend) is None
        driver.checked(backend)
        driver.now += 1e6
        assert driver.check(backend) is None
        assert list(driver.pool) == [backend]


class TestWords:
    @pytest.mark.parametrize("word", ["drain", "maint", "0%", "weight:0"])
    def test_some_keep_clients_away(self, driver: Static, word: str) -> None:
        backend = driver.static(check="agent-check:9000")
        driver.opened(backend)
        events = driver.say(backend, word)
        assert (backend.state, backend.draining, backend.eligible) == (State.UP, True, False)
        assert AgentCheckChanged(backend) in events
        assert EligibilityChanged(backend, False) in events
        assert backend.connections == 1
        driver.say(backend, "ready 100%")
        assert (backend.draining, backend.eligible) == (False, True)

    @pytest.mark.parametrize("word", ["down", "fail", "stopped"])
    def test_some_take_it_down_at_once_and_up_brings_it_up_at_once(self, driver: Static, word: str) -> None:
        backend = driver.static(check="agent-check:9000")
        driver.checked(backend)
        transition = transition_of(driver.say(backend, f"{word} # disk full"))
        assert transition is not None
        assert (transition.after, transition.reason) == (State.DOWN, f"its agent-check says {word} (disk full)")
        driver.checked(backend, times=20)
        assert not backend.is_up
        driver.say(backend, "up")
        assert backend.is_up

    def test_not_even_a_panic_uses_one_that_says_that_it_is_down(self) -> None:
        driver = Static(limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
        backend = driver.static()
        driver.say(backend, "down")
        assert (backend.eligible, driver.pool.panicking) == (False, False)

    def test_before_the_first_check_it_may_be_down_already(self, driver: Static) -> None:
        backend = driver.put()
        driver.say(backend, "stopped")
        assert not backend.is_up
        driver.say(backend, "up")
        assert not backend.is_up
        driver.checked(backend, times=RISE)
        assert backend.is_up

    def test_up_does_not_override_failing_checks(self, driver: Static) -> None:
        backend = driver.static()
        driver.checked(backend, "Connection refused", times=FALL)
        driver.say(backend, "up ready 100%")
        assert not backend.is_up

    def test_up_after_checks_have_failed_meanwhile_waits_for_them(self, driver: Static) -> None:
        backend = driver.static()
        driver.say(backend, "down")
        driver.checked(backend, "Connection refused", times=5)
        driver.say(backend, "up")
        assert not backend.is_up
        driver.checked(backend, times=RISE)
        assert backend.is_up

    def test_ready_does_not_bring_up_what_is_down(self, driver: Static) -> None:
        backend = driver.static()
        driver.checked(backend)
        driver.say(backend, "down")
        driver.say(backend, "ready")
        assert not backend.is_up
        driver.say(backend, "drain up")
        assert (backend.state, backend.eligible) == (State.UP, False)

    @pytest.mark.parametrize(
        ("configured", "word", "weight"),
        [
            (50, "50%", 25),
            (50, "200%", 100),
            (1, "50%", 1),
            (3, "50%", 1),
            (60_000, "200%", 65535),
            (50, "weight:7", 7),
            (50, "weight:256", 256),
            (50, "weight:10%", 5),
        ],
    )
    def test_a_weight(self, driver: Static, configured: int, word: str, weight: int) -> None:
        backend = driver.static(weight=configured)
        driver.say(backend, word)
        assert (backend.registration.weight, backend.weight, backend.eligible) == (weight, weight, True)

    def test_another_weight_is_no_news_for_operators(self, driver: Static) -> None:
        backend = driver.static()
        assert AgentCheckChanged(backend) not in driver.say(backend, "60%")
        assert backend.weight == 60
        assert driver.say(backend, "60%") == ()

    def test_what_is_not_mentioned_stays(self, driver: Static) -> None:
        backend = driver.static(weight=50)
        driver.say(backend, "50% maxconn:30 drain")
        driver.say(backend, "up")
        assert backend.static is not None
        assert (backend.weight, backend.draining, backend.static.max_connections) == (25, True, 30)
        assert backend.static.said == "drain, weight 25, maxconn 30"

    def test_a_configured_weight_that_changes_is_the_one_that_a_percentage_is_of(self, driver: Static) -> None:
        backend = driver.static(weight=50, check="agent-check:9000")
        driver.say(backend, "50%")
        driver.put(weight=200, check="agent-check:9000")
        assert backend.weight == 100

    def test_with_another_check_all_that_was_said_is_void(self, driver: Static) -> None:
        backend = driver.static(weight=50, check="agent-check:9000")
        driver.checked(backend)
        driver.say(backend, "down drain 50% maxconn:3")
        driver.put(weight=50)
        assert (backend.state, backend.eligible, backend.weight) == (State.UP, True, 50)
        assert backend.static is not None
        assert backend.static.said == ""


class TestComingAndGoing:
    def test_the_same_terms_change_nothing(self, driver: Static) -> None:
        backend = driver.static()
        assert driver.pool.static.put(KEY, StaticTerms(100, "connect"), driver.now) == ()
        assert driver.put() is backend

    def test_a_weight_changes_without_touching_sessions(self, driver: Static) -> None:
        backend = driver.static()
        driver.opened(backend, 2)
        assert driver.put(weight=300) is backend
        assert (backend.weight, backend.connections, backend.state) == (300, 2, State.UP)

    def test_one_without_sessions_goes_at_once(self, driver: Static) -> None:
        backend = driver.static()
        driver.pool.static.remove(backend, "not configured any more", driver.now)
        assert (backend.state, list(driver.pool)) == (State.FORGOTTEN, [])

    @pytest.mark.parametrize("state", ["up", "down", "unchecked"])
    def test_one_with_sessions_drains(self, driver: Static, state: str) -> None:
        backend = driver.static()
        driver.opened(backend)
        match state:
            case "down":
                driver.checked(backend, "no connection", times=FALL)
            case "unchecked":
                driver.pool.static.remove(backend, "not configured any more", driver.now)
                driver.put()
                assert backend.state is State.REGISTERED
        driver.pool.static.remove(backend, "not configured any more", driver.now)
        assert (backend.state, backend.eligible) == (State.DEPARTED, False)
        assert driver.checked(backend) == driver.say(backend, "up") == ()
        driver.close(backend)
        assert list(driver.pool) == []

    def test_one_that_is_configured_again_keeps_its_sessions(self, driver: Static) -> None:
        backend = driver.static()
        driver.opened(backend)
        driver.pool.static.remove(backend, "not configured any more", driver.now)
        assert driver.put() is backend
        driver.close(backend)
        assert list(driver.pool) == [backend]
        driver.checked(backend)
        assert backend.eligible

    @pytest.mark.parametrize("sessions", [0, 1])
    def test_it_takes_the_place_of_an_agents(self, driver: Static, sessions: int) -> None:
        agents = driver.up()
        driver.report(agents, cpu=90, tcp=7)
        driver.opened(agents, sessions)
        probe = driver.probe(agents)
        backend = driver.put((AGENT[0], 80))
        assert (backend is agents, backend.connections) == (bool(sessions), sessions)
        assert (backend.has_agent, backend.state, backend.report.cpu) == (False, State.REGISTERED, None)
        driver.lose(probe)
        driver.checked(backend)
        assert list(driver.pool.eligible) == [backend]

    def test_what_waits_for_a_probe_is_dropped(self, driver: Static) -> None:
        driver.pool.register(AGENT, REGISTER, driver.now)
        backend = driver.put((AGENT[0], 80))
        assert not driver.pool.has_candidates
        assert not backend.has_agent

    @pytest.mark.parametrize("state", ["unchecked", "up", "down"])
    def test_an_agent_cannot_register_or_unregister_it(self, driver: Static, state: str) -> None:
        backend = driver.put((AGENT[0], 80))
        if state != "unchecked":
            driver.checked(backend)
        if state == "down":
            driver.checked(backend, "no connection", times=FALL)
        with refused(driver.pool, Refusal.STATIC):
            driver.register()
        for instance in (0, 1):
            with refused(driver.pool, Refusal.STATIC):
                driver.unregister(instance=instance)

    def test_another_service_of_that_host_may_register(self, driver: Static) -> None:
        driver.static((AGENT[0], 80))
        assert driver.up(service_port=81).has_agent

    def test_one_that_drains_may_be_taken_over_by_an_agent(self, driver: Static) -> None:
        backend = driver.static((AGENT[0], 80))
        driver.opened(backend)
        driver.pool.static.remove(backend, "not configured any more", driver.now)
        driver.register()
        answered = driver.answer(driver.probe(backend, driver.candidate(backend)), cpu=5)
        assert (backend.has_agent, backend.state, backend.report.cpu, backend.connections) == (True, State.UP, 5, 1)
        assert not answered.restarted
        assert driver.checked(backend, "no connection") == ()

    def test_a_row_of_an_earlier_run_is_not_restored_in_its_place(self, driver: Static) -> None:
        agents = driver.up()
        registration = agents.registration
        driver.pool.exclude(agents, "test", driver.now)
        backend = driver.put((AGENT[0], 80))
        assert driver.pool.restore(registration, 80) is None
        assert not backend.has_agent

    def test_it_is_not_kept_for_the_next_run(self, driver: Static) -> None:
        assert is_kept(driver.up())
        assert not is_kept(driver.static())

    def test_the_limits_on_registrations_do_not_count_it(self) -> None:
        limits = Limits(confirmed=1, unconfirmed=1, host=1)
        driver = Static(limits=limits, slow_start_s=0, panic_below=0)
        backends = [driver.static((AGENT[0], port)) for port in range(1000, 1010)]
        agents = driver.up()
        for backend in backends:
            driver.opened(backend)
            driver.pool.static.remove(backend, "not configured any more", driver.now)
            driver.close(backend)
        assert list(driver.pool) == [agents]
        driver.unregister()
        assert driver.up(service_port=81).eligible
