"""The benchmark's schedule, arithmetic, texts and programs; a small run, and one that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from random import Random
from statistics import fmean

import attrs
import pytest

from rproxy.agent.sampler import Load
from rproxy.net.addresses import Address
from tests.benchmarks.hosts import __main__ as program
from tests.benchmarks.hosts import cgroups
from tests.benchmarks.hosts.agent_check import answer
from tests.benchmarks.hosts.cgroups import Group, NoCgroups, new_group, usage_s
from tests.benchmarks.hosts.client import Clients
from tests.benchmarks.hosts.contenders import BALANCES, DEFAULT, POLICIES_COMPARED, contenders
from tests.benchmarks.hosts.farm import QUOTAS
from tests.benchmarks.hosts.figures import AIMS, COLUMNS, Case, Conditions, Figures, Results, delivered
from tests.benchmarks.hosts.helpers import Helper, HelperFailed
from tests.benchmarks.hosts.hog import work
from tests.benchmarks.hosts.report import as_json, text
from tests.benchmarks.hosts.schedule import (
    ANSWER_S,
    HOG_OFF_S,
    HOG_ON_S,
    HOG_SHARE,
    OFTEN_EACH,
    OFTEN_S,
    SELDOM_S,
    SESSIONS,
    WORK_S,
    Phase,
    Session,
    hog_phases,
    long_sessions,
    short_sessions,
)
from tests.benchmarks.hosts.service import Served
from tests.benchmarks.outcomes import exit_status
from tests.benchmarks.peers import programs
from tests.conftest import need
from tests.integration.addresses import LOOPBACK, RefusingPort
from tests.integration.polling import READY_S, poll
from tests.integration.twistd import environment

SECONDS = 1000.0
SHORT, FOUR = Case("short", 1), Case("short", 4)
BEST, OTHER, OURS, REPORT = "haproxy-leastconn", "haproxy-random", "rproxy-new", "rproxy-report"


def test_a_hog_is_active_for_a_third_of_the_time_with_shares_of_a_range() -> None:
    phases = hog_phases(Random(1), SECONDS)
    active_s = sum(phase.ends_s - phase.begins_s for phase in phases)
    assert active_s / SECONDS == pytest.approx(HOG_ON_S / (HOG_ON_S + HOG_OFF_S), rel=0.2)
    assert all(HOG_SHARE[0] <= phase.share <= HOG_SHARE[1] for phase in phases)
    assert all(0 <= phase.begins_s < phase.ends_s <= SECONDS for phase in phases)
    assert all(earlier.ends_s < later.begins_s for earlier, later in pairwise(phases))


def test_short_sessions_are_a_poisson_process_of_exponential_works() -> None:
    sessions = short_sessions(Random(1), 90.0, SECONDS)
    assert len(sessions) == pytest.approx(90 * SECONDS, rel=0.02)
    gaps = [later.opens_s - earlier.opens_s for earlier, later in pairwise(sessions)]
    works = [work_s for session in sessions for _, work_s in session.pieces]
    for values, mean in [(gaps, 1 / 90), (works, WORK_S)]:
        assert fmean(values) == pytest.approx(mean, rel=0.03)
        assert fmean(value**2 for value in values) == pytest.approx(2 * mean**2, rel=0.05)
    assert all(session.opens_s == session.closes_s and session.pieces[0][0] == 0 for session in sessions)
    assert fmean(session.proxy for session in sessions) == pytest.approx(0.5, abs=0.01)


def due(session: Session) -> Iterator[float]:
    """When the work of a long session is due if each answer takes the typical time."""
    now = session.opens_s
    for pause_s, _ in session.pieces:
        if now + pause_s > session.closes_s:
            return
        yield now + pause_s
        now += pause_s + ANSWER_S


def test_long_sessions_bring_the_same_rate_of_work_from_the_beginning_on() -> None:
    times = [at_s for session in long_sessions(Random(1), 90.0, SECONDS) for at_s in due(session)]
    for begins_s in (3.0, 300.0, 900.0):
        assert sum(begins_s <= at_s < begins_s + 90 for at_s in times) / 90 == pytest.approx(90, rel=0.05)


def test_a_tenth_of_the_long_sessions_has_often_work() -> None:
    pauses = [
        [pause_s for pause_s, _ in session.pieces]
        for session in long_sessions(Random(1), 90.0, SECONDS)
        if session.closes_s - session.opens_s > 30
    ]
    often = [each for each in pauses if fmean(each) < 0.6]
    seldom = [each for each in pauses if fmean(each) >= 0.6]
    assert len(often) / len(pauses) == pytest.approx(1 / OFTEN_EACH, rel=0.2)
    assert fmean(chain(*often)) == pytest.approx(OFTEN_S, rel=0.05)
    assert fmean(chain(*seldom)) == pytest.approx(SELDOM_S, rel=0.05)


def test_pieces_of_work_fill_a_long_session_whatever_the_answers_take() -> None:
    for session in long_sessions(Random(1), 90.0, SECONDS):
        assert sum(pause_s for pause_s, _ in session.pieces) >= session.closes_s - session.opens_s


def test_long_sessions_live_for_half_of_a_short_run() -> None:
    ends = [session.closes_s - session.opens_s for session in long_sessions(Random(1), 3000.0, 20.0)]
    assert 4 < fmean(ends) < 10  # 10 s, but cut by the end of the run
    assert long_sessions(Random(1), 0.1, 0.1) == []


@pytest.mark.parametrize("pool", SESSIONS)
def test_a_seed_gives_the_same_sessions(pool: str) -> None:
    first, again, other = (SESSIONS[pool](Random(seed), 50.0, 5.0) for seed in ("a", "a", "b"))
    assert first == again != other
    assert [Session.from_json(json.loads(json.dumps(each.as_json))).opens_s for each in first] == [
        each.opens_s for each in first
    ]


def answers(*took_s: float | None, host: str = "host1") -> list[tuple[float, float | None, str]]:
    return [(5.0 + n, each, "" if each is None else host) for n, each in enumerate(took_s)]


def test_figures_are_of_what_was_due_after_the_warm_up() -> None:
    early = [(1.0, 100.0, "host2"), (2.9, None, "")]
    found = Figures.of([*early, *answers(0.001, 0.003, 0.002)], 3.0, 10.0)
    assert (found.p50, found.p99, found.requests, found.failures) == (2.0, 3.0, 3, 0)
    assert found.mean == pytest.approx(2.0)
    assert found.shares == {"host1": 1.0}


def test_what_was_not_answered_took_as_long_as_clients_wait() -> None:
    found = Figures.of([*answers(0.001, None), *answers(0.001, 0.001, host="host3")], 3.0, 10.0)
    assert (found.p99, found.failures) == (10_000.0, 1)
    assert found.shares == pytest.approx({"host1": 1 / 3, "host3": 2 / 3})


def test_a_run_without_work_has_no_figures() -> None:
    with pytest.raises(ValueError, match="no piece of work was due"):
        Figures.of(answers(0.1), 6.0, 10.0)


def test_the_share_of_a_quota_is_that_of_busy_time() -> None:
    assert delivered(10.0, 2.4, 0.3) == pytest.approx(0.8)
    assert delivered(0.0, 0.0, 0.3) == 1.0


@pytest.mark.parametrize(
    ("late_s", "had", "hog_had", "flaw"),
    [
        (0.01, 0.95, 0.95, ""),
        (0.012, 1.0, 1.0, "the client was 12 ms late"),
        (0.0, 0.94, 1.0, "host2 had 94% of its CPU time"),
        (0.0, 1.0, 0.5, "host2's hog had 50% of its CPU time"),
    ],
)
def test_a_run_does_not_count_on_a_machine_that_is_too_busy(
    late_s: float, had: float, hog_had: float, flaw: str
) -> None:
    conditions = Conditions(late_s, {"host1": 1.0, "host2": had}, {"host1": 1.0, "host2": hog_had})
    assert conditions.flaw == flaw


def figures(p99: float, failures: int = 0) -> Figures:
    return Figures(p50=p99 / 10, p99=p99, mean=p99 / 5, requests=100, failures=failures, shares={"host1": 1.0})


def results(*p99s: dict[str, float], case: Case = SHORT) -> Results:
    """Of one case in some rounds."""
    made = Results([BEST, OTHER, OURS, REPORT], default=OURS)
    for measured in p99s:
        made.begin_round()
        for contender, p99 in measured.items():
            made.add(case, contender, figures(p99))
    return made


THREE = results(
    {BEST: 500, OTHER: 900, OURS: 300, REPORT: 600},
    {BEST: 100, OTHER: 150, OURS: 90, REPORT: 150},
    {BEST: 1000, OTHER: 800, OURS: 200, REPORT: 2000},
)


def test_ratios_are_of_the_same_round_and_to_the_contender_with_the_least_median() -> None:
    assert THREE.median(SHORT, BEST, "p99") == 500
    assert THREE.best(SHORT, "p99") == BEST
    assert THREE.ratios(SHORT, OURS, "p99") == pytest.approx([0.6, 0.9, 0.2])
    assert THREE.ratios(SHORT, OTHER, "p99") == pytest.approx([1.8, 1.5, 0.8])


def test_a_round_without_one_of_both_counts_for_nothing() -> None:
    made = results({BEST: 500, OURS: 300}, {OURS: 1}, {BEST: 100})
    assert made.ratios(SHORT, OURS, "p99") == [0.6]
    assert made.ratios(SHORT, OTHER, "p99") == []
    assert results({OURS: 300}).ratios(SHORT, OURS, "p99") == []
    assert made.values(SHORT, OURS, "p99") == [300, 1, None]
    assert made.ratios(FOUR, OURS, "p99") == []


def test_a_row_has_medians_ratios_and_the_ratio_of_every_round() -> None:
    rows = {outcome.figure: outcome for outcome in THREE.outcomes(SHORT)}
    cells = dict(zip(COLUMNS, rows[OURS].measured, strict=True))
    assert cells == {
        "p50 ms": "20",
        "p99 ms": "200",
        "mean ms": "40",
        "p50/best": "0.60",
        "p99/best": "0.60",
        "mean/best": "0.60",
        "failed": "0",
        "p99/best by round": "0.60 0.90 0.20",
    }


@pytest.mark.parametrize(
    ("case", "ratio", "aim", "reached"),
    [
        (SHORT, 0.7, "at most 0.7", True),
        (SHORT, 0.71, "at most 0.7", False),
        (FOUR, 0.6, "at most 0.6", True),
        (FOUR, 0.61, "at most 0.6", False),
        (Case("short", 2), 2.0, "", None),
        (Case("long", 1), 2.0, "", None),
    ],
)
def test_the_default_policy_has_an_aim(case: Case, ratio: float, aim: str, reached: bool | None) -> None:
    rows = {row.figure: row for row in results({BEST: 100, OURS: 100 * ratio, REPORT: 500}, case=case).outcomes(case)}
    assert (rows[OURS].aim, rows[OURS].reached) == (aim, reached)
    assert (rows[REPORT].aim, rows[REPORT].reached) == ("", None)
    assert exit_status(list(rows.values())) == (reached is False)


def test_what_was_not_measured_has_no_outcome() -> None:
    rows = {row.figure: row for row in results({OURS: 100}, {BEST: 100}).outcomes(SHORT)}
    assert rows[OURS].reached is None
    assert list(rows[OTHER].measured) == ["n/a"] * 6 + ["0", "n/a"]


def test_aims_are_for_one_and_for_four_proxies() -> None:
    assert AIMS == {("short", 1): 0.7, ("short", 4): 0.6}


def test_the_text_tells_the_conditions_and_what_did_not_count() -> None:
    made = results({BEST: 500, OURS: 300})
    made.left.append(1.07)
    made.conditions.append(Conditions(0.0021, {"host1": 0.99, "host2": 0.97}, {"host1": 1.0}))
    made.reject(f"{SHORT}, {OURS}", "host3 had 80% of its CPU time")
    made.fail(f"{SHORT}, {OTHER}", "two\nlines")
    told = text(made, {"kernel": "Linux 6"}, 25.0)
    assert told.startswith("kernel: Linux 6\n\nMedians of 1 round of 25 s")
    assert "Hogs left 1.07 to 1.07 cores." in told
    assert "2.1 ms at most, and a host had 97% of its quota at least" in " ".join(told.split())
    assert "\n\nshort, 1 proxy:\n\n=====" in told
    assert "did not count:\nround 1, short, 1 proxy, rproxy-new: host3 had 80% of its CPU time" in told
    assert told.endswith("Failed:\nround 1, short, 1 proxy, haproxy-random: two lines")
    assert "Failed" not in text(THREE, {}, 25.0)


def test_the_json_has_every_value_of_every_round() -> None:
    told = json.loads(json.dumps(as_json(THREE, {"kernel": "Linux 6"})))
    assert [each["short, 1 proxy"][OURS]["p99"] for each in told["rounds"]] == [300, 90, 200]
    assert told["rounds"][0]["short, 1 proxy"][OURS]["shares"] == {"host1": 1.0}
    assert told["setup"] == {"kernel": "Linux 6"}


def test_by_default_all_of_haproxys_algorithms_meet_the_default_policy_and_two_others() -> None:
    chosen = program.options([])
    assert (chosen.rounds, chosen.seconds, chosen.proxies, chosen.what) == (5, 25.0, [1, 4], ["short", "long"])
    names = list(contenders(chosen.balances, chosen.policies))
    assert names[:4] == ["haproxy-leastconn", "haproxy-random", "haproxy-roundrobin", "haproxy-agent"]
    assert {f"rproxy-{name}" for name in ("least-connections", "report", DEFAULT)} == set(names[4:])
    assert (list(BALANCES), list(POLICIES_COMPARED)) == (chosen.balances, chosen.policies)


def test_options_choose() -> None:
    chosen = program.options(
        ["--proxies", "4,2,4", "--what", "long", "--policies", "random,random", "--balances", "agent"]
    )
    assert (chosen.proxies, chosen.what, chosen.policies, chosen.balances) == ([2, 4], ["long"], ["random"], ["agent"])


def test_a_policy_may_have_options_of_the_proxy() -> None:
    chosen = program.options(["--policies", "report,report  --probe-interval 1"])
    assert chosen.policies == ["report", "report --probe-interval 1"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--seconds", "0"],
        ["--proxies", "0"],
        ["--proxies", "9"],
        ["--proxies", "one"],
        ["--what", "wide"],
        ["--policies", "best"],
        ["--policies", ""],
        ["--balances", "source"],
    ],
)
def test_nothing_to_do_and_unknown_names_are_refused(arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit):
        program.options(arguments)


def test_quotas_fit_into_two_cores_and_work_can_be_spread_by_them() -> None:
    assert sum(QUOTAS) < program.CORES_MIN
    assert [quota * program.QUOTA_UNITS for quota in QUOTAS] == pytest.approx([6, 6, 3, 11])


@pytest.mark.parametrize(("cpu", "line"), [(0, b"100%\n"), (37, b"63%\n"), (100, b"10%\n"), (None, b"\n")])
def test_haproxys_agent_check_gets_what_is_idle(cpu: int | None, line: bytes) -> None:
    assert answer(Load(cpu=cpu)) == line


def group(folder: Path, version: int) -> Group:
    """A group in a hierarchy of that version that is not the kernel's."""
    roots = [folder] if version == 2 else [folder / "cpu", folder / "cpuacct"]
    for root in roots:
        root.mkdir(exist_ok=True)
    if version == 2:
        folder.joinpath("cgroup.controllers").write_text("cpuset cpu io\n")
        mounts = f"proc /proc proc rw 0 0\ncgroup2 {folder} cgroup2 rw,nsdelegate 0 0\n"
    else:
        mounts = "".join(f"cgroup {root} cgroup rw,{root.name} 0 0\n" for root in roots)
    folder.joinpath("mounts").write_text(mounts)
    made = new_group("hosts", folder / "mounts")
    if version == 2:
        made.folders[0].joinpath("cgroup.controllers").write_text("cpu\n")
    return made


def test_a_quota_in_v1(tmp_path: Path) -> None:
    made = group(tmp_path, 1)
    made.limit(0.15)
    made.weigh(100)
    cpu, accounts = tmp_path / "cpu/hosts", tmp_path / "cpuacct/hosts"
    assert [path.read_text() for path in sorted(cpu.iterdir())] == ["10000", "1500", "102400"]
    assert made.joining[:3] == [
        "sh",
        "-c",
        f'echo $$ >{cpu}/cgroup.procs && echo $$ >{accounts}/cgroup.procs && exec "$@"',
    ]
    made.usage.write_text("1500000000\n")
    assert made.usage == accounts / "cpuacct.usage"
    assert usage_s(made.usage) == 1.5


def test_a_quota_in_v2(tmp_path: Path) -> None:
    made = group(tmp_path, 2)
    made.limit(0.55)
    made.weigh(100)
    folder = tmp_path / "hosts"
    assert (folder / "cpu.max").read_text() == "5500 10000"
    assert (folder / "cpu.weight").read_text() == "10000"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert made.child("host1").folders == [folder / "host1"]
    assert (folder / "cgroup.subtree_control").read_text() == "+cpu"
    made.usage.write_text("usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n")
    assert usage_s(made.usage) == 1.5


def test_controllers_of_v1_in_one_folder(tmp_path: Path) -> None:
    tmp_path.joinpath("mounts").write_text(f"cgroup {tmp_path} cgroup rw,cpu,cpuacct 0 0\n")
    assert new_group("hosts", tmp_path / "mounts").folders == [tmp_path / "hosts"]


@pytest.mark.parametrize("mounts", ["proc /proc proc rw 0 0\n", "cgroup /there cgroup rw,memory 0 0\n", "unlike v1"])
def test_a_machine_without_a_cpu_controller_is_told(tmp_path: Path, mounts: str) -> None:
    tmp_path.joinpath("cgroup.controllers").write_text("memory pids\n")
    mounts = mounts.replace("unlike v1", f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    tmp_path.joinpath("mounts").write_text(mounts)
    with pytest.raises(NoCgroups, match="no CPU controller"):
        new_group("hosts", tmp_path / "mounts")


def test_a_group_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    group(tmp_path, 1)
    tmp_path.joinpath("cpu/hosts").rmdir()
    with pytest.raises(NoCgroups, match=r"cannot be made: .*cpuacct/hosts"):
        new_group("hosts", tmp_path / "mounts")
    assert list(tmp_path.joinpath("cpu").iterdir()) == []


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Helper, Address]]:
    """A service on loopback, named host1, whose group seems to use no CPU time."""
    tmp_path.joinpath("usage").write_text("0\n")
    with Helper([], "service", LOOPBACK, 0, "host1", tmp_path / "usage") as helper:
        yield helper, (LOOPBACK, helper.hear())


def served(helper: Helper) -> Served:
    helper.tell("served")
    return Served(**helper.hear())


def once(at_s: float, proxy: float = 0.0, work_s: float = 0.01) -> Session:
    """A session of one piece of work."""
    return Session(at_s, at_s, proxy, [(0.0, work_s)])


def took_s(answer: tuple[float, float | None, str]) -> float:
    """The response time of work that the service has done."""
    _, took_s, host = answer
    assert took_s is not None
    assert host == "host1"
    return took_s


def played(sessions: Sequence[Session], *targets: Address) -> list[tuple[float, float | None, str]]:
    """The answers, in the order of when they were due."""
    clients = Clients(time.monotonic(), sessions, targets)
    clients.run(READY_S)
    return sorted(clients.answers, key=lambda each: each[0])


def test_pieces_of_work_cost_cpu_time_and_those_of_a_session_follow_each_other(
    service: tuple[Helper, Address],
) -> None:
    helper, address = service
    sessions = [Session(0.0, 10.0, 0.0, [(0.0, 0.05), (0.01, 0.02), (20.0, 0.01)]), once(0.02, work_s=0.01)]
    sessions[0] = attrs.evolve(sessions[0], closes_s=0.5)
    first, *others = played(sessions, address)
    (second,) = (each for each in others if each[0] > 0.05)
    (short,) = (each for each in others if each[0] == 0.02)
    assert first[0] == 0.0
    assert took_s(first) >= 0.05
    assert second[0] == pytest.approx(took_s(first) + 0.01)
    assert took_s(second) >= 0.02
    assert took_s(short) >= 0.01
    assert served(helper).work_s == pytest.approx(0.08, abs=0.001)
    assert served(helper) == Served()


def test_work_in_hand_shares_the_cpu(service: tuple[Helper, Address]) -> None:
    """Work that costs little and comes second does not wait for the end of what costs much."""
    long, short = played([once(0.0, work_s=0.3), once(0.05, work_s=0.01)], service[1])
    assert short[0] + took_s(short) < long[0] + took_s(long)


def test_a_stretch_of_work_counts_as_busy_time(service: tuple[Helper, Address]) -> None:
    helper, address = service
    played([once(0.0, work_s=0.25)], address)
    told = served(helper)
    assert told.busy_s >= 0.25
    assert told.used_s == 0.0


def test_work_of_clients_that_are_gone_is_dropped(service: tuple[Helper, Address]) -> None:
    helper, address = service
    clients = Clients(time.monotonic(), [once(0.0, work_s=1000.0)], [address])
    clients.run(0.1)
    assert clients.answers == [(0.0, None, "")]
    assert took_s(played([once(0.0)], address)[0]) >= 0.01
    poll(lambda: served(helper).work_s == 0.0, READY_S, "the service is idle")


def test_what_a_proxy_refuses_has_failed() -> None:
    port = RefusingPort()
    try:
        later = Session(0.0, 0.1, 0.0, [(0.05, 0.01), (0.01, 0.01)])
        assert played([later, once(0.0)], port.address) == [(0.0, None, ""), (0.05, None, "")]
    finally:
        port.close()


def test_a_client_that_waits_in_vain_gives_up() -> None:
    clients = Clients(time.monotonic(), [once(0.0)], [("192.0.2.1", 80)])
    clients.run(0.05)
    assert clients.answers == [(0.0, None, "")]


def test_clients_go_to_the_proxy_that_was_drawn_for_them(service: tuple[Helper, Address]) -> None:
    port = RefusingPort()
    try:
        sessions = [once(0.0, 0.49), once(0.01, 0.5), once(0.02, 0.99)]
        assert [host for _, _, host in played(sessions, service[1], port.address)] == ["host1", "", ""]
    finally:
        port.close()


def test_a_hog_takes_its_share_of_the_quota_in_time() -> None:
    before_s = time.thread_time()
    wanted_s, had_s = work([Phase(0.0, 0.4, 0.5), Phase(0.5, 0.6, 1.0)], time.monotonic(), 0.1)
    assert wanted_s == pytest.approx(0.4 * 0.5 * 0.1 + 0.1 * 1.0 * 0.1)
    assert 0 < had_s <= wanted_s
    assert time.thread_time() - before_s == pytest.approx(had_s, abs=0.01)


def test_what_a_hog_could_not_have_in_its_time_it_does_not_get_later() -> None:
    wanted_s, had_s = work([Phase(0.0, 0.1, 0.5)], time.monotonic() - 1.0, 0.2)
    assert wanted_s == pytest.approx(0.01)
    assert had_s == 0.0


def test_a_helper_that_ends_is_an_error() -> None:
    with Helper([], "hog") as helper, pytest.raises(HelperFailed, match="hog: it has ended"):
        helper.hear()


def on_this_machine() -> None:
    need("haproxy", "ip", "nsenter", "taskset", root=True)
    programs.raise_descriptor_limit()


@pytest.mark.hosts
@pytest.mark.alone
def test_a_small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_machine()
    monkeypatch.setattr(program, "WARM_UP_S", 0.5)
    monkeypatch.setattr("tests.benchmarks.hosts.figures.LATE_MAX_S", READY_S)
    monkeypatch.setattr("tests.benchmarks.hosts.figures.DELIVERED_MIN", 0.0)
    few = ["--rounds", "1", "--seconds", "1", "--what", "long", "--proxies", "2"]
    found = program.run(program.options([*few, "--balances", "agent", "--policies", "least-connections"]))
    assert (found.failures, found.rejected) == ([], [])
    assert 0.3 < found.left[0] < sum(QUOTAS)
    for contender in ("haproxy-agent", "rproxy-least-connections"):
        measured = found.rounds[0][Case("long", 2)][contender]
        assert measured.requests > 20
        assert measured.failures == 0
        assert 0 < measured.p50 <= measured.p99
        assert set(measured.shares) == {"host1", "host2", "host3", "host4"}
    assert leftovers(os.getpid()) == []


@pytest.mark.hosts
@pytest.mark.alone
def test_an_interrupted_run_leaves_nothing_behind() -> None:
    on_this_machine()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.hosts", "--rounds", "1"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        poll(lambda: f"rproxy{process.pid}-client" in leftovers(process.pid), READY_S, "the hosts are there")
        process.send_signal(signal.SIGINT)
        assert process.wait(READY_S) == 128 + signal.SIGINT
    finally:
        process.terminate()
        process.wait(READY_S)
    assert leftovers(process.pid) == []


def leftovers(pid: int) -> list[str]:
    """Namespaces and cgroups of a run."""
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    folders = [folder / f"rproxy{pid}" for folder in cgroups.roots(Path("/proc/self/mounts").read_text())]
    return [name for name in named if name.startswith(f"rproxy{pid}-")] + [
        f"{each}" for each in folders if each.exists()
    ]
