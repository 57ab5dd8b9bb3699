"""Delivers the pool's events to observers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from rproxy.pool.events import Events, Observers, PoolEvent


class Publisher:
    """Calls observers, in the order of subscription, with every event of the kinds that they subscribed to."""

    log = Logger()

    def __init__(self) -> None:
        self._observers: dict[type[PoolEvent], tuple[Callable[[Any], None], ...]] = {}

    def subscribe(self, observers: Observers) -> None:
        """Have each of `observers` called with every event of its kind.

        If one raises, that is logged, and the others are called all the same.
        """
        for kind, observe in observers.items():
            self._observers[kind] = (*self._observers.get(kind, ()), observe)

    def __call__(self, events: Events) -> None:
        """Publish the events that one call of the pool has returned."""
        for event in events:
            for observe in self._observers.get(type(event), ()):
                try:
                    observe(event)
                except Exception:
                    self.log.failure("an observer of {event} failed", event=event)
