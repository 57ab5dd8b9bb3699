"""Has the proxy look for what is wrong, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import time
from typing import Any

from rproxy.config.model import ProxyConfig
from rproxy.observe.doubts import Doubts
from rproxy.observe.history import History
from rproxy.observe.status_json import ServiceView
from rproxy.sources.agents.counters import Counters
from rproxy.tap.parts import Part
from rproxy.timing.work_queue import WorkQueue


class Doubting(Part):
    """Starts and stops `doubts`."""

    def __init__(
        self,
        reactor: Any,
        config: ProxyConfig,
        views: Callable[[], Sequence[ServiceView]],
        datagrams: Counters,
        history: History,
        work: WorkQueue,
    ) -> None:
        self.doubts = Doubts(reactor, time, work, views, datagrams, history, config.timing.probe_interval_s)

    def startService(self) -> None:
        """As `Part`."""
        super().startService()
        self.doubts.start()

    def stopService(self) -> None:
        """As `Part`: the second step of a stop."""
        super().stopService()
        self.doubts.stop()
