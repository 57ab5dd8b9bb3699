"""What has happened to back-ends in the last hour, for operators: who went down, when and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any, Final

import attrs

from rproxy.observe.pool_log import override_text, request_of
from rproxy.pool.backend import Backend
from rproxy.pool.events import (
    Administered,
    AgentCheckChanged,
    AgentRestarted,
    DrainingChanged,
    Observers,
    PanicChanged,
    PassedOver,
    PoolEvent,
    Transitioned,
    Weighed,
)
from rproxy.pool.states import State, is_lapse

KEPT_S: Final = 3600.0
KEPT: Final = 5000
"""Most of them, whatever their age: any host can make a back-end come and go."""


@attrs.frozen
class Happening:
    """One event, as operators see it."""

    id: int
    """Counts up from 1."""
    at: float
    """Unix time, in s."""
    service: str
    """Empty if it concerns the whole process."""
    backend: str
    """Its address:port; empty if it concerns the whole service."""
    kind: str
    """A word such as "up", "down", "drain", "restarted", "panic" or "doubt"."""
    text: str
    """A sentence without its subject."""


class History:
    """The happenings of all services. `wall` returns Unix time in s."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._kept: deque[Happening] = deque(maxlen=KEPT)
        self._last = 0
        self.followers: list[Callable[[Happening], None]] = []
        """Called with every new one. They raise nothing."""

    def note(self, service: str, backend: str, kind: str, text: str) -> None:
        """Add what has just happened, and tell the followers."""
        self._last += 1
        happening = Happening(self._last, self._wall(), service, backend, kind, text)
        self._kept.append(happening)
        for follow in list(self.followers):
            follow(happening)

    def after(self, id: int) -> Iterable[Happening]:  # noqa: A002 - the field's name
        """The happenings after that of number `id` and no older than `KEPT_S`, the oldest first."""
        since = self._wall() - KEPT_S
        known = max(id + len(self._kept) - self._last, 0)
        return [each for each in islice(self._kept, known, None) if each.at >= since]

    def latest(self, service: str, backend: str, kinds: Collection[str]) -> Happening | None:
        """The newest of a back-end that is of one of these kinds; None if there was none in the last `KEPT_S`."""
        since = self._wall() - KEPT_S
        for each in reversed(self._kept):
            if each.backend == backend and each.service == service and each.kind in kinds:
                return each if each.at >= since else None
        return None

    @property
    def last(self) -> int:
        """The number of the newest; 0 if there was none."""
        return self._last

    def observers(self, service: str) -> Observers:
        """The events of a service's pool that are kept."""
        of = _ServiceHistory(self, service)
        observers: dict[type[PoolEvent], Callable[[Any], None]] = {
            Transitioned: of.changed,
            PanicChanged: of.panic,
            AgentRestarted: of.restarted,
            DrainingChanged: of.draining_changed,
            Administered: of.administered,
            Weighed: of.weighed,
            PassedOver: of.passed_over,
            AgentCheckChanged: of.agent_check_changed,
        }
        return observers


@attrs.frozen
class _ServiceHistory:
    history: History
    service: str

    def _note(self, backend: Backend, kind: str, text: str) -> None:
        self.history.note(self.service, backend.name, kind, text)

    def changed(self, event: Transitioned) -> None:
        """Not noted: one lost probe and its recovery, and the removal of one that never answered."""
        before, after = event.before, event.after
        if is_lapse(before, after) or (before, after) == (State.REGISTERED, State.FORGOTTEN):
            return
        self._note(event.backend, after.value, event.reason + override_text(event))

    def restarted(self, event: AgentRestarted) -> None:
        self._note(event.backend, "restarted", "its agent was started again")

    def draining_changed(self, event: DrainingChanged) -> None:
        self._note(event.backend, "drain" if event.backend.draining else "ready", request_of(event.backend))

    def administered(self, event: Administered) -> None:
        self._note(event.backend, event.administration.value, "an operator says so")

    def weighed(self, event: Weighed) -> None:
        weight = event.weight
        self._note(event.backend, "weight", f"an operator says {'its own again' if weight is None else weight}")

    def passed_over(self, event: PassedOver) -> None:
        reason = event.reason
        self._note(
            event.backend,
            "passed-over" if reason else "considered",
            f"passed over while others are better off: {reason}" if reason else "no longer passed over",
        )

    def agent_check_changed(self, event: AgentCheckChanged) -> None:
        static = event.backend.static
        if static is not None:
            self._note(event.backend, "says", f"its agent-check says: {static.said or 'ready'}")

    def panic(self, event: PanicChanged) -> None:
        texts = {True: "less than half of the back-ends are up", False: "at least half of the back-ends are up again"}
        self.history.note(self.service, "", "panic" if event.panicking else "calm", texts[event.panicking])
