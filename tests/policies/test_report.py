"""The report's choice."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import pytest

from rproxy.policies.formula import score
from rproxy.policies.report import RTT_NOISE_MS, SATURATED_VALUE, SCORE_RESOLUTION, TIE
from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.wire.pdu import COUNT_MAX, WEIGHT_MAX
from tests.policies.balancing import Balance, balance_by, shares
from tests.pool.driving import agent


def score_now(backend: Backend) -> float:
    return score(
        rtt_ms=backend.rtt.last_ms or 0.0,
        tcp=backend.tcp,
        loss=backend.losses.rate,
        cpu=backend.cpu,
        memory=backend.memory,
    )


class TestReport:
    @pytest.fixture
    def balance(self) -> Balance:
        return balance_by("report")

    def test_every_session_goes_to_the_lowest_score_of_that_instant(self, balance: Balance) -> None:
        """The score as the formula has it, with every session opened and closed since the report; where it is no tie
        with a back-end that has had its turn.
        """
        rng = Random(4)
        backends = balance.all_up(6)
        held: list[Backend] = []
        for step in range(600):
            if step % 10 == 0:
                balance.report(
                    rng.choice(backends),
                    after_s=rng.uniform(RTT_NOISE_MS / 1000, 0.02),
                    cpu=rng.randrange(70),
                    memory=rng.randrange(70),
                    tcp=rng.randrange(40),
                )
            chosen = balance.choose()
            assert chosen is not None
            excess = {each: score_now(chosen) - score_now(each) - SCORE_RESOLUTION for each in backends}
            better = [each for each in backends if excess[each] > 0]
            assert all(each.connections < 2 and excess[each] <= TIE for each in better)
            held.append(balance.open())
            if rng.random() < 0.7:
                balance.close(held.pop(rng.randrange(len(held))))

    def test_a_better_score_is_used_up_by_its_own_sessions(self, balance: Balance) -> None:
        """Nine sessions more are worth what 54 % of CPU are."""
        idle, busy = balance.all_up(2)
        balance.report(busy, cpu=54)
        assert set(balance.serve(9, held=True)) == {idle}
        assert busy in balance.serve(2, held=True)

    def test_sessions_that_end_make_it_better_again(self, balance: Balance) -> None:
        idle, busy = balance.all_up(2)
        balance.report(busy, cpu=30)
        for backend in balance.serve(9, held=True):
            balance.close(backend)
        assert set(balance.serve(4, held=True)) == {idle}

    def test_a_session_still_connecting_counts(self, balance: Balance) -> None:
        slow, other = balance.all_up(2)
        for backend in (slow, other):
            balance.report(backend, tcp=0)
        for _ in range(5):
            balance.lease(slow)
        assert set(balance.serve(5, held=True)) == {other}

    def test_ten_sessions_one_after_the_other_spread_over_both(self, balance: Balance) -> None:
        """The report's test 2a."""
        first, second = balance.all_up(2)
        assert set(balance.serve(10, held=False)) == {first, second}

    def test_altered_to_report_full_load_it_gets_no_session(self, balance: Balance) -> None:
        """The report's test 2b."""
        first, second = balance.all_up(2)
        balance.report(second, cpu=100, memory=100, tcp=100)
        assert set(balance.serve(10, held=False)) == {first}

    def test_a_saturated_one_waits_however_much_the_others_hold(self, balance: Balance) -> None:
        saturated, other = balance.all_up(2)
        balance.report(saturated, cpu=70)
        balance.report(other, cpu=69, memory=69, tcp=5000)
        assert set(balance.serve(500, held=True)) == {other}
        assert balance.choose(other) is saturated

    def test_a_saturated_one_waits_even_for_the_largest_sum(self, balance: Balance) -> None:
        saturated, other = balance.up(agent(1), weight=WEIGHT_MAX), balance.up(agent(2), weight=1)
        balance.report(saturated, cpu=70)
        balance.report(other, cpu=69, memory=69, tcp=COUNT_MAX)
        assert balance.choose() is other

    def test_without_saturation_the_sum_alone_decides(self) -> None:
        balance = balance_by("report", saturation=None)
        full_cpu, many_connections = balance.all_up(2)
        balance.report(full_cpu, cpu=100)
        balance.report(many_connections, tcp=50)
        assert balance.choose() is full_cpu

    def test_saturated_ones_are_told_apart_by_the_sum(self, balance: Balance) -> None:
        worse, better = balance.all_up(2)
        balance.report(worse, cpu=100, memory=100)
        balance.report(better, cpu=90, memory=20)
        assert set(balance.serve(5, held=True)) == {better}

    def test_saturated_equals_share_evenly(self, balance: Balance) -> None:
        backends = balance.all_up(3)
        for backend in backends:
            balance.report(backend, cpu=90, memory=90)
        assert shares(balance.serve(30, held=True), backends) == [10, 10, 10]

    def test_of_equal_scores_the_fewest_own_sessions_win(self, balance: Balance) -> None:
        """The other host holds as many connections, more of them of others; that it had a client last does not
        matter.
        """
        ours, others = balance.all_up(2)
        for _ in range(4):
            balance.open(others)
        for _ in range(2):
            balance.open(ours)
        balance.report(ours, tcp=6)
        balance.report(others, tcp=6)
        assert ours.tcp == others.tcp
        assert balance.choose() is others

    def test_round_trips_of_a_lan_are_equal(self, balance: Balance) -> None:
        """Such as 0.997 and 1.083 ms, between which a step of the score lies."""
        backends = balance.all_up(3)
        for backend, rtt_s in zip(backends, (0.000997, 0.001083, 0.0019), strict=True):
            balance.report(backend, after_s=rtt_s)
        assert shares(balance.serve(30, held=False), backends) == [10, 10, 10]

    def test_a_round_trip_beyond_a_lans_noise_decides(self, balance: Balance) -> None:
        near, far = balance.all_up(2)
        balance.report(near, after_s=0.0019)
        balance.report(far, after_s=0.006)
        assert set(balance.serve(10, held=False)) == {near}

    def test_scores_in_one_step_of_the_resolution_take_turns(self, balance: Balance) -> None:
        """A LAN's round trips differ by less; else one host would get everything until its next report."""
        backends = balance.all_up(3)
        for backend, rtt_ms in zip(backends, [0.05, 0.2, 0.3], strict=True):
            balance.report(backend, after_s=rtt_ms / 1000, cpu=20, memory=40)
        assert len(set(map(score_now, backends))) == 3
        assert shares(balance.serve(30, held=False), backends) == [10, 10, 10]

    def test_equal_scores_take_turns_whatever_they_are_made_of(self, balance: Balance) -> None:
        """0.60 in every way that connections, CPU and memory can make it."""
        loads = [(tcp, cpu, 120 - 6 * tcp - cpu) for tcp in range(21) for cpu in range(0, 121 - 6 * tcp, 5)]
        loads = [(tcp, cpu, memory) for tcp, cpu, memory in loads if max(cpu, memory) < 70]
        backends = balance.all_up(len(loads))
        for backend, (tcp, cpu, memory) in zip(backends, loads, strict=True):
            balance.report(backend, after_s=0, tcp=tcp, cpu=cpu, memory=memory)
        assert shares(balance.serve(len(loads), held=False), backends) == [1] * len(loads)

    def test_a_score_lower_by_more_than_a_tie_gets_every_session_that_ends_at_once(self, balance: Balance) -> None:
        better, worse = balance.all_up(2)
        balance.report(better, cpu=20)
        balance.report(worse, cpu=32)
        assert score_now(worse) - score_now(better) == pytest.approx(TIE + SCORE_RESOLUTION)
        assert set(balance.serve(30, held=False)) == {better}

    def test_what_measurements_err_by_is_a_tie(self, balance: Balance) -> None:
        """Some points of CPU and a millisecond of RTT: nobody gets more than half."""
        backends = balance.all_up(3)
        for backend, rtt_s, cpu in zip(backends, (0.0018, 0.0022, 0.0028), (3, 7, 5), strict=True):
            balance.report(backend, after_s=rtt_s, cpu=cpu, memory=40)
        assert shares(balance.serve(600, held=False), backends) == [200, 200, 200]

    def test_a_weight_scales_the_sessions_and_nothing_else(self, balance: Balance) -> None:
        """Double the weight carries double the sessions, of whichever proxy, at the same score."""
        strong, normal = balance.up(agent(1), weight=200), balance.up(agent(2), weight=100)
        balance.report(strong, tcp=20, others=20)
        balance.report(normal, tcp=12, others=12)
        assert balance.choose() is strong
        balance.report(normal, tcp=8, others=8)
        assert balance.choose() is normal
        balance.report(normal, tcp=10, others=10, cpu=20)
        assert balance.choose() is strong
        balance.report(strong, tcp=20, others=20, cpu=32)
        assert balance.choose() is normal

    @pytest.mark.parametrize(("weight", "expected"), [(5, 0.024), (200, 0.5)])
    def test_connections_of_the_hosts_own_leave_each_its_share(
        self, balance: Balance, weight: int, expected: float
    ) -> None:
        """A few are on every host, such as an ssh session: multiplied by 100 / 5 they would rule one out."""
        backends = [balance.up(agent(number), weight=each) for number, each in enumerate((100, 100, weight))]
        for backend in backends:
            balance.report(backend, tcp=5)
        served = balance.serve(6000, held=False)
        assert served.count(backends[2]) / 6000 == pytest.approx(expected, abs=0.005)
        value, terms = attrs.astuple(balance.pool.explain(backends[2], balance.now), recurse=False)
        assert terms["TCP"] == pytest.approx(0.15)
        assert value == pytest.approx(sum(terms.values()), abs=SCORE_RESOLUTION)

    def test_a_saturated_one_says_so_and_does_not_flap(self, balance: Balance) -> None:
        backend, _ = balance.all_up(2)
        said = []
        for cpu, memory in ((69, 0), (70, 0), (66, 0), (71, 0), (64, 0), (0, 90), (80, 90), (80, 64)):
            balance.report(backend, cpu=cpu, memory=memory)
            said.append(backend.passed_over)
        assert said == ["", *["CPU from 70 %"] * 3, "", "memory from 70 %", "memory from 70 %", "CPU from 70 %"]

    def test_without_saturation_nothing_is_passed_over(self) -> None:
        balance = balance_by("report", saturation=None)
        backend = balance.up()
        balance.report(backend, cpu=100, memory=100)
        assert backend.passed_over == ""

    def test_it_is_explained_by_the_terms_of_the_formula_and_the_turn(self, balance: Balance) -> None:
        first, second = balance.all_up(2)
        balance.serve(1001, held=False)
        for backend in (first, second):
            balance.report(backend, after_s=0.01, cpu=20, memory=40, tcp=2)
        explained = [balance.pool.explain(backend, balance.now) for backend in (first, second)]
        terms = {"RTT": 0.15, "TCP": 0.06, "loss": 0.0, "CPU": 0.1, "memory": 0.2}
        for explanation in explained:
            assert explanation.terms == pytest.approx({**terms, "turn": explanation.terms["turn"]})
            assert explanation.value == pytest.approx(sum(explanation.terms.values()), abs=SCORE_RESOLUTION)
        assert sorted(explanation.terms["turn"] for explanation in explained) == pytest.approx([0, 0.05], abs=0.001)
        balance.report(first, cpu=99)
        assert balance.pool.explain(first, balance.now).terms["saturated"] == SATURATED_VALUE

    def test_loss_is_part_of_the_score(self, balance: Balance) -> None:
        lossy, clean = balance.all_up(2)
        balance.lose(balance.probe(lossy))
        balance.report(lossy)
        balance.report(clean, cpu=69, memory=69)
        assert lossy.state is State.UP
        assert balance.choose() is clean


class TestUnknown:
    """What an agent cannot tell is no reason to get all clients, nor to get none."""

    @pytest.fixture
    def balance(self) -> Balance:
        return balance_by("report")

    def blind_and_busy(self, balance: Balance, **figures: int) -> tuple[Backend, list[Backend]]:
        blind, *others = balance.all_up(4)
        for backend in others:
            balance.report(backend, **figures)
        balance.report(blind, cpu=None, memory=None, tcp=None)
        return blind, others

    @pytest.mark.parametrize(
        "figures",
        [
            {"cpu": 0, "memory": 0, "tcp": 0},
            {"cpu": 50, "memory": 50, "tcp": 200},
            {"cpu": 80, "memory": 20, "tcp": 10},
            {"cpu": 100, "memory": 100, "tcp": 5000},
        ],
    )
    def test_one_that_can_tell_nothing_gets_no_more_than_its_share_and_some(
        self, balance: Balance, figures: dict[str, int]
    ) -> None:
        blind, _ = self.blind_and_busy(balance, **figures)
        served = balance.serve(100, held=True)
        assert 10 <= served.count(blind) <= 28

    def test_what_the_others_report_later_counts_at_once(self, balance: Balance) -> None:
        """It was the first that came up, when nobody's figures were known."""
        blind = balance.up(agent(9))
        balance.report(blind, cpu=None, memory=None, tcp=None)
        others = [balance.up(agent(number)) for number in range(3)]
        for backend in others:
            balance.report(backend, cpu=80, memory=10, tcp=300)
        assert balance.serve(40, held=True).count(blind) <= 20

    @pytest.mark.parametrize("figure", ["cpu", "memory", "tcp"])
    def test_one_figure_that_is_unknown_leaves_the_others_what_they_are(self, balance: Balance, figure: str) -> None:
        idle, blind = balance.all_up(2)
        balance.report(idle, cpu=10, memory=10, tcp=10)
        known: dict[str, Any] = {"cpu": 10, "memory": 10, "tcp": 10, figure: None}
        balance.report(blind, **known)
        served = balance.serve(100, held=True)
        assert 30 <= served.count(blind) <= 50
        balance.report(blind, **{**known, **{other: 90 for other in ("cpu", "memory") if other != figure}})
        assert blind not in balance.serve(20, held=False)

    def test_the_score_shown_is_that_of_what_it_is_taken_for(self, balance: Balance) -> None:
        blind, (other, *_) = self.blind_and_busy(balance, cpu=60, memory=60, tcp=100)
        assert score_now(blind) == pytest.approx(score_now(other), abs=0.01)
