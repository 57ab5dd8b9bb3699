"""A second policy on the same traffic, whose choices have no effect: what would another one have done?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import attrs

from rproxy.net.addresses import Address
from rproxy.policies.balance import Balance, Recent, Share, bucket_of
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import Comparison
from rproxy.pool.guard import comparison_of
from rproxy.pool.mirrors import Mirrors
from rproxy.pool.policy import Explanation, Policy
from rproxy.pool.states import State


@attrs.define(eq=False)
class Compared:
    """A back-end under both policies."""

    backend: Backend
    mirror: Backend
    acting: Share
    shadow: Share
    sessions: deque[Backend | None]
    """The shadow's choice for each session that the back-end has, the oldest first; None where there was none."""
    was_eligible: bool = False


class InvalidChoice(Exception):
    """The shadow chose a back-end that may not get this client."""


class Shadow:
    """A `Policy` around the acting one, which behaves as it does alone; the shadow's choices are only counted.

    The shadow chooses whenever a session is opened, among copies of the back-ends whose sessions are those that its own
    choices gave them. A policy is not told which session of a back-end has ended: it is taken to be the oldest, and the
    shadow's session that was opened with that one ends as well. What agents report (CPU, connections of others, round
    trips) is what the acting policy has caused.

    Whatever the shadow raises is counted in `failures`, and `complain` is called while it is being handled.
    """

    def __init__(self, acting: Policy, shadow: Policy, complain: Callable[[], None]) -> None:
        self.acting = acting
        self._shadow = shadow
        self._complain = complain
        self._mirrors = Mirrors()
        self._compared: dict[Backend, Compared] = {}
        self._by_mirror: dict[Backend, Compared] = {}
        self._eligible = 0
        """Back-ends that were eligible when the policy was last told of them."""
        self._pools_eligible: Sequence[Backend] = ()
        self._client: Address | None = None
        self._exclude: Collection[Backend] = ()
        self.acting_balance = Balance()
        self.shadow_balance = Balance()
        self.choices = 0
        """Clients for whom both have chosen."""
        self.differed = 0
        """Of these, those whom the shadow would have given another back-end, or none."""
        self.unplaced = 0
        """Of these, those for whom the shadow had none."""
        self.failures = 0
        self.recent_choices = Recent()
        self.recent_differed = Recent()

    def __iter__(self) -> Iterator[Compared]:
        """All back-ends."""
        return iter(list(self._compared.values()))

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        """See `Policy`: the acting policy's choice. The shadow chooses when the session is opened, or if none will be:
        policies learn from being asked, too, who has gone down.
        """
        self._pools_eligible, self._client, self._exclude = eligible, client, exclude
        chosen = self.acting.choose(eligible, client, exclude, now)
        if chosen is None:
            self._follow(self._choose, now)
        return chosen

    def opened(self, backend: Backend, now: float) -> None:
        """See `Policy`."""
        try:
            self.acting.opened(backend, now)
        finally:
            self._follow(self._opened, backend, now)

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """See `Policy`."""
        try:
            self.acting.closed(backend, now, served_s)
        finally:
            self._follow(self._closed, backend, now, served_s)

    def failed(self, backend: Backend, now: float) -> None:
        """See `Policy`: for the shadow, the same back-end has failed."""
        try:
            self.acting.failed(backend, now)
        finally:
            self._follow(self._failed, backend, now)

    def reported(self, backend: Backend, now: float) -> str | None:
        """See `Policy`."""
        try:
            return self.acting.reported(backend, now)
        finally:
            self._follow(self._reported, backend, now)

    def explain(self, backend: Backend, now: float) -> Explanation:
        """See `Policy`: what the acting policy compares."""
        return self.acting.explain(backend, now)

    def value(self, backend: Backend, now: float) -> float:
        """See `Comparing`: the acting policy's."""
        value = getattr(self.acting, "value", None)
        return self.acting.explain(backend, now).value if value is None else float(value(backend, now))

    def compare(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float, most: int
    ) -> Comparison[Backend]:
        """See `Comparing`: what the acting policy compares."""
        return comparison_of(self.acting, eligible, client, exclude, now, most)

    def _follow(self, step: Callable[..., object], *changed: Any) -> None:
        """Have the shadow follow the acting policy. Raises nothing."""
        try:
            step(*changed)
        except BaseException:
            self.failures += 1
            self._complain()

    def _opened(self, backend: Backend, now: float) -> None:
        compared = self._compared.get(backend)
        if compared is None:
            return
        self._settle(compared)
        bucket = bucket_of(now)
        self.choices += 1
        self.recent_choices.add(bucket)
        self.acting_balance.arrived(compared.acting, bucket)
        chosen: Backend | None = None
        try:
            chosen = self._choose(now)
        finally:
            compared.sessions.append(chosen)
            if chosen is not compared.mirror:
                self.differed += 1
                self.recent_differed.add(bucket)
            owner = None if chosen is None else self._by_mirror[chosen]
            self.shadow_balance.arrived(None if owner is None else owner.shadow, bucket)
        if chosen is None:
            self.unplaced += 1
            return
        self._mirrors.open(chosen)
        self._shadow.opened(chosen, now)

    def _choose(self, now: float) -> Backend | None:
        if self._eligible != len(self._pools_eligible):
            for each in self._compared.values():
                self._settle(each)
        eligible, copies = self._mirrors.eligible, [self._mirrors.get(backend) for backend in self._exclude]
        exclude = [copy for copy in copies if copy is not None]
        while True:
            chosen = self._shadow.choose(eligible, self._client, exclude, now)
            if chosen is None:
                return None
            if eligible[chosen.slot] is not chosen or chosen in exclude:
                raise InvalidChoice(f"the shadow policy chose {chosen.name}, which may not get this client")
            compared = self._by_mirror[chosen]
            if compared.backend.usable:
                return chosen
            self._settle(compared)  # it was full when it went down

    def _closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        compared = self._compared.get(backend)
        if compared is None:
            return
        self._settle(compared)
        if not compared.sessions:
            return
        self.acting_balance.closed(compared.acting)
        self._end(compared.sessions.popleft(), now, served_s)

    def _end(self, mirror: Backend | None, now: float, served_s: float | None) -> None:
        """End one of the shadow's sessions, if it had a back-end."""
        if mirror is None:
            return
        self._mirrors.close(mirror)
        owner = self._by_mirror.get(mirror)
        if owner is not None:
            self.shadow_balance.closed(owner.shadow)
        self._shadow.closed(mirror, now, served_s)

    def _failed(self, backend: Backend, now: float) -> None:
        compared = self._compared.get(backend)
        if compared is not None:
            self._update(compared)
            self._settle(compared)
            self._shadow.failed(compared.mirror, now)

    def _reported(self, backend: Backend, now: float) -> None:
        compared = self._compared.get(backend)
        if compared is None:
            if not backend.usable:
                return
            compared = self._add(backend)
        self._update(compared)
        self._settle(compared)
        if backend.state is State.FORGOTTEN:
            del self._compared[backend], self._by_mirror[compared.mirror]
        self._shadow.reported(compared.mirror, now)

    def _settle(self, compared: Compared) -> None:
        """Note a change of eligibility. A policy is not notified of every one: the back-end may be full, or down."""
        backend = compared.backend
        if backend.usable is not compared.mirror.usable:
            self._update(compared)
        eligible = backend.slot >= 0
        self._eligible += eligible - compared.was_eligible
        compared.was_eligible = eligible

    def _update(self, compared: Compared) -> None:
        """Bring the copy and both balances up to date with the back-end."""
        backend = compared.backend
        self._mirrors.update(backend)
        weight = backend.base_weight
        self.acting_balance.weigh(compared.acting, weight, counts=backend.usable)
        self.shadow_balance.weigh(compared.shadow, weight, counts=backend.usable)

    def _add(self, backend: Backend) -> Compared:
        """Follow a back-end from the first time that it can get clients, with its sessions as the shadow's own."""
        mirror = self._mirrors.update(backend)
        sessions = backend.connections
        compared = Compared(backend, mirror, Share(sessions), Share(sessions), deque([mirror] * sessions))
        self._compared[backend] = self._by_mirror[mirror] = compared
        return compared
