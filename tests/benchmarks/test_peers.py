"""The benchmark's arithmetic and its texts; nothing is measured here."""

from __future__ import annotations

import argparse
import json
import re

import pytest

from tests.benchmarks.peers.__main__ import names, options, rotated
from tests.benchmarks.peers.figures import (
    BUSY,
    FIGURES,
    GOALS,
    HAPROXIES,
    HEADED,
    LOGGED,
    OURS,
    TITLES,
    UNPROBED,
    WATCHED,
    Figure,
    Goal,
    Results,
)
from tests.benchmarks.peers.pacing import Schedule, percentile
from tests.benchmarks.peers.programs import PEERS, ProgramFailed
from tests.benchmarks.peers.report import as_json, figure_table, goal_table, text
from tests.benchmarks.peers.rows import ROWS, Wrk

FIGURE = {figure.key: figure for figure in FIGURES}
RATE = FIGURE["requests_per_s"]
COST = FIGURE["request_cpu_us"]
PLAIN, SPLICING = HAPROXIES


def results(*rounds: dict[str, dict[str, float]]) -> Results:
    """Of the row for requests."""
    made = Results([OURS, PLAIN, SPLICING, "direct"], ["requests"])
    for measured in rounds:
        made.begin_round()
        for peer, values in measured.items():
            made.add(peer, values)
    return made


def rates(ours: float, plain: float, splicing: float) -> dict[str, dict[str, float]]:
    return {peer: {RATE.key: rate} for peer, rate in [(OURS, ours), (PLAIN, plain), (SPLICING, splicing)]}


THREE = results(rates(90, 100, 80), rates(30, 50, 60), rates(240, 200, 90))


def test_the_median_is_of_all_rounds() -> None:
    assert [THREE.median(peer, RATE) for peer in (OURS, PLAIN, SPLICING)] == [90, 100, 80]


def test_a_round_that_failed_counts_for_nothing() -> None:
    made = results(rates(90, 100, 80), {PLAIN: {RATE.key: 50}}, rates(240, 200, 90))
    assert made.values(OURS, RATE) == [90, None, 240]
    assert made.median(OURS, RATE) == 165
    assert made.ratio(OURS, RATE) == pytest.approx((0.9 + 1.2) / 2)


def test_what_was_never_measured_has_no_figures() -> None:
    assert (THREE.median("direct", RATE), THREE.ratio("direct", RATE)) == (None, None)
    assert (THREE.median(OURS, COST), THREE.best(COST), THREE.ratio(OURS, COST)) == (None, None, None)


def test_the_ratio_is_the_median_of_the_rounds_ratios_and_not_the_ratio_of_medians() -> None:
    made = results(rates(90, 100, 0), rates(30, 50, 0), rates(300, 200, 0))
    assert made.ratio(OURS, RATE) == pytest.approx(0.9)
    skewed = results(rates(10, 100, 0), rates(100, 10, 0), rates(50, 60, 0))
    assert skewed.ratio(OURS, RATE) == pytest.approx(50 / 60)
    assert skewed.median(OURS, RATE) == 50
    unequal = results(rates(10, 20, 0), rates(100, 50, 0), rates(40, 100, 0))
    assert unequal.ratio(OURS, RATE) == pytest.approx(0.5)
    assert unequal.median(OURS, RATE) == 40
    assert unequal.median(PLAIN, RATE) == 50


def test_the_better_configuration_is_the_one_with_the_better_median() -> None:
    made = results({PLAIN: {RATE.key: 10, COST.key: 10}, SPLICING: {RATE.key: 20, COST.key: 20}})
    assert (made.best(RATE), made.best(COST)) == (SPLICING, PLAIN)


def test_one_configuration_alone_is_the_better_one() -> None:
    made = results({OURS: {RATE.key: 10}, SPLICING: {RATE.key: 20}})
    assert (made.best(RATE), made.ratio(OURS, RATE)) == (SPLICING, 0.5)


def test_nothing_is_divided_by_zero() -> None:
    assert results({OURS: {COST.key: 1}, PLAIN: {COST.key: 0}}).ratio(OURS, COST) is None


@pytest.mark.parametrize(
    ("more_is_better", "ratio", "reached"),
    [(True, 1.0, True), (True, 0.99, False), (False, 1.0, True), (False, 1.01, False)],
)
def test_a_goal_is_reached_at_its_bound(more_is_better: bool, ratio: float, reached: bool) -> None:
    assert Goal(Figure("key", "label", "row", more_is_better=more_is_better), 1.0).reached(ratio) is reached


def test_what_is_to_be_reached() -> None:
    assert {goal.figure.key: goal.bound for goal in GOALS if goal.other is None} == {
        "connections_per_s": 1.0,
        "connection_cpu_us": 1.0,
        "requests_per_s": 1.0,
        "latency_p99_us": 1.1,
        "download_cpu_s_per_gb": 0.8,
        "upload_cpu_s_per_gb": 0.8,
        "idle_kb": 0.2,
    }
    assert [(goal.figure.key, goal.bound) for goal in GOALS if goal.other == UNPROBED] == [("connection_cpu_us", 1.03)]
    assert [(goal.peer, goal.figure.key, goal.bound) for goal in GOALS if goal.other == OURS] == [
        (HEADED, "connection_cpu_us", 1.1),
        (LOGGED, "connection_cpu_us", 1.03),
        (WATCHED, "connection_cpu_us", 1.05),
    ]


def test_what_probes_on_demand_cost_is_the_ratio_to_ours_without_them() -> None:
    made = Results([OURS, UNPROBED, PLAIN], ["connections"])
    for cost in (51.0, 60.0, 51.5):
        made.begin_round()
        made.add(OURS, {"connection_cpu_us": cost})
        made.add(UNPROBED, {"connection_cpu_us": 50.0})
        made.add(PLAIN, {"connection_cpu_us": 60.0})
    (goal,) = (goal for goal in GOALS if goal.other == UNPROBED)
    assert made.ours(goal) == 1.03
    assert f"CPU µs/connection, by {UNPROBED} at most 1.03 1.03 reached" in " ".join(goal_table(made).split())


def test_what_headers_cost_is_the_ratio_to_ours_without_them() -> None:
    made = Results([OURS, HEADED], ["connections"])
    for cost in (54.0, 60.0, 55.0):
        made.begin_round()
        made.add(HEADED, {"connection_cpu_us": cost})
        made.add(OURS, {"connection_cpu_us": 50.0})
    (goal,) = (goal for goal in GOALS if goal.peer == HEADED)
    assert made.ours(goal) == 1.1
    assert f"rproxy PROXY v2: CPU µs/connection, by {OURS} at most 1.1 1.10 reached" in " ".join(
        goal_table(made).split()
    )


def test_every_figure_comes_from_a_row_that_exists_and_every_peer_can_be_started() -> None:
    assert {figure.row for figure in (*FIGURES, *BUSY)} == set(ROWS)
    assert list(PEERS) == list(TITLES)


def test_the_table_is_restructured_text_with_a_column_for_each_peer() -> None:
    made = results(
        {
            OURS: {RATE.key: 57500.4, COST.key: 15.04},
            PLAIN: {RATE.key: 66000, COST.key: 13},
            SPLICING: {RATE.key: 59000, COST.key: 15.5},
            "direct": {RATE.key: 146000},
        }
    )
    assert figure_table(made, FIGURES).splitlines() == [
        "================ =========== =========== =========== ============",
        "figure           rproxy      HAProxy     HAProxy     no proxy",
        "                 splice                  splice",
        "================ =========== =========== =========== ============",
        "requests/s, kept 57,500 0.87 66,000 1.00 59,000 0.89 146,000 2.21",
        "CPU µs/request     15.0 1.16   13.0 1.00   15.5 1.19          n/a",
        "================ =========== =========== =========== ============",
    ]


def test_the_goals_say_what_was_reached() -> None:
    assert goal_table(THREE).splitlines() == [
        "================ ============ ===== ===========",
        "figure           to reach     ratio outcome",
        "================ ============ ===== ===========",
        "requests/s, kept at least 1.0  0.90 not reached",
        "================ ============ ===== ===========",
    ]
    assert re.search(r" 1\.00 +reached", goal_table(results(rates(100, 100, 80))))
    assert "not measured" in goal_table(results({OURS: {RATE.key: 1}}))


def test_the_text_tells_the_setup_the_rate_and_what_failed() -> None:
    made = results(rates(90, 100, 80))
    made.fail("nginx", "requests", "two\nlines")
    told = text(made, {"kernel": "Linux 6"}, 40200.0)
    assert told.startswith("kernel: Linux 6\n\nMedians of 1 round,")
    assert "at 40,200 requests/s" in told
    assert told.endswith("Failed:\nround 1, requests, nginx: two lines")
    assert "Failed" not in text(THREE, {}, None)
    assert "requests/s for all" not in text(THREE, {}, None)


def test_a_row_that_was_not_asked_for_is_not_shown() -> None:
    assert "memory" not in as_json(THREE, {}, None)["medians"]
    assert "kB/idle" not in text(THREE, {}, None)


def test_the_json_has_every_value_of_every_round() -> None:
    made = results(rates(90, 100, 80), {OURS: {RATE.key: 30}})
    made.fail(PLAIN, "requests", "it has ended")
    told = json.loads(json.dumps(as_json(made, {"kernel": "Linux 6"}, None)))
    assert told["setup"] == {"kernel": "Linux 6"}
    assert told["rate"] is None
    assert [measured[OURS] for measured in told["rounds"]] == [{RATE.key: 90}, {RATE.key: 30}]
    assert told["rounds"][1][PLAIN] == {}
    assert told["medians"][OURS] == {RATE.key: 60, COST.key: None, "requests_busy": None}
    assert told["ratios"][OURS] == {RATE.key: 0.9, COST.key: None}
    assert told["goals"] == [
        {
            "figure": RATE.key,
            "bound": 1.0,
            "haproxy": PLAIN,
            "other": None,
            "peer": OURS,
            "ratio": 0.9,
            "reached": False,
        }
    ]
    assert told["failures"] == ["round 2, requests, haproxy: it has ended"]


WRK = """Running 2s test @ http://127.0.0.1:21100/small
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.41ms    1.07ms  11.93ms   77.31%
    Req/Sec    26.27k     5.51k   31.63k    80.00%
  52276 requests in 2.01s, 16.85MB read
"""
RATES = "Requests/sec:  25983.01\nTransfer/sec:      8.37MB\n"


def test_wrk_is_understood() -> None:
    assert Wrk.parse(WRK + RATES) == Wrk(52276, 25983.01)


@pytest.mark.parametrize(
    "said",
    [
        WRK + "  Socket errors: connect 0, read 12, write 0, timeout 0\n" + RATES,
        WRK + "  Non-2xx or 3xx responses: 5\n" + RATES,
        WRK.replace("52276", "0") + RATES,
        WRK,
        "",
    ],
)
def test_what_wrk_could_not_do_is_a_failure(said: str) -> None:
    with pytest.raises(ProgramFailed, match="wrk: "):
        Wrk.parse(said)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert percentile(range(1, 101), share) == value


def taken(schedule: Schedule, now: float) -> list[tuple[float, float]]:
    """When what is due was due, and from when it counts."""
    return [schedule.take() for _ in range(int(now - schedule.due) + 1)]


def test_a_request_counts_from_when_it_is_due_and_not_from_when_a_slow_proxy_lets_it_be_sent() -> None:
    schedule = Schedule(10.0, 1.0)
    schedule.resume(10.0)
    assert taken(schedule, 10.0) == [(10.0, 10.0)]
    schedule.pause(10.0, free=False)
    schedule.resume(13.5)
    assert taken(schedule, 13.5) == [(11.0, 11.0), (12.0, 12.0), (13.0, 13.0)]


def test_what_is_late_because_the_client_was_does_not_count_before_it_could_be_sent() -> None:
    schedule = Schedule(10.0, 1.0)
    schedule.resume(10.0)
    schedule.pause(10.0, free=True)
    schedule.resume(12.5)
    assert taken(schedule, 12.5) == [(10.0, 12.5), (11.0, 12.5), (12.0, 12.5)]


def test_a_client_that_has_not_caught_up_after_a_stall_is_still_held_up_by_it() -> None:
    schedule = Schedule(10.0, 1.0)
    schedule.pause(9.0, free=False)
    schedule.resume(13.5)
    assert schedule.take() == (10.0, 10.0)
    schedule.pause(13.5, free=True)
    schedule.resume(13.6)
    assert taken(schedule, 13.6) == [(11.0, 11.0), (12.0, 12.0), (13.0, 13.0)]
    schedule.pause(13.6, free=True)
    schedule.resume(14.25)
    assert taken(schedule, 14.25) == [(14.0, 14.25)]


def test_the_order_of_peers_is_rotated() -> None:
    assert [rotated("abc", by) for by in range(4)] == [list(order) for order in ("abc", "bca", "cab", "abc")]


def test_options_choose_in_the_order_that_is_known() -> None:
    chosen = options(["--rows", "upload,memory", "--peers", "nginx,splice", "--rounds", "2", "--seconds", "0.5"])
    assert (chosen.rows, chosen.peers) == (["memory", "upload"], ["splice", "nginx"])
    assert (chosen.rounds, chosen.seconds, chosen.json) == (2, 0.5, None)
    assert (options([]).rounds, options([]).rows, options([]).peers) == (5, list(ROWS), list(TITLES))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="apache: must be of splice, "):
        names(list(TITLES))("nginx,apache")


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "0"], ["--rows", ""]])
def test_nothing_to_do_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments)
