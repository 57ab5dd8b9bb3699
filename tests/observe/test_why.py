"""Why a back-end gets clients or none, in one sentence, whatever state it is in."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest

from rproxy.observe.why import WINDOW_S, Moment, Why
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import OWN_RULE, Comparison
from rproxy.pool.health import FALL, HOLD_MIN_S, REFUSALS, SLOW_START_S
from rproxy.pool.states import Administration
from tests.fakes import UNLIMITED, CountingPolicy, FakeLink, RaisingPolicy
from tests.observe.explaining import Told
from tests.policies.balancing import policy
from tests.pool.driving import agent


def told(name: str = "least-connections", **options: object) -> Told:
    return Told(policy(name), **options)


def why(bench: Told, backend: Backend, *, recorded: bool = True) -> str:
    explain = Why(bench.real, partial(bench.history.latest, "default"), bench.log if recorded else None)
    return explain(backend, Moment(bench.now, bench.wall))


class TestKeptAway:
    def test_an_operator_drains_it(self) -> None:
        bench = told()
        backend, _ = bench.all_up(2)
        bench.opened(backend, 3)
        bench.now += 3600
        bench.pool.overrides.administer((backend.address, 80), Administration.DRAIN, bench.now, bench.wall)
        bench.now += 10
        said = "draining since 13:00:00, because an operator says so; 3 session(s) go on"
        assert why(bench, backend) == said

    def test_in_maintenance_and_down_as_well(self) -> None:
        bench = told()
        backend, _ = bench.all_up(2)
        bench.down(backend)
        bench.pool.overrides.administer((backend.address, 80), Administration.MAINT, bench.now, bench.wall)
        assert why(bench, backend).startswith(
            "in maintenance since 12:00:01, because an operator says so; it is also down"
        )

    def test_a_date_is_told_unless_it_is_todays(self) -> None:
        bench = told()
        backend = bench.up()
        bench.pool.overrides.administer((backend.address, 80), Administration.DRAIN, bench.now, bench.wall)
        bench.now += 86400
        assert why(bench, backend).startswith("draining since 2026-06-01 12:00:00,")

    def test_its_agent_drains(self) -> None:
        bench = told()
        backend = bench.up()
        bench.now += 60
        bench.report(backend, draining=True)
        said = (
            "draining since 12:01:00, because its agent says so: an operator there, or a service that fails its check"
        )
        assert why(bench, backend) == said

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("drain", "draining since 12:00:00, because its agent-check says drain"),
            ("stopped #so", "down since 12:00:00: its agent-check says stopped (so), and has not said up since"),
            ("0%", "draining since 12:00:00, because its agent-check says weight 0"),
        ],
    )
    def test_its_agent_check_says_so(self, line: str, said: str) -> None:
        bench = told()
        backend = bench.put(1)
        bench.checked(backend)
        bench.say(backend, line)
        assert why(bench, backend).startswith(said)

    def test_its_agent_has_not_answered_yet(self) -> None:
        bench = told()
        backend = bench.register(agent(1))
        said = "registered, but its agent at 10.0.0.1:5555 has not answered a probe: UDP must pass both ways"
        assert why(bench, backend) == said

    def test_no_check_was_made_yet(self) -> None:
        bench = told()
        assert why(bench, bench.put(1)) == "not checked yet (connect)"

    def test_it_has_gone_while_sessions_are_on_it(self) -> None:
        bench = told()
        backend, _ = bench.all_up(2)
        bench.opened(backend, 2)
        bench.unregister((backend.address, 5555))
        said = "gone since 12:00:00: unregistered; it stays until its last session ends; 2 session(s) go on"
        assert why(bench, backend) == said

    def test_down_by_failed_connects_with_what_is_left_of_the_hold_down(self) -> None:
        bench = told()
        backend, _ = bench.all_up(2)
        bench.fail_connects(backend, REFUSALS)
        bench.now += 4
        said = f"down since 12:00:00: {REFUSALS} connects in a row failed; hold-down for {HOLD_MIN_S - 4:.0f} s more"
        assert why(bench, backend) == said

    def test_what_failed_is_told_even_if_its_event_is_forgotten(self) -> None:
        bench = told()
        backend, _ = bench.all_up(2)
        bench.fail_connects(backend, REFUSALS)
        bench.now += 7200
        said = f"down since 12:00:00: {REFUSALS} connects in a row failed; it comes up once 2 probes are answered"
        assert why(bench, backend).startswith(said)

    def test_down_by_lost_probes_and_about_to_come_up(self) -> None:
        bench = told()
        backend, _ = bench.all_up(2)
        bench.down(backend)
        bench.now += HOLD_MIN_S
        bench.report(backend)
        said = why(bench, backend)
        assert said.startswith(f"down since 12:00:01: {FALL} probes in a row lost")
        assert said.endswith("; it comes up once 2 probes are answered in a row (1 so far)")

    def test_a_check_fails(self) -> None:
        bench = told()
        backend = bench.put(1)
        for _ in range(FALL):
            bench.checked(backend, "connection refused")
        bench.now += HOLD_MIN_S
        said = f"down since 12:00:00: {FALL} checks in a row failed: connection refused; it comes up once 2 checks pass"
        assert why(bench, backend).startswith(said)

    def test_full(self) -> None:
        bench = told()
        backend = bench.up(agent(1), max_connections=2)
        bench.opened(backend, 2)
        assert why(bench, backend) == "full: it has 2 of 2 sessions"


class TestEligible:
    def test_it_gets_its_share(self) -> None:
        bench = told()
        first, second = bench.all_up(2)
        bench.now += 10
        bench.come(5)
        bench.now += 20
        mine = why(bench, first)
        assert mine == (
            "up; chosen for 3 of 5 clients in the last 20 s; "
            f"its value is 3 (sessions 3, weight 100), and the lowest of the others 2, on {second.name}"
        )

    def test_only_what_was_recorded_in_the_last_minute_counts(self) -> None:
        bench = told()
        first, *_ = bench.all_up(2)
        bench.come(5)
        bench.now += WINDOW_S - 10
        bench.come(1)
        bench.now += 20
        assert "chosen for 0 of 1 clients in the last 60 s" in why(bench, first)
        bench.now += WINDOW_S
        assert "no client has come in the last 60 s" in why(bench, first)

    def test_one_that_tries_another_back_end_is_one_client(self) -> None:
        bench = told()
        bench.all_up(2)
        tried = bench.log.choose(7, FakeLink(), bench.now, (), None)
        assert tried is not None
        other = bench.log.choose(7, FakeLink(), bench.now, (tried,), None)
        assert other is not None
        assert "chosen for 1 of 1 clients in the last 1 s" in why(bench, other)

    def test_if_not_all_choices_are_recorded_that_is_told(self) -> None:
        bench = told()
        first, *_ = bench.all_up(2)
        bench.come(2)
        bench.open()
        assert "chosen for 1 of 2 clients whose choice was recorded in the last 1 s" in why(bench, first)

    def test_without_a_record_its_sessions_are_told(self) -> None:
        bench = told()
        first, *_ = bench.all_up(2)
        bench.opened(first, 7)
        assert why(bench, first, recorded=False).startswith("up; 7 sessions so far; its value is 7")

    def test_alone_it_has_nothing_beside_it(self) -> None:
        bench = told()
        assert why(bench, bench.up()).endswith("its value is 0 (sessions 0, weight 100), and there is no other")

    def test_the_best_of_a_large_pool_is_found_among_the_lowest(self) -> None:
        bench = told()
        backends = bench.all_up(200)
        for number, backend in enumerate(backends):
            bench.opened(backend, 1 + abs(number - 170) % 90)
        assert why(bench, backends[0]).endswith("and the lowest of the others 1, on 10.0.0.170:80")

    def test_saturated_and_passed_over(self) -> None:
        bench = told("report")
        busy, _ = bench.all_up(2)
        bench.report(busy, cpu=96)
        said = "passed over while others are better off, for CPU from 70 % (now CPU 96 %, memory 0 %, loss 0 %); "
        assert why(bench, busy).startswith(said)

    def test_after_a_lost_probe_and_after_a_failed_connect(self) -> None:
        bench = told()
        lost, refused, _ = bench.all_up(3)
        bench.lose(bench.probe(lost))
        bench.fail_connects(refused, 2)
        assert why(bench, lost).startswith("after all others until it answers a probe: its last one was lost; ")
        said = "after all others until a session is served: 2 connect(s) in a row failed; "
        assert why(bench, refused).startswith(said)

    def test_in_slow_start(self) -> None:
        bench = told(limits=UNLIMITED, slow_start_s=SLOW_START_S)
        bench.up(agent(1))
        bench.now += 100
        assert why(bench, bench.up(agent(2))).startswith("in slow start, with 10 % of its weight; ")

    def test_in_a_panic_one_that_is_down_is_used(self) -> None:
        bench = told(limits=UNLIMITED, slow_start_s=0, panic_below=0.5)
        backend = bench.up()
        bench.down(backend)
        said = why(bench, backend)
        assert said.startswith("down since 12:00:01: ")
        assert "but less than half of the back-ends are up, so it is used; no client has come" in said

    def test_a_policy_that_explains_nothing(self) -> None:
        bench = Told(RaisingPolicy("explain"))
        backend, _ = bench.all_up(2)
        assert why(bench, backend).endswith("; the policy does not tell what it compares")

    @pytest.mark.parametrize("compared", [None, "nonsense", Comparison(OWN_RULE, cast(Any, [7]), [])])
    def test_a_policy_that_compares_nonsense_is_told_beside_the_eligible_back_ends(self, compared: object) -> None:
        class Nonsense(CountingPolicy):
            def compare(self, *_: object) -> object:
                return compared

        bench = Told(Nonsense())
        first, second = bench.all_up(2)
        assert why(bench, second).endswith(f"and the lowest of the others 0, on {first.name}")
