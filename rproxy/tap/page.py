"""The live page, wired: its files, and the series that it shows."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any

from rproxy.admin.answers import JSON, Folder
from rproxy.admin.channel import Request
from rproxy.admin.documents import Document
from rproxy.admin.page import Page, PageDocument, static
from rproxy.admin.snapshots import Snapshots
from rproxy.config.model import ProxyConfig
from rproxy.observe.history import History
from rproxy.observe.recent import Recent
from rproxy.observe.status_json import Status
from rproxy.tap.parts import Part
from rproxy.timing.work_queue import WorkQueue


class LivePage(Part):
    """The page at `/`. Takes points of its series while the part runs, if anybody can see them."""

    def __init__(self, reactor: Any, config: ProxyConfig, status: Status, history: History, work: WorkQueue) -> None:
        self._reactor = reactor
        self._work = work
        self._wanted = config.has_operators
        self._status = status
        self._page = Page(status, history)
        self._recent = Recent(status.views, work, reactor, time)

    def add(self, root: Folder, api: Folder, may_read: Callable[[Request], bool]) -> None:
        """Add its resources to those of the listener. `may_read` is whether a client may see what it shows."""
        seconds = self._reactor.seconds
        root.putChild(b"", PageDocument(self._page, may_read, self._work, seconds))
        root.putChild(b"static", static(self._work, seconds))
        recent = Snapshots(lambda: self._recent.rendered(self._status.facts()), self._work, seconds)
        api.putChild(b"recent", Document(JSON, recent, self._work, strict=True))

    def startService(self) -> None:
        super().startService()
        if self._wanted:
            self._recent.start()

    def stopService(self) -> None:
        super().stopService()
        self._recent.stop()
