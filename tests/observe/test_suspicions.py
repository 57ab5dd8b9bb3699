"""What a look at the back-ends finds, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from rproxy.observe.suspicions import (
    CLOCK,
    FIXED_FIGURES,
    FIXED_LOOKS,
    HERDING,
    JUMP_TOLD_S,
    LOOK_EVERY_S,
    LOST_PROBES,
    MINUTE,
    OLD_AGENT,
    OLD_REPORTS,
    ROWS,
    ProcessWatch,
    ServiceWatch,
    Suspicion,
)
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend, StaticTerms
from rproxy.pool.policy import Policy
from rproxy.pool.states import Administration
from tests.fakes import UNLIMITED
from tests.policies.balancing import Balance, policy
from tests.policies.test_shadow import Always
from tests.pool.driving import agent

PROBE_S = 5.0


class Watched(Balance):
    """A pool that is looked at."""

    def __init__(self, policy: Policy, *only: str, by_client: bool = False) -> None:
        super().__init__(policy, limits=UNLIMITED, slow_start_s=0, panic_below=0)
        self.watch = ServiceWatch("web", PROBE_S)
        self.by_client = by_client
        self.only = only
        """Kinds that are of interest; empty for all."""

    def look(self) -> list[Suspicion]:
        """A look comes when its time has passed."""
        self.now += LOOK_EVERY_S
        found = [each for some in self.watch.look(self.pool, self.now, by_client=self.by_client) for each in some]
        return [each for each in found if not self.only or each.kind in self.only]

    def after(self, looks: int, meanwhile: Callable[[], object] = lambda: None) -> list[Suspicion]:
        """What the last of these looks finds; `meanwhile` comes before each."""
        found: list[Suspicion] = []
        for _ in range(looks):
            meanwhile()
            found = self.look()
        return found

    def all_report(self, **figures: Any) -> None:
        for backend in self.pool:
            if backend.has_agent:
                self.report(backend, **figures)


def kinds(found: list[Suspicion]) -> list[tuple[str, str]]:
    return [(each.kind, each.backend) for each in found]


class TestHerding:
    def herd(self, watched: Watched, many: int = 60) -> list[Suspicion]:
        return watched.after(1, lambda: watched.serve(many, held=True))

    def test_who_takes_all_clients_of_four_herds_them(self) -> None:
        watched = Watched(Always(), HERDING)
        first, *_ = watched.all_up(4)
        watched.look()
        (found,) = self.herd(watched)
        assert (found.kind, found.service, found.backend) == (HERDING, "web", first.name)
        assert found.text == ("takes 100 % of the clients, 4.0 times its share by weight, and has 60 of 60 sessions")

    def test_so_does_one_in_turn_with_others(self) -> None:
        """Each is a herd's target for 10 s: over the minute all are even."""
        chooses = Always()
        watched = Watched(chooses, HERDING)
        watched.all_up(4)
        watched.look()
        for _ in range(6):
            chooses.last = not chooses.last
            served = watched.serve(200, held=True)
            (found,) = watched.look()
            assert (found.key, found.backend) == ((HERDING, "web", ""), served[0].name)
            for backend in served:
                watched.close(backend)

    def test_who_takes_too_many_in_a_minute_herds_though_there_are_few_in_ten_seconds(self) -> None:
        watched = Watched(Always(), HERDING)
        first, *_ = watched.all_up(4)
        watched.look()
        assert watched.after(5, lambda: watched.serve(9, held=True)) == []
        assert kinds(watched.after(2, lambda: watched.serve(9, held=True))) == [(HERDING, first.name)]

    @pytest.mark.parametrize(
        ("size", "weight", "many"),
        [(3, 100, 1000), (1, 100, 1000), (4, 100, 40), (4, 300, 1000)],
        ids=["three", "one", "few clients", "as heavy as the others together"],
    )
    def test_its_share_of_few_back_ends_or_clients_is_no_herd(self, size: int, weight: int, many: int) -> None:
        watched = Watched(Always(), HERDING)
        watched.up(agent(0), weight=weight)
        for number in range(1, size):
            watched.up(agent(number))
        watched.look()
        assert self.herd(watched, many) == []

    def test_sessions_that_end_at_once_do_no_harm(self) -> None:
        watched = Watched(Always(), HERDING)
        watched.all_up(4)
        watched.look()
        assert watched.after(3, lambda: watched.serve(500, held=False)) == []

    def test_one_that_catches_up_with_the_others_is_no_herd(self) -> None:
        watched = Watched(policy("least-connections"), HERDING)
        watched.all_up(4)
        watched.serve(4000, held=True)
        new = watched.up(agent(9))
        watched.look()
        for _ in range(8):
            assert self.herd(watched, 100) == []
        assert new.connections == 800

    @pytest.mark.parametrize("way", ["down", "passed over", "full", "failing"])
    def test_those_that_cannot_get_clients_like_any_other_are_not_compared(self, way: str) -> None:
        watched = Watched(policy("report") if way == "passed over" else Always(), HERDING)
        first, *others = watched.all_up(5, **({"max_connections": 1} if way == "full" else {}))
        if way == "full":
            watched.unregister((first.address, 5555))
            first = watched.up(agent(0), instance=2)
            for other in others:
                watched.lease(other)
                watched.pool.connected(other)
        for other in others:
            match way:
                case "down":
                    watched.down(other)
                case "passed over":
                    watched.report(other, cpu=95)
                case "failing":
                    watched.refuse(other)
        watched.look()
        for _ in range(3):
            assert self.herd(watched, 100) == []
        assert first.connections == 300

    @pytest.mark.parametrize(
        "figures", [{"cpu": 60}, {"load": 60}, {"tcp": 200}], ids=lambda figures: next(iter(figures))
    )
    def test_one_whose_host_is_freer_than_the_others_takes_clients_rightly(self, figures: dict[str, Any]) -> None:
        watched = Watched(Always(), HERDING)
        _, *others = watched.all_up(4)
        for other in others:
            watched.report(other, **figures)
        watched.look()
        for _ in range(3):
            assert self.herd(watched, 60) == []

    def test_where_clients_decide_nobody_looks(self) -> None:
        watched = Watched(Always(), HERDING, by_client=True)
        watched.all_up(4)
        watched.look()
        assert self.herd(watched) == []

    @pytest.mark.parametrize("name", POLICIES)
    def test_no_built_in_policy_is_taken_for_one(self, name: str) -> None:
        watched, rng = Watched(policy(name)), Random(3)
        backends = [watched.up(agent(number), weight=rng.choice([50, 100, 200])) for number in range(8)]
        held: list[Backend] = []

        def meanwhile() -> None:
            for _ in range(200):
                watched.now += 0.05
                held.append(watched.open())
                if len(held) > 80:
                    watched.close(held.pop(rng.randrange(len(held))), served_s=4.0)
                if rng.random() < 0.5:
                    backend = rng.choice(backends)
                    watched.report(backend, cpu=rng.randrange(5, 40), tcp=backend.connections)

        for _ in range(10):
            assert watched.after(1, meanwhile) == []


class TestReports:
    def test_reports_that_are_all_old_are_found(self) -> None:
        watched = Watched(Always())
        watched.all_up(3)
        assert watched.after(1) == []
        (found,) = watched.after(1)
        assert (found.kind, found.backend) == (OLD_REPORTS, "")
        assert found.text.startswith("no report of its 3 back-ends with an agent is younger than 20 s, though each is")

    def test_one_that_answers_is_enough(self) -> None:
        watched = Watched(Always())
        first, *_ = watched.all_up(3)
        assert watched.after(5, lambda: watched.report(first)) == []

    def test_a_single_agent_is_no_pattern_and_others_have_no_reports(self) -> None:
        watched = Watched(Always())
        watched.up()
        for number in range(3):
            watched.pool.static.put((f"10.9.9.{number}", 80), StaticTerms(100), watched.now)
        assert watched.after(5) == []

    def test_those_that_can_get_no_clients_do_not_matter(self) -> None:
        watched = Watched(Always())
        for backend in watched.all_up(3):
            watched.down(backend)
        assert watched.after(5) == []


class TestFixedFigures:
    def pool(self, **figures: int | None) -> tuple[Watched, Backend]:
        """One back-end, which has more sessions at each look, and reports the same."""
        watched = Watched(Always())
        backend = watched.up()
        self.figures: dict[str, Any] = {"cpu": 5, "memory": 20, "tcp": 3, **figures}
        watched.report(backend, **self.figures)
        return watched, backend

    def test_figures_that_ignore_our_sessions_are_found(self) -> None:
        watched, backend = self.pool()

        def meanwhile() -> None:
            watched.open()
            watched.report(backend, **self.figures)

        assert watched.after(FIXED_LOOKS - 1, meanwhile) == []
        (found,) = watched.after(1, meanwhile)
        assert (found.kind, found.backend) == (FIXED_FIGURES, backend.name)
        assert found.text == (
            "its agent has reported the same figures for 120 s (CPU 5 %, memory 20 %, 3 TCP connections), "
            "while it had 1 to 12 sessions of this proxy: does it measure the host that serves them?"
        )

    def test_one_other_figure_in_between_shows_that_it_measures(self) -> None:
        watched, backend = self.pool()

        def meanwhile() -> None:
            watched.open()
            watched.report(backend, **self.figures)

        watched.after(FIXED_LOOKS - 2, meanwhile)
        watched.report(backend, **{**self.figures, "tcp": 4})
        watched.look()
        assert watched.after(2, meanwhile) == []

    @pytest.mark.parametrize("sessions", [0, 3])
    def test_a_pool_with_few_sessions_may_be_idle(self, sessions: int) -> None:
        watched, backend = self.pool()

        def meanwhile() -> None:
            for held in watched.serve(sessions, held=True):
                watched.report(backend, **self.figures)
                watched.close(held)
            watched.report(backend, **self.figures)

        assert watched.after(50, meanwhile) == []

    def test_short_sessions_between_the_reports_are_no_evidence(self) -> None:
        watched, backend = self.pool()

        def meanwhile() -> None:
            watched.serve(500, held=False)
            watched.report(backend, **self.figures)

        assert watched.after(30, meanwhile) == []

    def test_an_agent_that_does_not_know_its_connections_says_nothing_wrong(self) -> None:
        watched, backend = self.pool(tcp=None)

        def meanwhile() -> None:
            watched.open()
            watched.report(backend, **self.figures)

        assert watched.after(30, meanwhile) == []

    def test_without_new_reports_nothing_is_the_same_again(self) -> None:
        watched, backend = self.pool()

        def meanwhile() -> None:
            watched.open()

        watched.report(backend, **self.figures)
        assert FIXED_FIGURES not in [each.kind for each in watched.after(30, meanwhile)]

    def test_a_host_that_counts_its_connections_is_never_found(self) -> None:
        watched, rng = Watched(policy("least-connections")), Random(5)
        backends = watched.all_up(4)
        held: list[Backend] = []

        def meanwhile() -> None:
            for _ in range(rng.randrange(20)):
                if held and rng.random() < 0.5:
                    watched.close(held.pop())
                else:
                    held.append(watched.open())
            for backend in backends:
                watched.report(backend, cpu=0, memory=20, tcp=backend.counts.established + 2)

        for _ in range(100):
            assert watched.after(1, meanwhile) == []


class TestLostProbes:
    def test_an_agent_that_registers_but_does_not_answer_is_found(self) -> None:
        watched = Watched(Always(), LOST_PROBES)
        backend, other = watched.all_up(2)
        watched.down(backend)

        def meanwhile() -> None:
            watched.report(other)
            watched.register((backend.address, 5555))

        assert watched.after(3, meanwhile) == []
        (found,) = watched.after(1, meanwhile)
        assert (found.kind, found.backend) == (LOST_PROBES, backend.name)
        assert "still registers, but has not answered a probe for 42 s" in found.text

    def test_one_in_maintenance_may_be_unable_to_answer(self) -> None:
        watched = Watched(Always(), LOST_PROBES)
        backend, other = watched.all_up(2)
        watched.pool.overrides.administer((backend.address, 80), Administration.MAINT, watched.now)
        watched.down(backend)

        def meanwhile() -> None:
            watched.report(other)
            watched.register((backend.address, 5555))

        assert watched.after(20, meanwhile) == []

    def test_a_dead_host_is_only_down(self) -> None:
        watched = Watched(Always(), LOST_PROBES)
        backend, other = watched.all_up(2)
        watched.down(backend)
        assert watched.after(20, lambda: watched.report(other)) == []

    def lossy(self, others: int | None, *, everywhere: bool = False) -> list[Suspicion]:
        """Every third probe of one back-end, or of all three, is lost."""
        watched = Watched(Always(), LOST_PROBES)
        backends = watched.all_up(3)

        def meanwhile() -> None:
            for number, backend in enumerate(backends):
                for count in range(3):
                    if count == 0 and (everywhere or number == 1):
                        watched.lose(watched.probe(backend))
                    else:
                        watched.report(backend, others=others, tcp=count)

        assert watched.after(MINUTE - 1, meanwhile) == []
        return watched.after(3, meanwhile)

    def test_losses_where_other_proxies_have_sessions_are_found(self) -> None:
        (found,) = self.lossy(12)
        assert (found.kind, found.backend) == (LOST_PROBES, "10.0.0.1:80")
        assert "32 % of the probes to it are lost, while other proxies have 12 sessions there" in found.text

    @pytest.mark.parametrize("others", [None, 0])
    def test_without_sessions_of_others_the_host_may_be_at_fault(self, others: int | None) -> None:
        assert self.lossy(others) == []

    def test_losses_everywhere_are_this_proxys_own(self) -> None:
        assert self.lossy(12, everywhere=True) == []


class TestOldAgents:
    def pool(self, *others: int | None) -> list[Suspicion]:
        watched = Watched(Always(), OLD_AGENT)
        backends = watched.all_up(len(others))

        def meanwhile() -> None:
            for number, (backend, told) in enumerate(zip(backends, others, strict=True)):
                watched.report(backend, others=told, tcp=number)

        assert watched.after(MINUTE - 1, meanwhile) == []
        return watched.after(2, meanwhile)

    def test_one_that_tells_nothing_while_most_others_do_is_found(self) -> None:
        (found,) = self.pool(0, 3, None, 1)
        assert (found.kind, found.backend) == (OLD_AGENT, "10.0.0.2:80")
        assert "it is of an old version, or registers with this proxy alone" in found.text

    @pytest.mark.parametrize("others", [(None,), (None,) * 5, (3, None), (1, 2, None, None), (0, 1, 2)])
    def test_where_there_is_no_other_proxy_or_no_majority_there_is_nothing_to_tell(
        self, others: tuple[int | None, ...]
    ) -> None:
        assert self.pool(*others) == []


class TestProcess:
    def test_a_clock_that_jumps_is_told_for_a_while(self) -> None:
        watch, now, unix = ProcessWatch(), 100.0, 1e9
        assert watch.look(now, unix, 0) == []
        (found,) = watch.look(now + 10, unix + 10 - 3600, 0)
        assert (found.kind, found.service, found.backend) == (CLOCK, "", "")
        assert found.text.startswith("the clock of this host has jumped by -3600 s")
        assert len(watch.look(now + 20, unix + 20 - 3600, 0)) == 1
        assert watch.look(now + 10 + JUMP_TOLD_S, unix + 10 + JUMP_TOLD_S - 3600, 0) == []

    def test_a_clock_that_is_adjusted_gradually_is_not(self) -> None:
        watch = ProcessWatch()
        for look in range(1000):
            assert watch.look(10.0 * look, 1e9 + 10.0 * look * (1 + 500e-6), 0) == []

    def test_late_looks_are_no_jumps(self) -> None:
        watch = ProcessWatch()
        for now in (0.0, 10.0, 500.0, 510.0):
            assert watch.look(now, 1e9 + now, 0) == []

    def test_datagrams_of_another_version_are_told_for_a_minute(self) -> None:
        watch = ProcessWatch()
        looks = [watch.look(10.0 * look, 1e9 + 10 * look, 7 if look >= 3 else 0) for look in range(12)]
        assert [bool(found) for found in looks] == [3 <= look < 3 + MINUTE for look in range(12)]
        assert looks[3][0].text == "datagrams of another version of the protocol were dropped, 7 in the last minute"


class TestSlices:
    def test_many_back_ends_are_looked_at_in_slices(self) -> None:
        watched = Watched(policy("round-robin"))
        backends = watched.all_up(4 * ROWS)
        slices = watched.watch.look(watched.pool, watched.now, by_client=False)
        for backend, found in zip(backends, slices, strict=False):
            assert found == []
            watched.unregister((backend.address, 5555))
        assert 190 < len(watched.pool) < 200

    def test_what_has_gone_is_forgotten(self) -> None:
        watched = Watched(policy("round-robin"))
        backends = watched.all_up(5)
        watched.look()
        for backend in backends:
            watched.unregister((backend.address, 5555))
        watched.look()
        assert watched.watch._seen == {}


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_an_idle_pool_is_beyond_doubt(size: int) -> None:
    watched = Watched(policy("expected-delay"))
    watched.all_up(size)
    for _ in range(100):
        assert watched.after(1, lambda: watched.all_report(cpu=0, memory=30, tcp=0)) == []
