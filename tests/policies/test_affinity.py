"""Affinity: a client keeps its back-end, none is overloaded by that, and clients that need not move stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from math import ceil
from random import Random

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rproxy.net.addresses import Address
from rproxy.policies import affinity
from rproxy.policies.affinity import BOUND, FEW, SMALL, Affinity
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend
from rproxy.pool.health import SLOW_START_S
from rproxy.pool.states import State
from tests.fakes import UNLIMITED, CountingPolicy
from tests.policies.balancing import Balance, policy, shares
from tests.pool.driving import agent

pytestmark = pytest.mark.no_cover

EXAMPLES = settings(max_examples=25, deadline=None)


def client(number: int) -> Address:
    return (f"10.9.{number >> 8}.{number & 255}", 1000 + number)


class Clients(Balance):
    """Sessions of clients by number."""

    def __init__(self, name: str = "least-connections", **options: object) -> None:
        super().__init__(Affinity(policy(name)), **options)

    def of(self, number: int, *exclude: Backend) -> Backend | None:
        return self.pool.would_choose(self.now, exclude, client(number))

    def come(self, number: int) -> Backend:
        backend = self.pool.choose(self.now, (), client(number))
        assert backend is not None
        self.pool.connected(backend)
        return backend

    def mapping(self, clients: int = 300) -> list[str]:
        """Of each client, the name of its back-end while there are no sessions."""
        chosen = [self.of(number) for number in range(clients)]
        return ["" if backend is None else backend.name for backend in chosen]


def pool_of(hosts: Sequence[int], weights: Sequence[int] = (100,)) -> Clients:
    clients = Clients()
    for number, weight in zip(hosts, cycle(weights), strict=False):
        clients.up(agent(number), weight=weight)
    return clients


HOSTS = st.lists(st.integers(0, 60_000), min_size=2, max_size=30, unique=True)
WEIGHTS = st.lists(st.sampled_from([1, 50, 100, 100, 300]), min_size=1, max_size=5)


BY_CELLS = st.booleans()


FEW_BITS = 8
"""Of a cell's number, where few back-ends would have thousands of empty cells between them. Some share a cell then."""

BITS = st.sampled_from([FEW_BITS, affinity._BITS])


@contextmanager
def found(by_cells: bool, bits: int = FEW_BITS) -> Iterator[None]:
    """A client's order is found cell by cell, or by comparing all: both must find the same."""
    with pytest.MonkeyPatch.context() as patch:
        if by_cells:
            patch.setattr(affinity, "SMALL", 0)
        patch.setattr(affinity, "CELLS", 1 << bits)
        patch.setattr(affinity, "_MASK", (1 << bits) - 1)
        patch.setattr(affinity, "_BITS", bits)
        patch.setattr(affinity, "_RANGE", float(1 << 2 * bits))
        yield


class TestOrder:
    @EXAMPLES
    @given(hosts=HOSTS, weights=WEIGHTS, data=st.data(), by_cells=BY_CELLS)
    def test_of_one_that_is_lost_only_its_own_clients_move(
        self, hosts: list[int], weights: list[int], data: st.DataObject, by_cells: bool
    ) -> None:
        with found(by_cells):
            clients = pool_of(hosts, weights)
            before = clients.mapping(100)
            lost = data.draw(st.sampled_from(list(clients.pool)))
            clients.down(lost)
            after = clients.mapping(100)
            moved = {index for index in range(100) if before[index] != after[index]}
            assert moved == {index for index in range(100) if before[index] == lost.name}
            clients.recover(lost)
            assert clients.mapping(100) == before

    @EXAMPLES
    @given(hosts=HOSTS, weights=WEIGHTS, weight=st.sampled_from([1, 100, 500]), by_cells=BY_CELLS)
    def test_one_that_comes_takes_only_what_is_its_own_then(
        self, hosts: list[int], weights: list[int], weight: int, by_cells: bool
    ) -> None:
        newcomer, *others = hosts
        with found(by_cells):
            clients = pool_of(others, weights)
            before = clients.mapping(100)
            new = clients.up(agent(newcomer), weight=weight)
            after = clients.mapping(100)
        assert all(after[index] in (before[index], new.name) for index in range(100))

    @EXAMPLES
    @given(hosts=HOSTS, weights=WEIGHTS, before=st.integers(1, 500), after=st.integers(1, 500))
    def test_a_weight_that_changes_moves_clients_only_to_it_or_only_from_it(
        self, hosts: list[int], weights: list[int], before: int, after: int
    ) -> None:
        clients = pool_of(hosts, weights)
        changing = next(iter(clients.pool))
        clients.register((changing.address, 5555), weight=before)
        old = clients.mapping(100)
        clients.register((changing.address, 5555), weight=after)
        new = clients.mapping(100)
        moved = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
        assert {one if after < before else other for one, other in moved} <= {changing.name}

    @EXAMPLES
    @given(hosts=HOSTS, weights=WEIGHTS, rng=st.randoms())
    def test_it_is_the_same_in_every_proxy_whatever_the_order_in_which_back_ends_came(
        self, hosts: list[int], weights: list[int], rng: Random
    ) -> None:
        rows = list(zip(hosts, cycle(weights), strict=False))
        here = pool_of(*map(list, zip(*rows, strict=True)))
        rng.shuffle(rows)
        there = pool_of(*map(list, zip(*rows, strict=True)))
        assert here.mapping(100) == there.mapping(100)

    def test_it_is_known_for_good(self) -> None:
        """A later version that maps clients otherwise breaks what services keep for them."""
        hosts = [int(name.removesuffix(":80").removeprefix("10.0.0.")) for name in pool_of(range(1, 6)).mapping(8)]
        assert hosts == [2, 4, 2, 4, 2, 3, 1, 2]

    @EXAMPLES
    @given(
        hosts=HOSTS, weights=WEIGHTS, number=st.integers(0, 60_000), bits=st.sampled_from([FEW_BITS, affinity._BITS])
    )
    def test_both_ways_to_find_it_find_the_same(
        self, hosts: list[int], weights: list[int], number: int, bits: int
    ) -> None:
        orders = []
        for by_cells in (False, True):
            with found(by_cells, bits):
                wrapping = pool_of(hosts, weights).policy
                assert isinstance(wrapping, Affinity)
                orders.append([near[2].backend.name for near in wrapping._nearest(affinity._Client(client(number)[0]))])
        assert orders[0] == orders[1]
        assert len(orders[0]) == len(hosts)

    def test_the_clients_port_does_not_matter_and_its_whole_address_does(self) -> None:
        clients = pool_of(range(50))

        def of(host: str, port: int = 1) -> Backend | None:
            return clients.pool.would_choose(clients.now, (), (host, port))

        assert of("10.9.0.1", 1) is of("10.9.0.1", 2)
        assert len({of(f"10.9.0.{number}") for number in range(50)}) > 20
        assert len({of(f"2001:db8::{number:x}") for number in range(50)}) > 20
        assert of("fe80::1%eth0") is of("fe80::1%eth1") is of("fe80::1")

    def test_the_excluded_ones_clients_go_to_their_next_choices_which_differ(self) -> None:
        clients = pool_of(range(5))
        (first, *_) = clients.pool
        own = [number for number in range(500) if clients.of(number) is first]
        others = Counter(clients.of(number, first) for number in own)
        assert first not in others
        assert set(others) == set(clients.pool) - {first}
        clients.down(first)
        assert Counter(clients.of(number) for number in own) == others

    def test_all_excluded_leave_nobody(self) -> None:
        clients = pool_of(range(3))
        assert clients.of(1, *clients.pool) is None


class TestShares:
    @pytest.mark.parametrize("size", [2, 3, 10, 40, SMALL + 50])
    def test_equal_ones_get_equal_shares_of_the_clients(self, size: int) -> None:
        counts = Counter(pool_of(range(size)).mapping(200 * size))
        assert all(count == pytest.approx(200, abs=6 * 200**0.5) for count in counts.values())
        assert len(counts) == size

    @pytest.mark.parametrize("weights", [(100, 300), (100, 100, 5), (1, 1, 2), (1000, 1500)])
    def test_weights_are_shares(self, weights: tuple[int, ...]) -> None:
        clients = pool_of(range(len(weights)), weights)
        counts = Counter(clients.mapping(6000))
        for backend in clients.pool:
            share = backend.registration.weight / sum(weights)
            assert counts[backend.name] / 6000 == pytest.approx(share, abs=5 * (share * (1 - share) / 6000) ** 0.5)

    def test_a_draining_ones_clients_move_and_come_back(self) -> None:
        clients = pool_of(range(4))
        before = clients.mapping()
        (first, *_) = clients.pool
        clients.report(first, draining=True)
        assert first.name not in clients.mapping()
        clients.report(first)
        assert clients.mapping() == before

    def test_one_that_starts_beside_others_gets_its_share_of_its_clients_step_by_step(self) -> None:
        clients = Clients(limits=UNLIMITED, panic_below=0, slow_start_s=SLOW_START_S)
        for number in range(3):
            clients.up(agent(number))
        clients.now += SLOW_START_S
        clients.pool.tick(clients.now)
        before = clients.mapping(3000)
        new = clients.up(agent(9))
        counts = []
        last = before
        for _ in range(10):
            now = clients.mapping(3000)
            assert all(now[index] in (last[index], new.name) for index in range(3000))
            counts.append(now.count(new.name))
            last = now
            clients.now += SLOW_START_S / 10
            clients.pool.tick(clients.now)
        assert counts == sorted(counts)
        assert counts[0] == pytest.approx(3000 * 0.1 / 3.1, rel=0.4)
        assert clients.mapping(3000).count(new.name) == pytest.approx(750, rel=0.15)

    def test_after_the_proxys_own_start_clients_find_their_back_ends_at_once(self) -> None:
        """None has its whole weight yet, and they have come at different times."""
        whole = pool_of(range(4)).mapping()
        clients = Clients(limits=UNLIMITED, panic_below=0, slow_start_s=SLOW_START_S)
        for number in range(4):
            clients.up(agent(number))
            clients.now += 1.5
            clients.pool.tick(clients.now)
        assert len({backend.share for backend in clients.pool}) == 4
        assert clients.mapping() == whole
        for _ in range(20):
            clients.now += 1
            clients.pool.tick(clients.now)
            assert clients.mapping() == whole


class TestBound:
    def test_few_sessions_of_one_client_stay_together(self) -> None:
        clients = pool_of(range(4))
        assert len({clients.come(1) for _ in range(FEW)}) == 1
        assert clients.come(1) is not clients.come(1) or clients.of(1) is not None

    @EXAMPLES
    @given(
        hosts=HOSTS, weights=WEIGHTS, numbers=st.lists(st.integers(0, 3), min_size=200, max_size=400), rng=st.randoms()
    )
    def test_none_is_above_its_bound_by_affinity_however_hot_a_client_is(
        self, hosts: list[int], weights: list[int], numbers: list[int], rng: Random
    ) -> None:
        """At every session, and whatever ends in between."""
        clients = pool_of(hosts[:10], weights)
        held: list[Backend] = []
        total = sum(backend.registration.weight for backend in clients.pool)
        for number in numbers:
            backend = clients.come(number)
            held.append(backend)
            bound = ceil(BOUND * len(held) * backend.registration.weight / total)
            assert backend.connections <= max(FEW, bound)
            if rng.random() < 0.3:
                clients.close(held.pop(rng.randrange(len(held))))

    def test_one_hot_client_is_spread_over_all_as_far_as_it_must_be(self) -> None:
        clients = pool_of(range(4))
        served = [clients.come(1) for _ in range(400)]
        assert max(shares(served, list(clients.pool))) == 125
        assert min(shares(served, list(clients.pool))) >= 25

    def test_beside_a_hot_client_the_others_keep_their_back_ends_but_on_the_one_it_fills(self) -> None:
        clients = pool_of(range(4))
        before = {number: clients.of(number) for number in range(100)}
        hot = before[0]
        for _ in range(40):
            clients.come(0)
        kept = [number for number in before if clients.of(number) is before[number]]
        filled = [backend for backend in clients.pool if backend.connections >= 13]
        assert hot in filled
        assert {before[number] for number in range(100)} - {before[number] for number in kept} <= set(filled)

    def test_when_the_load_has_gone_the_client_returns(self) -> None:
        clients = pool_of(range(4))
        first = clients.of(1)
        served = [clients.come(1) for _ in range(100)]
        assert clients.of(1) is not first
        for backend in served:
            clients.close(backend)
        assert clients.of(1) is first

    def test_beyond_the_first_choices_the_wrapped_policy_chooses_among_the_others(self) -> None:
        clients = pool_of(range(60))
        served = [clients.come(1) for _ in range(1200)]
        assert max(shares(served, list(clients.pool))) <= 1.25 * 20 + 1
        assert min(shares(served, list(clients.pool))) >= 15

    def test_a_full_one_is_passed_over_and_found_again(self) -> None:
        clients = Clients()
        backends = [clients.up(agent(number), max_connections=2) for number in range(3)]
        first = clients.of(1)
        assert [clients.come(1), clients.come(1)] == [first, first]
        second = clients.of(1)
        assert second in backends
        assert second is not first
        assert first is not None
        clients.close(first)
        assert clients.of(1) is first

    def test_loads_are_compared_among_those_that_are_not_full(self) -> None:
        clients = Clients()
        clients.up(agent(1), max_connections=1)
        free = [clients.up(agent(number)) for number in (2, 3)]
        served = [clients.come(number) for number in range(200)]
        assert sorted(shares(served, free))[1] <= 1.25 * 100 + 1


class TestWrapped:
    def test_it_is_told_everything(self) -> None:
        wrapped = CountingPolicy()
        clients = Balance(Affinity(wrapped))
        backend = clients.up()
        assert clients.pool.choose(clients.now, (), client(1)) is backend
        clients.pool.connected(backend)
        clients.close(backend)
        clients.refuse(backend)
        clients.report(backend)
        assert {event: counts[backend] for event, counts in wrapped.told.items()} == {
            "opened": 2,
            "closed": 2,
            "failed": 1,
            "reported": 3,
        }

    @pytest.mark.parametrize("name", sorted(POLICIES))
    def test_it_chooses_where_the_client_is_not_known(self, name: str) -> None:
        wrapped, plain = Clients(name), Balance(policy(name))
        for balance in (wrapped, plain):
            balance.all_up(5)
        assert [backend.name for backend in wrapped.serve(50, held=True)] == [
            backend.name for backend in plain.serve(50, held=True)
        ]

    def test_what_is_passed_over_by_the_wrapped_one_is_not_by_affinity(self) -> None:
        clients = Clients("report")
        saturated, _ = clients.all_up(2)
        own = next(number for number in range(100) if clients.of(number) is saturated)
        clients.report(saturated, cpu=100, memory=100)
        assert saturated.passed_over == ""
        assert clients.of(own) is saturated

    def test_replacing_a_policy_of_a_pool_that_is_there(self) -> None:
        """It finds back-ends and sessions that it was never told of."""
        clients = pool_of(range(5))
        mapping = clients.mapping()
        for number in range(50):
            clients.come(number)
        late = Affinity(policy("least-connections"))
        chosen = [late.choose(clients.pool.eligible, client(number), (), clients.now) for number in range(300)]
        assert [backend.name for backend in chosen if backend] == mapping
        assert (late._sessions, late._eligible) == (50, 5)

    def test_it_explains_how_near_a_back_end_is_to_its_bound_and_what_is_compared_beyond(self) -> None:
        clients = pool_of(range(2))
        backend = clients.come(1)
        explanation = clients.pool.explain(backend, clients.now)
        assert explanation.value == pytest.approx(1 / FEW)
        assert dict(explanation.terms) == {"sessions": 1, "bound": FEW, "weight": 100, "elsewhere": 1}
        for number in range(99):
            clients.come(number)
        assert clients.pool.explain(backend, clients.now).terms["bound"] == ceil(BOUND * 101 / 2)


class Machine(RuleBasedStateMachine):
    """Sums and tables stay those of the back-ends that there are, whatever happens to them."""

    def __init__(self) -> None:
        super().__init__()
        self.clients = Clients(limits=evolve(UNLIMITED, confirmed=8), slow_start_s=10, panic_below=0.5)
        self.held: list[Backend] = []
        self.instance = 0

    @property
    def present(self) -> list[Backend]:
        return [backend for backend in self.clients.pool if backend.state is not State.DEPARTED]

    @precondition(lambda self: len(self.present) < 8)
    @rule(number=st.integers(0, 7), weight=st.sampled_from([1, 100, 300]), most=st.sampled_from([None, None, 1, 3]))
    def arrive(self, number: int, weight: int, most: int | None) -> None:
        there = self.clients.pool.get(agent(number)[0], 80)
        if there is None or there.state is State.DEPARTED:
            self.instance += 1
            self.clients.up(agent(number), weight=weight, instance=self.instance, max_connections=most)

    @precondition(lambda self: bool(self.present))
    @rule(data=st.data(), what=st.sampled_from(["down", "drain", "report", "leave", "recover"]))
    def change(self, data: st.DataObject, what: str) -> None:
        backend = data.draw(st.sampled_from(self.present))
        match what:
            case "down":
                self.clients.down(backend)
            case "drain" | "report":
                self.clients.report(backend, draining=what == "drain")
            case "recover":
                self.clients.recover(backend)
            case _:
                source = (backend.address, 5555)
                self.clients.unregister(source, instance=backend.registration.instance)

    @rule(number=st.integers(0, 20), sessions=st.integers(1, 30))
    def come(self, number: int, sessions: int) -> None:
        for _ in range(sessions):
            if self.clients.of(number) is not None:
                self.held.append(self.clients.come(number))

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data(), many=st.integers(1, 20))
    def close(self, data: st.DataObject, many: int) -> None:
        for _ in range(min(many, len(self.held))):
            self.clients.close(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def tick(self, seconds: float) -> None:
        self.clients.now += seconds
        self.clients.pool.tick(self.clients.now)

    @rule(limit=st.sampled_from([None, 2]))
    def limit(self, limit: int | None) -> None:
        self.clients.pool.limit_each(limit, self.clients.now)

    @invariant()
    def the_sums_are_those_of_the_eligible(self) -> None:
        self.clients.of(1)
        wrapping = self.clients.policy
        assert isinstance(wrapping, Affinity)
        eligible = self.clients.pool.eligible
        assert wrapping._eligible == len(eligible)
        assert wrapping._sessions == sum(backend.connections for backend in eligible)
        assert wrapping._weights == sum(wrapping._members[backend].weight for backend in eligible)
        assert wrapping._whole == sum(member.whole for member in wrapping._members.values())
        in_classes = [member for each in wrapping._classes.values() for member in each._members.values()]
        assert {member.backend for member in in_classes} == set(wrapping._members)
        assert len(in_classes) == len(wrapping._members)
        assert all(wrapping._classes.values())
        assert set(eligible) <= set(wrapping._members)

    @invariant()
    def any_client_gets_one_if_there_is_one(self) -> None:
        for number in range(5):
            assert (self.clients.of(number) is not None) is bool(self.clients.pool.eligible)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_what_is_looked_at_does_not_grow_with_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: back-ends compared, and cells gone through."""
    compared = Counter[int]()

    class Watched(affinity._Client):
        __slots__ = ()

        def nearness(self, member: affinity._Member) -> float:
            compared[size] += 1
            return super().nearness(member)

    monkeypatch.setattr(affinity, "_Client", Watched)
    for size in (16, 128, 1000, 5000):
        clients = Clients(limits=evolve(UNLIMITED, unconfirmed=size, confirmed=size), slow_start_s=0)
        clients.all_up(size)
        for number in range(50):
            assert clients.of(number) is not None
    each = {size: count / 50 for size, count in compared.items()}
    assert each[16] == 16
    assert each[128] == 128
    assert each[1000] < 8
    assert each[5000] < 8
