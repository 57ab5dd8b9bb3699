"""The state file as a part of the proxy: keeps the back-ends, and operators' overrides, over a restart."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred

from rproxy.net.addresses import Address
from rproxy.sources.agents.monitor import Monitor
from rproxy.sources.saved.keeper import Keeper
from rproxy.sources.saved.state_file import StateFile
from rproxy.tap.parts import Part
from rproxy.tap.services import Services
from rproxy.timing.background import in_thread
from rproxy.timing.work_queue import WorkQueue


class StateKeeper(Part):
    """Loads the file before the reactor runs, then keeps it up to date, and writes it once more on stopping.

    Starts before what adds back-ends, so that overrides hold before any of them gets clients.
    """

    def __init__(
        self,
        reactor: Any,
        file: StateFile,
        services: Services,
        monitor: Monitor,
        work: WorkQueue,
        unsaved: Callable[[], Collection[Address]],
    ) -> None:
        """`unsaved` returns the back-ends that are left out."""
        self._reactor = reactor
        in_background = in_thread(reactor, "state file")
        self.keeper = Keeper(file, services.pools, monitor, reactor, work, in_background, unsaved)

    def startService(self) -> None:
        super().startService()
        self.keeper.load()
        self._reactor.callWhenRunning(self.keeper.start)

    def stop_accepting(self) -> Deferred[Any] | None:
        return self.keeper.stop() if self.running else None
