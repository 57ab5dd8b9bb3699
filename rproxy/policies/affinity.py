"""The same client, the same back-end: rendezvous hashing with bounded loads, around the policy that is configured."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from heapq import heapify, heappop, heappush, merge
from itertools import islice
from math import ceil, log1p
from typing import Final

from rproxy.net.addresses import Address
from rproxy.policies.drawing import WEIGHT_SCALE
from rproxy.policies.rules import FIRST_WITH_ROOM
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import Comparison, Key
from rproxy.pool.guard import comparison_of
from rproxy.pool.policy import Explanation, Policy

BOUND: Final = 1.25
"""A back-end takes clients by affinity up to so many times its share of our sessions."""
FEW: Final = 8
"""So many sessions are no overload, whatever the share: the six connections of a browser, and two that are closing."""
LOOKS: Final = 16
"""Back-ends of a client's order that are looked at: if none of them may take it, the wrapped policy chooses."""
CELLS: Final = 1 << 16
_MASK: Final = CELLS - 1
_BITS: Final = 16
_RANGE: Final = float(1 << 2 * _BITS)
SMALL: Final = 128
"""Up to so many back-ends, comparing all is faster than going through the cells."""

_Near = tuple[float, int, "_Member"]
"""How soon the client's turn comes to a back-end, the hash of its address, and the back-end."""


class _Member:
    """What is kept of a back-end that is eligible or full.

    `hashed` is of its address and port: `cell` and `tie` are parts of it. `starts` is whether slow start's share
    counts. `sessions` and `counted_weight` are what it contributes to the sums over those that are
    eligible; `whole` is whether it has its whole weight.
    """

    __slots__ = ("backend", "cell", "counted_weight", "hashed", "sessions", "starts", "tie", "weight", "whole")

    def __init__(self, backend: Backend, *, starts: bool) -> None:
        self.backend = backend
        self.hashed = _hash(f"{backend.address} {backend.port}")
        self.cell = self.hashed & _MASK
        self.tie = self.hashed >> _BITS & _MASK
        self.starts = starts
        self.weight = self.counted_weight = self.sessions = 0
        self.whole = False


class _Client:
    """A client's order of the cells: `first`, then those that are `step` apart, modulo `CELLS`."""

    __slots__ = ("first", "inverse", "odd", "step")

    def __init__(self, host: str) -> None:
        hashed = _hash(host.partition("%")[0])
        self.first = hashed & _MASK
        self.step = hashed >> _BITS & _MASK | 1
        self.inverse = pow(self.step, -1, CELLS)
        self.odd = hashed >> 2 * _BITS & _MASK | 1

    def nearness(self, member: _Member) -> float:
        """An exponentially distributed number whose rate is the weight; uniform in the place of its cell in the order,
        and between those of one cell.
        """
        rank = (member.cell - self.first) * self.inverse & _MASK
        return -log1p(-(rank << _BITS | member.tie * self.odd & _MASK) / _RANGE) / member.weight


class _Class:
    """Back-ends whose weights differ by less than a factor of two."""

    def __init__(self) -> None:
        self._cells: dict[int, list[_Member]] = {}
        self._members: dict[int, _Member] = {}
        self._heaviest = 0
        """No weight has been above it."""

    def __bool__(self) -> bool:
        return bool(self._members)

    def add(self, member: _Member) -> None:
        self._members[member.hashed] = member
        self._cells.setdefault(member.cell, []).append(member)
        self._heaviest = max(self._heaviest, member.weight)

    def remove(self, member: _Member) -> None:
        del self._members[member.hashed]
        self._cells[member.cell].remove(member)
        if not self._cells[member.cell]:
            del self._cells[member.cell]

    def nearest(self, client: _Client) -> Iterator[_Near]:
        """In the client's order."""
        if len(self._members) > SMALL:
            return self._walk(client)
        return self._compare(client)

    def _compare(self, client: _Client) -> Iterator[_Near]:
        nearness = client.nearness
        near = [(nearness(member), hashed, member) for hashed, member in self._members.items()]
        heapify(near)
        while near:
            yield heappop(near)

    def _walk(self, client: _Client) -> Iterator[_Near]:
        """Cell by cell. One that was found comes next once any in a later cell must be farther, however heavy."""
        near: list[_Near] = []
        cells, cell, step = self._cells, client.first, client.step
        for rank in range(CELLS):
            while near and near[0][0] <= -log1p(-rank / CELLS) / self._heaviest:
                yield heappop(near)
            if cell in cells:
                for member in cells[cell]:
                    heappush(near, (client.nearness(member), member.hashed, member))
            cell = cell + step & _MASK
        while near:
            yield heappop(near)


class Affinity:
    """A `Policy` around another one: the first back-end in the client's order, unless it has too many sessions.

    Rendezvous hashing (D. Thaler, C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 6(1),
    1998), weighted by exponential variates: when a back-end comes, or its weight grows, clients move only to it; when
    one goes, or its weight falls, only its own clients move, each to its next choice. The order is made of the client's
    address and the back-ends', so it is the same in every proxy, and after a restart. Loads are bounded as in V.
    Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018: beyond `BOUND` times a
    back-end's share of the sessions, by weight, clients go to their next choice.

    A client's order of n back-ends is found without looking at all of them. Addresses are hashed to `CELLS` cells, of
    which each client has an order of its own. It is affine, so it can be followed both ways: from a back-end to its
    place, and from a place to the back-ends there. A choice looks at n back-ends, or at about `CELLS` / n cells.

    Where the client is not known, or its first choices are all taken up, the wrapped policy chooses; it is told of
    everything. Slow start's share counts for back-ends that come when others have their whole weight. After the proxy's
    own start none has it, and clients are to find the back-ends that they had.
    """

    def __init__(self, wrapped: Policy) -> None:
        self._wrapped = wrapped
        self._members: dict[Backend, _Member] = {}
        self._classes: dict[int, _Class] = {}
        """By the weight's number of bits; none is empty."""
        self._whole = 0
        """Back-ends that have their whole weight."""
        self._eligible = self._weights = self._sessions = 0
        """Of those that are eligible: how many they are, and the sums of their weights and of our sessions."""

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        """See `Policy`."""
        if client is None:
            return self._wrapped.choose(eligible, client, exclude, now)
        refused = list(exclude)
        for _, member in self._order(eligible, client, exclude):
            if member.sessions < self._bound(member):
                return member.backend
            refused.append(member.backend)
        chosen = self._wrapped.choose(eligible, client, refused, now)
        return self._wrapped.choose(eligible, client, exclude, now) if chosen is None else chosen

    def compare(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float, most: int
    ) -> Comparison[Backend]:
        """See `Comparing`: the beginning of the client's order, and what the wrapped policy compares beyond."""
        if client is None:
            return comparison_of(self._wrapped, eligible, client, exclude, now, most)
        candidates, keys, refused = list[Backend](), list[Key](), list(exclude)
        for nearness, member in self._order(eligible, client, exclude):
            bound = self._bound(member)
            candidates.append(member.backend)
            keys.append((nearness, member.sessions, bound))
            if member.sessions < bound:
                left = len(eligible) - len(candidates) - sum(each.slot >= 0 for each in exclude)
                return Comparison(FIRST_WITH_ROOM, candidates, keys, more=left)
            refused.append(member.backend)
        if self._wrapped.choose(eligible, client, refused, now) is None:
            refused = list(exclude)
        otherwise = comparison_of(self._wrapped, eligible, client, refused, now, most)
        return Comparison(FIRST_WITH_ROOM, candidates, keys, otherwise=otherwise)

    def _order(
        self, eligible: Sequence[Backend], client: Address, exclude: Collection[Backend]
    ) -> Iterator[tuple[float, _Member]]:
        """How near the client is to those of its first `LOOKS` that may get it, in its order, and which they are."""
        if self._eligible != len(eligible):
            self._count_anew(eligible)
        for nearness, _, member in islice(self._nearest(_Client(client[0])), LOOKS):
            if member.backend.slot >= 0 and member.backend not in exclude:
                yield nearness, member

    def _nearest(self, client: _Client) -> Iterator[_Near]:
        orders = [each.nearest(client) for each in self._classes.values()]
        return orders[0] if len(orders) == 1 else merge(*orders)

    def _bound(self, member: _Member) -> int:
        """The number of sessions from which an eligible back-end gets no more by affinity."""
        return max(FEW, ceil(BOUND * (self._sessions + 1) * member.weight / self._weights))

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        if backend in self._members:
            self._count(self._members[backend])
        self._wrapped.opened(backend, now)

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""
        if backend in self._members:
            self._count(self._members[backend])
        self._wrapped.closed(backend, now, served_s)

    def failed(self, backend: Backend, now: float) -> None:
        """See `Policy`: clients keep a back-end until it is down."""
        self._wrapped.failed(backend, now)

    def reported(self, backend: Backend, now: float) -> None:
        """See `Policy`. Unlike the wrapped policy, this one passes nobody over for a report: clients keep back-ends."""
        if backend.usable:
            self._settle(backend)
        else:
            self._drop(backend)
        self._wrapped.reported(backend, now)

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: its sessions divided by its bound. Below 1, it gets all clients whose first choice it is."""
        return backend.connections / self._bound_of(backend)

    def _bound_of(self, backend: Backend) -> int:
        member = self._members.get(backend)
        return FEW if member is None or not self._weights else self._bound(member)

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`; the wrapped policy's value decides beyond the bound."""
        bound = self._bound_of(backend)
        compared = self._wrapped.explain(backend, now)
        return Explanation(
            self.value(backend, now),
            {"sessions": backend.connections, "bound": bound, "weight": backend.weight, "elsewhere": compared.value},
        )

    def _count_anew(self, eligible: Sequence[Backend]) -> None:
        """Back-ends have come or gone unannounced."""
        for backend, member in list(self._members.items()):
            if backend.usable:
                self._count(member)
            else:
                self._drop(backend)
        for backend in eligible:
            self._settle(backend)

    def _settle(self, backend: Backend) -> None:
        """Take in a back-end, or its present weight."""
        member = self._members.get(backend)
        if member is None:
            member = self._members[backend] = _Member(backend, starts=self._whole > 0)
        whole = backend.share >= 1
        self._whole += whole - member.whole
        member.whole = whole
        weight = backend.base_weight * (backend.share if member.starts else 1)
        self._weigh(member, max(1, round(weight * WEIGHT_SCALE)))
        self._count(member)

    def _weigh(self, member: _Member, weight: int) -> None:
        """Set its weight, 0 to remove it."""
        if weight == member.weight:
            return
        if member.weight:
            bits = member.weight.bit_length()
            self._classes[bits].remove(member)
            if not self._classes[bits]:
                del self._classes[bits]
        member.weight = weight
        if weight:
            self._classes.setdefault(weight.bit_length(), _Class()).add(member)

    def _count(self, member: _Member) -> None:
        """Its sessions, weight or eligibility may have changed."""
        backend = member.backend
        sessions, weight = (backend.connections, member.weight) if backend.slot >= 0 else (0, 0)
        self._sessions += sessions - member.sessions
        self._weights += weight - member.counted_weight
        self._eligible += (weight > 0) - (member.counted_weight > 0)
        member.sessions, member.counted_weight = sessions, weight

    def _drop(self, backend: Backend) -> None:
        member = self._members.pop(backend, None)
        if member is not None:
            self._whole -= member.whole
            self._weigh(member, 0)
            self._count(member)


def _hash(text: str) -> int:
    """64 bits."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
