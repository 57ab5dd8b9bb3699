"""Checks: when they are made, what they change, and that nothing is left of them."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from rproxy.net.addresses import Address
from rproxy.pool.health import HOLD_MIN_S
from rproxy.pool.states import State
from rproxy.sources.static.dial import Dial, Outcome
from rproxy.sources.static.row import DIALS_MAX, INTERVAL_S, JITTER, LOG_EVERY_S, Dials, Entry
from rproxy.timing.wheel import TICK_S
from tests.fakes import logged, texts
from tests.sources.static.bench import PASSED, REFUSED, Bench, entry

KEY: Address = ("10.0.0.9", 80)
OTHER: Address = ("10.0.0.8", 80)
AGENT: Address = ("10.0.0.9", 9000)
SAYS = "agent-check:9000"


def says(line: str) -> Outcome:
    return Outcome(answered=True, rtt_ms=0.4, line=line)


class TestConnects:
    def test_one_is_made_at_once_and_then_every_two_seconds(self) -> None:
        bench = Bench(entry(*KEY))
        bench.dials.outcomes[KEY] = PASSED
        bench.start()
        assert bench.backend(KEY).is_up
        bench.run(60)
        made = bench.dials.at(KEY)
        assert made[0] <= TICK_S
        assert all(gap == pytest.approx(INTERVAL_S, abs=TICK_S) for gap in [b - a for a, b in pairwise(made[1:])])
        assert len(made) >= 30

    def test_three_that_fail_take_it_down_and_two_bring_it_up_after_the_hold_down(self) -> None:
        bench = Bench(entry(*KEY))
        bench.dials.outcomes[KEY] = PASSED
        bench.start(10)
        bench.dials.outcomes[KEY] = REFUSED
        bench.run(3 * INTERVAL_S + TICK_S)
        assert not bench.backend(KEY).is_up
        bench.dials.outcomes[KEY] = PASSED
        bench.run(HOLD_MIN_S - INTERVAL_S)
        assert not bench.backend(KEY).is_up
        bench.run(2 * INTERVAL_S)
        assert bench.backend(KEY).is_up

    def test_no_second_one_is_made_while_one_is_under_way(self) -> None:
        bench = Bench(entry(*KEY))
        bench.start(20)
        assert len(bench.dials.at(KEY)) == 1
        bench.dials.end(KEY, PASSED)
        bench.run(INTERVAL_S * (1 + JITTER))
        assert len(bench.dials.at(KEY)) == 2

    def test_a_fault_of_this_host_says_nothing(self) -> None:
        bench = Bench(entry(*KEY))
        bench.dials.outcomes[KEY] = PASSED
        bench.start()
        bench.dials.outcomes[KEY] = Outcome("Too many open files", is_local=True)
        with logged() as events:
            bench.run(30)
        assert bench.backend(KEY).is_up
        assert texts(events) == ["cannot check: Too many open files"]

    @pytest.mark.parametrize(("own", "sent"), [(None, 2), (0, 0), (1, 1)])
    def test_it_begins_with_the_header_that_sessions_begin_with(self, own: int | None, sent: int) -> None:
        """Agent-checks expect none."""
        bench = Bench(entry(*KEY, check=SAYS, send_proxy=own))
        bench.send_proxy = 2
        bench.start()
        assert [made[1:] for made in bench.dials.made] == [(KEY, sent, False), (AGENT, 0, True)]

    def test_without_a_check_it_is_up_and_nothing_is_connected(self) -> None:
        bench = Bench(entry(*KEY, check="none"))
        bench.start()
        backend = bench.backend(KEY)
        assert backend.is_up
        for _ in range(3):
            bench.pool.choose(bench.clock.seconds())
            bench.pool.refused(backend, bench.clock.seconds())
            bench.pool.closed(backend, bench.clock.seconds(), was_connected=False, served_s=None)
        assert not backend.is_up
        bench.run(HOLD_MIN_S + 2 * INTERVAL_S)
        assert backend.is_up
        assert bench.dials.made == []

    def test_the_first_ones_of_many_are_spread(self) -> None:
        bench = Bench(*[entry(f"10.1.{number >> 8}.{number & 255}") for number in range(900)])
        bench.start(INTERVAL_S)
        made = [at for at, *_ in bench.dials.made]
        assert len(made) == 900
        assert max(made.count(at) for at in made) <= 60


class TestAgentChecks:
    def test_what_it_says_counts(self) -> None:
        bench = Bench(entry(*KEY, weight=50, check=SAYS))
        bench.dials.outcomes |= {KEY: PASSED, AGENT: says("50% up")}
        bench.start()
        backend = bench.backend(KEY)
        assert (backend.state, backend.weight) == (State.UP, 25)
        bench.dials.outcomes[AGENT] = says("drain")
        bench.run(INTERVAL_S)
        assert not backend.eligible
        bench.dials.outcomes[AGENT] = says("ready down # backup")
        with logged() as events:
            bench.run(INTERVAL_S)
        assert not backend.is_up
        assert "back-end 10.0.0.9:80: up -> down (its agent-check says down (backup); static)" in texts(events)

    def test_the_port_is_checked_as_well(self) -> None:
        bench = Bench(entry(*KEY, check=SAYS))
        bench.dials.outcomes |= {KEY: PASSED, AGENT: says("up 100%")}
        bench.start(10)
        bench.dials.outcomes[KEY] = REFUSED
        bench.run(3 * INTERVAL_S + TICK_S)
        assert not bench.backend(KEY).is_up

    def test_in_maintenance_the_port_is_not_checked(self) -> None:
        bench = Bench(entry(*KEY, check=SAYS))
        bench.dials.outcomes |= {KEY: PASSED, AGENT: says("maint")}
        bench.start(10)
        checked, asked = len(bench.dials.at(KEY)), len(bench.dials.at(AGENT))
        bench.run(20)
        assert len(bench.dials.at(KEY)) == checked
        assert len(bench.dials.at(AGENT)) == pytest.approx(asked + 10, abs=1)
        bench.dials.outcomes[AGENT] = says("ready")
        bench.run(2 * INTERVAL_S + TICK_S)
        assert len(bench.dials.at(KEY)) > checked
        assert bench.backend(KEY).eligible

    @pytest.mark.parametrize("outcome", [REFUSED, Outcome("the line has no end", answered=True)])
    def test_one_that_cannot_be_asked_changes_nothing_and_is_logged_once(self, outcome: Outcome) -> None:
        bench = Bench(entry(*KEY, check=SAYS))
        bench.dials.outcomes |= {KEY: PASSED, AGENT: says("50%")}
        bench.start()
        bench.dials.outcomes[AGENT] = outcome
        with logged() as events:
            bench.run(300)
        backend = bench.backend(KEY)
        assert (backend.state, backend.weight) == (State.UP, 50)
        assert texts(events) == [f"back-end 10.0.0.9:80: its agent-check at 10.0.0.9:9000: {outcome.failure}"]
        bench.dials.outcomes[AGENT] = says("up")
        with logged() as events:
            bench.run(LOG_EVERY_S)
        assert texts(events) == ["back-end 10.0.0.9:80: its agent-check at 10.0.0.9:9000 answers again"]

    def test_a_word_without_meaning_is_logged_and_the_others_count(self) -> None:
        bench = Bench(entry(*KEY, check=SAYS))
        bench.dials.outcomes |= {KEY: PASSED, AGENT: says("hello 50%")}
        with logged() as events:
            bench.start(60)
        assert bench.backend(KEY).weight == 50
        assert [text for text in texts(events) if "meaning" in text] == [
            'back-end 10.0.0.9:80: its agent-check at 10.0.0.9:9000: it says "hello", which has no meaning'
        ]

    @pytest.mark.parametrize(
        "entries",
        [[entry(*KEY)], [entry(*KEY, check="agent-check:9001")], []],
        ids=["without one", "another one", "without the back-end"],
    )
    def test_a_line_that_is_held_back_says_nothing_of_one_that_is_not_configured_any_more(
        self, entries: list[Entry]
    ) -> None:
        bench = Bench(entry(*KEY, check=SAYS))
        bench.dials.outcomes |= {KEY: PASSED, AGENT: says("hello"), (KEY[0], 9001): says("up")}
        bench.start(INTERVAL_S)
        bench.dials.outcomes[AGENT] = says("world")
        bench.run(INTERVAL_S)
        with logged() as events:
            bench.backends.apply(entries)
            bench.run(2 * LOG_EVERY_S)
        assert [text for text in texts(events) if "agent-check" in text] == []
        assert [event for event in events if "log_failure" in event] == []
        bench.stop()

    def test_one_that_flaps_is_logged_at_a_bounded_rate(self) -> None:
        bench = Bench(entry(*KEY, check=SAYS))
        bench.dials.outcomes[KEY] = PASSED
        bench.start()
        with logged() as events:
            for number in range(300):
                bench.dials.outcomes[AGENT] = says("drain foo" if number % 2 else "ready maxconn:5")
                bench.run(INTERVAL_S)
        assert len(texts(events)) <= 600 / 10 + 600 / LOG_EVERY_S + 10


class TestOwnListeners:
    def test_this_proxy_itself_is_no_back_end_as_long_as_it_is(self) -> None:
        bench = Bench(entry(*KEY))
        bench.own.add(KEY)
        bench.dials.outcomes[KEY] = PASSED
        with logged() as events:
            bench.start(60)
        assert (bench.keys, bench.dials.made) == ([], [])
        assert [text for text in texts(events) if "itself" in text] == [
            "no back-end: 10.0.0.9:80 leads to this proxy itself"
        ]
        bench.own.clear()
        bench.run(2 * INTERVAL_S)
        assert bench.backend(KEY).is_up

    def test_an_address_that_becomes_this_hosts_is_removed(self) -> None:
        bench = Bench(entry(*KEY))
        bench.dials.outcomes[KEY] = PASSED
        bench.start()
        bench.own.add(KEY)
        bench.run(INTERVAL_S + TICK_S)
        assert bench.keys == []

    def test_one_that_was_excluded_as_a_loop_comes_back_when_it_is_none_any_more(self) -> None:
        bench = Bench(entry(*KEY))
        bench.dials.outcomes[KEY] = PASSED
        bench.start()
        bench.own.add(KEY)
        bench.publish(bench.pool.exclude(bench.backend(KEY), "leads back to this proxy", bench.clock.seconds()))
        bench.run(10)
        assert bench.keys == []
        bench.own.clear()
        bench.run(2 * INTERVAL_S)
        assert bench.backend(KEY).eligible


class TestEnding:
    def test_nothing_is_left_of_a_stop(self) -> None:
        bench = Bench(entry(*KEY, check=SAYS), entry("db.example"))
        bench.start(5)
        assert bench.dials.open
        bench.stop()
        bench.backends.stop()
        assert (bench.dials.open, bench.clock.calls) == ({}, [])
        assert bench.lookups.cancelled == ["db.example"]

    def test_of_one_that_is_not_started_neither(self) -> None:
        bench = Bench(entry(*KEY))
        bench.stop()
        assert (bench.keys, bench.clock.calls) == ([], [])

    def test_a_row_that_goes_cancels_its_checks(self) -> None:
        bench = Bench(entry(*KEY, check=SAYS))
        bench.start()
        bench.backends.apply([])
        assert bench.dials.open == {}
        bench.run(60)
        assert bench.keys == []
        assert len(bench.dials.made) == 2

    def test_an_agent_check_on_another_port_replaces_the_one_under_way(self) -> None:
        bench = Bench(entry(*KEY, check=SAYS))
        bench.dials.outcomes[KEY] = PASSED
        bench.start()
        bench.backends.apply([entry(*KEY, check="agent-check:9001")])
        bench.run(INTERVAL_S + TICK_S)
        assert [of for of, _ in bench.dials.open.values()] == [("10.0.0.9", 9001)]
        bench.backends.apply([entry(*KEY)])
        assert bench.dials.open == {}


def test_few_are_open_at_once_and_all_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    class Silent:
        def __init__(self, *how: object, **more: object) -> None:
            self.done = how[3]

        def start(self) -> None:
            started.append(self)

        def cancel(self) -> None:
            started.append("cancelled")

    monkeypatch.setattr("rproxy.sources.static.row.Dial", Silent)
    dials = Dials(None, Bench().wheel)
    done: list[Outcome] = []
    made = [dials.make(KEY, done.append) for _ in range(DIALS_MAX + 3)]
    for dial in made:
        dials.start(dial)
    assert started == made[:DIALS_MAX]
    dials.cancel(made[-1])
    made[0].done(PASSED)  # type: ignore[attr-defined]
    assert started[-1] is made[DIALS_MAX]
    dials.cancel(made[1])
    assert started[-2:] == ["cancelled", made[DIALS_MAX + 1]]
    assert done == [PASSED]


def test_many_hosts_that_drop_packets_do_not_delay_the_checks_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Dial] = []
    monkeypatch.setattr(Dial, "start", lambda dial: started.append(dial))
    monkeypatch.setattr(Dial, "cancel", lambda dial: None)
    dials = Dials(None, Bench().wheel)
    done: list[Outcome] = []
    silent = [dials.make(KEY, done.append, after_silence=True) for _ in range(DIALS_MAX + 1)]
    for dial in silent:
        dials.start(dial)
    assert started == silent[:DIALS_MAX]
    prompt = dials.make(OTHER, done.append)
    dials.start(prompt)
    assert started[-1] is prompt
    dials.cancel(silent[0])
    assert started[-1] is silent[DIALS_MAX]


def test_a_connection_after_one_that_timed_out_is_known_as_such() -> None:
    bench = Bench(entry(*KEY))
    bench.start()
    silences = []
    for outcome in (Outcome("no connection in 1.5 s", is_silent=True), REFUSED, PASSED):
        bench.dials.end(KEY, outcome)
        bench.run(INTERVAL_S * (1 + JITTER))
        silences.append([dial.lane for dial in bench.dials.open])
    assert silences == [[1], [0], [0]]


def test_one_that_cannot_even_be_started_does_not_keep_the_others_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dials = Dials(None, Bench().wheel)
    started: list[Dial] = []
    broken, sound = (dials.make(KEY, lambda outcome: None) for _ in range(2))

    def start(dial: Dial) -> None:
        if dial is broken:
            raise RuntimeError("a bug")
        started.append(dial)

    monkeypatch.setattr(Dial, "start", start)
    with pytest.raises(RuntimeError):
        dials.start(broken)
    dials.start(sound)
    assert started == [sound]


def test_after_a_stall_of_the_process_checks_spread_again() -> None:
    many = [(f"10.0.{number}.9", 80) for number in range(100)]
    draws = Random(1)
    bench = Bench(*(entry(*key) for key in many), jitter=draws.random)
    bench.dials.outcomes = dict.fromkeys(many, PASSED)
    bench.start(30)
    bench.clock.advance(10)
    stalled = bench.clock.seconds()
    bench.run(3)
    made = [at for at, *_ in bench.dials.made if at > stalled + TICK_S]
    assert max(made.count(at) for at in set(made)) < 25


def test_ten_thousand_that_fail_at_once_are_no_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, *how: object, **more: object) -> None:
            self.done = how[3]

        def start(self) -> None:
            assert callable(self.done)
            self.done(REFUSED)

    monkeypatch.setattr("rproxy.sources.static.row.Dial", Failing)
    dials = Dials(None, Bench().wheel)
    left = [10_000]

    def again(outcome: Outcome) -> None:
        assert outcome is REFUSED
        left[0] -= 1
        if left[0] > 0:
            dials.start(dials.make(KEY, again))

    dials.start(dials.make(KEY, again))
    assert left == [0]
