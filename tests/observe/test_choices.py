"""The record of choices: complete within its budget, recomputed from itself, and no client's loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
from twisted.internet.task import Clock

from rproxy.net.addresses import Address
from rproxy.observe.choice_list import ChoiceList
from rproxy.observe.choices import KEPT, Choice, ChoiceBook, ChoiceLog
from rproxy.policies.affinity import FEW, Affinity
from rproxy.policies.least_connections import LeastConnectionsPolicy
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import OWN_RULE, Comparison
from rproxy.pool.policy import Policy
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.timing.cpu_budget import SHARE, CpuBudget
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.fakes import CountingPolicy, FakeLink, logged, pool_with, texts
from tests.policies.balancing import policy
from tests.policies.choosing import NAMES, Turmoil
from tests.sessions.opening import taken

WALL = 1_700_000_000.0


def book(*, budget: CpuBudget | None = None, cpu: Callable[[], float] = lambda: 0.0) -> ChoiceBook:
    """At no cost unless `cpu` tells one."""
    return ChoiceBook(lambda: WALL, cpu, budget)


class Recorded:
    """A service whose choices are recorded, at no cost unless `cpu_s` says how much each call of the clock takes."""

    def __init__(self, policy: Policy | None = None, *, up: int = 3, cpu_s: float = 0.0) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.spent_s = 0.0
        self._cpu_s = cpu_s
        self.pool = pool_with(up, policy)
        self.service = Service(self.pool, self.clock)
        self.book = book(cpu=self._cpu)
        self.log = self.book.add("default", self.pool)
        self.service.recorder = self.log

    def _cpu(self) -> float:
        self.spent_s += self._cpu_s
        return self.spent_s

    def come(self, address: str = "192.0.2.1:1234") -> Session:
        session = Session(self.service, FakeLink(address))
        taken(session)
        return session

    @property
    def last(self) -> Choice:
        return self.log.kept[-1]


@pytest.mark.parametrize("name", NAMES)
def test_the_reasons_of_the_last_choices_are_told_with_the_values_explained(name: str) -> None:
    turmoil = Turmoil(name, 7)
    log = book().add("default", turmoil.pool)
    chosen = []
    for number, client in enumerate(turmoil.clients(2 * KEPT)):
        turmoil.pool.would_choose(turmoil.now, client.exclude, client.address)  # whose threshold prequal explains
        explained = {each.name: turmoil.pool.explain(each, turmoil.now) for each in turmoil.backends}
        backend = log.choose(number, FakeLink(), turmoil.now, client.exclude, client.address)
        turmoil.take(backend)
        chosen.append(None if backend is None else backend.name)
        assert log.kept[-1].why()
        for compared in log.kept[-1].compared:
            assert list(compared.values) == [explained[name].value for name in compared.names]
            assert compared.terms == [explained[name].terms for name in compared.names]
    assert [choice.chosen for choice in log.kept] == chosen[-KEPT:]


def test_what_a_record_says() -> None:
    recorded = Recorded(policy("least-connections"))
    session = recorded.come()
    session.connect_failed()
    taken(session)
    first, second = recorded.log.kept
    assert (first.id, second.id) == (1, 2)
    assert (first.at, first.session, first.client, first.host) == (WALL, session.id, "192.0.2.1:1234", "192.0.2.1")
    assert second.tried == (first.chosen,)
    (compared,) = first.compared
    assert compared.names == ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
    assert list(compared.values) == [0, 0, 0]
    assert compared.terms == [{"sessions": 0, "weight": 10}] * 3
    assert list(compared.ages_s) == pytest.approx([1000] * 3)
    assert first.why() == "its value, 0, is as low as that of 10.0.0.2:80, and it was chosen longer ago"
    assert first.concerns("10.0.0.3:80")
    assert not second.concerns(str(first.chosen))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("up", [0, 1])
def test_where_nobody_may_get_the_client_the_record_says_so(name: str, affine: bool, up: int) -> None:
    recorded = Recorded(Affinity(policy(name)) if affine else policy(name), up=up)
    with logged() as events:
        for exclude in ([], list(recorded.pool)):
            recorded.log.choose(1, FakeLink(), 1000.0, exclude, ("192.0.2.1", 1))
    assert texts(events) == []
    last = recorded.last
    assert (last.chosen, last.recomputed()) == (None, None)
    assert [choice.compared != () for choice in recorded.log.kept] == [True, True]
    listed = ChoiceList(recorded.book).rendered({})
    assert json.loads(b"".join(listed))["choices"][0]["chosen"] is None


def test_values_are_those_before_the_session_counts_and_agree_with_what_is_explained() -> None:
    recorded = Recorded(policy("expected-delay"))
    for _ in range(20):
        explained = {each.name: recorded.pool.explain(each, 1000.0) for each in recorded.pool.eligible}
        recorded.come()
        (compared,) = recorded.last.compared
        for name, value, terms in zip(compared.names, compared.values, compared.terms, strict=True):
            assert value == explained[name].value
            assert terms == explained[name].terms


def test_who_is_left_out_is_counted() -> None:
    recorded = Recorded(policy("least-connections"), up=4)
    down, full, *_ = recorded.pool
    recorded.pool.limit_each(1, 1000.0)
    recorded.pool.exclude(down, "a test", 1000.0)
    recorded.come()
    recorded.come()
    assert (recorded.last.full, recorded.last.ineligible) == (1, 0)
    assert full.name == recorded.log.kept[0].chosen


def test_where_nobody_can_be_chosen_that_is_recorded() -> None:
    recorded = Recorded(up=0)
    assert Session(recorded.service, FakeLink()).choose_backend() is None
    assert recorded.last.chosen is None
    assert recorded.last.why() == "no back-end could get the client"
    assert recorded.log.unrecorded == 0


def test_affinity_is_told_of_with_the_policy_that_decides_beyond_it() -> None:
    recorded = Recorded(Affinity(policy("least-connections")), up=2)
    recorded.service.chooses_by_client = True
    for _ in range(FEW):
        recorded.come()
        assert recorded.last.why() == "it comes first in this client's order"
    (first,) = {session.chosen for session in recorded.log.kept}
    recorded.come()
    assert recorded.last.chosen != first
    assert recorded.last.why() == f"it comes next in this client's order: too many sessions are on {first}"
    (other,) = [backend for backend in recorded.pool if backend.name != first]
    recorded.log.choose(1, FakeLink(), 1000.0, (other,), ("192.0.2.1", 1234))
    assert [compared.rule.name for compared in recorded.last.compared] == ["affinity", "lowest"]
    assert recorded.last.why() == f"no room by affinity on {first}, so the policy decided: no other may get this client"
    assert {choice.recomputed() == choice.chosen for choice in recorded.log.kept} == {True}


def test_a_policy_that_tells_no_rule_is_recorded_with_its_values() -> None:
    recorded = Recorded(CountingPolicy())
    recorded.come()
    (compared,) = recorded.last.compared
    assert list(compared.values) == [0, 1, 2]
    assert (recorded.last.chosen, recorded.last.recomputed()) == ("10.0.0.1:80", None)
    assert recorded.last.why() == "by a rule that the policy does not tell"


class Comparing(CountingPolicy):
    """Raises `error` where it is asked what it compares."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.broken = error

    def compare(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float, most: int
    ) -> Comparison[Backend]:
        if self.broken is not None:
            raise self.broken
        return None  # type: ignore[return-value]

    def value(self, backend: Backend, now: float) -> float:
        if self.broken is not None:
            raise self.broken
        return float("inf")


@pytest.mark.parametrize("error", [None, ValueError(), SystemExit(1)])
def test_a_policy_that_cannot_tell_costs_the_record_and_not_the_client(error: BaseException | None) -> None:
    recorded = Recorded(Comparing(error))
    recorded.pool.notes_values = True
    recorded.service.notes_choices = True
    session = recorded.come()
    assert session.backend is not None
    assert session.score is None
    assert (recorded.last.chosen, recorded.last.compared, recorded.last.recomputed()) == ("10.0.0.1:80", (), None)
    assert recorded.last.why() == "not known: the policy failed to tell what it compares"


def test_a_policy_that_fails_to_choose_is_told_from_one_that_chose() -> None:
    class Failing(LeastConnectionsPolicy):
        failing, comparing = True, False

        def opened(self, backend: Backend, now: float) -> None:
            self.failing = not self.failing
            super().opened(backend, now)

        def choose(self, *arguments: Any) -> Backend | None:
            chosen = super().choose(*arguments)
            if self.failing and not self.comparing:
                raise ValueError
            return chosen

        def compare(self, *arguments: Any) -> Comparison[Backend]:
            self.comparing = True
            compared = super().compare(*arguments)
            self.comparing = False
            return compared

    recorded = Recorded(Failing())
    recorded.come()
    failed = recorded.last
    recorded.come()
    assert recorded.last.recomputed() == recorded.last.chosen
    recomputed = failed.recomputed()
    assert failed.chosen != recomputed is not None
    assert failed.why() == f"the policy failed to choose {recomputed}, so another eligible back-end was taken"


def test_what_cannot_be_recorded_is_logged_once_and_the_client_gets_a_back_end() -> None:
    class Strange(Comparing):
        def compare(self, *args: object) -> Comparison[Backend]:
            return "a text"  # type: ignore[return-value]

    recorded = Recorded(Strange())
    with logged() as events:
        for _ in range(3):
            assert recorded.come().backend is not None
    assert len([text for text in texts(events) if "could not be recorded" in text]) == 1
    recorded.clock.advance(LOG_EVERY_S)
    with logged() as events:
        recorded.come()
    assert len(events) == 1


@pytest.mark.parametrize(("keys", "given"), [([(1.0, 2.0)], ()), ([(1.0,)], (3.0,)), ([("a",)], ())])
def test_numbers_that_are_not_those_of_the_rule_are_not_recorded(keys: Any, given: Any) -> None:
    class Strange(Comparing):
        def compare(self, *args: Any) -> Comparison[Backend]:
            return Comparison(OWN_RULE, args[0][:1], keys, given)

    recorded = Recorded(Strange())
    with logged() as events:
        recorded.come()
    assert "could not be recorded" in texts(events)[0]
    assert recorded.last.compared == ()


def test_within_its_budget_every_choice_is_recorded_and_beyond_it_they_are_counted() -> None:
    recorded = Recorded(cpu_s=0.001)
    for _ in range(200):
        recorded.come()
    kept = len(recorded.log.kept)
    assert 9 <= kept <= 11  # a burst of 10 ms
    assert recorded.log.unrecorded == 200 - kept
    recorded.clock.advance(0.01 / SHARE)  # brings 10 ms
    for _ in range(100):
        recorded.come()
    assert 8 <= len(recorded.log.kept) - kept <= 12
    assert recorded.log.unrecorded == 300 - len(recorded.log.kept)


def test_services_share_the_budget_and_the_numbers() -> None:
    shared = book(cpu=iter(range(10**6)).__next__)
    logs = [shared.add(name, pool_with(2)) for name in ("one", "two")]
    assert logs[0].choose(1, FakeLink(), 0.0, (), None) is not None
    assert logs[1].budget.due > 0
    logs[1].choose(2, FakeLink(), 0.0, (), None)
    assert [log.kept[-1].id for log in logs] == [1, 2]
    shared.remove(logs[0].pool)
    assert shared.logs == [logs[1]]


def test_so_many_are_kept_the_oldest_go_first() -> None:
    recorded = Recorded()
    for _ in range(KEPT + 5):
        recorded.come()
    assert [recorded.log.kept[0].id, len(recorded.log.kept), recorded.last.id] == [6, KEPT, KEPT + 5]


def test_a_client_without_an_address_has_a_name() -> None:
    recorded = Recorded()
    recorded.come("UNIX")
    assert (recorded.last.client, recorded.last.host) == ("UNIX", None)


def test_a_log_is_a_recorder_for_a_service() -> None:
    log: ChoiceLog = Recorded().log
    assert log.budget.due < 0
