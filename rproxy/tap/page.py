"""The live page, wired: its files, and the series that it shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from time import time
from typing import Any

from rproxy.admin.documents import Document, Folder
from rproxy.admin.page import Page, PageDocument, Shown, static
from rproxy.admin.snapshots import Snapshots
from rproxy.observe.history import History
from rproxy.observe.recent import Recent
from rproxy.observe.status_json import CONTENT_TYPE, ServiceView
from rproxy.sessions.capacity import Capacity
from rproxy.tap.parts import Part
from rproxy.timing.work_queue import WorkQueue


class LivePage(Part):
    """The page at `/`. Takes points of its series while the part runs, if `wanted`."""

    def __init__(
        self,
        reactor: Any,
        views: Callable[[], Sequence[ServiceView]],
        capacity: Capacity,
        history: History,
        doubts: Callable[[], Sequence[Mapping[str, Any]]],
        work: WorkQueue,
        *,
        wanted: bool,
    ) -> None:
        self._reactor = reactor
        self._capacity = capacity
        self._work = work
        self._wanted = wanted
        self._started = time()
        self._recent = Recent(views, work, reactor, time)
        self._page = Page(Shown(views, history, doubts, self._process))

    def add(self, root: Folder, api: Folder) -> None:
        """Add its resources to those of the listener."""
        seconds = self._reactor.seconds
        root.putChild(b"", PageDocument(Snapshots(self._page.rendered, self._work, seconds), self._work))
        root.putChild(b"static", static(self._work, seconds))
        recent = Snapshots(lambda: self._recent.rendered(self._process()), self._work, seconds)
        api.putChild(b"recent", Document(CONTENT_TYPE, recent, self._work))

    def _process(self) -> dict[str, Any]:
        return {
            "version": version("rproxy"),
            "started": self._started,
            "pid": os.getpid(),
            "sessions_max": self._capacity.sessions_max,
        }

    def startService(self) -> None:
        super().startService()
        if self._wanted:
            self._recent.start()

    def stopService(self) -> None:
        super().stopService()
        self._recent.stop()
