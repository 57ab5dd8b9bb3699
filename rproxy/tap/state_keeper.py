"""The state file as a part of the proxy: keeps the back-ends over a restart."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from rproxy.sources.saved.keeper import Keeper
from rproxy.tap.parts import Part


class StateKeeper(Part):
    """Loads the file before the reactor runs, then keeps it up to date, and writes it once more on stopping."""

    def __init__(self, reactor: Any, keeper: Keeper) -> None:
        self._reactor = reactor
        self._keeper = keeper

    def startService(self) -> None:
        super().startService()
        self._keeper.load()
        self._reactor.callWhenRunning(self._keeper.start)

    def stop_accepting(self) -> Deferred[Any] | None:
        return self._keeper.stop() if self.running else None
