"""What operators see and steer, wired to the HTTP listener."""

from __future__ import annotations

from typing import Any

from rproxy.admin import metrics_page
from rproxy.admin.documents import Document, Folder
from rproxy.admin.http_server import AdminSite
from rproxy.admin.metrics_page import MetricsPage
from rproxy.admin.snapshots import Snapshots
from rproxy.config.model import ProxyConfig
from rproxy.observe.history import History
from rproxy.observe.status_json import CONTENT_TYPE, Status
from rproxy.tap.services import Services
from rproxy.tap.startup import operators_max
from rproxy.timing.work_queue import WorkQueue


class Operators:
    """The resources of the HTTP listener, and what they show."""

    def __init__(
        self,
        reactor: Any,
        config: ProxyConfig,
        services: Services,
        status: Status,
        metrics: MetricsPage,
        history: History,
        work: WorkQueue,
    ) -> None:
        """Opens nothing."""
        self._reactor = reactor
        self._config = config
        self._services = services
        self._status = status
        self._history = history
        self._work = work
        self._metrics = metrics

    def site(self, descriptors: int) -> AdminSite:
        """For the listener; `descriptors` is how many the process may have open."""
        shown = Snapshots(self._status.rendered, self._work, self._reactor.seconds)
        root = Folder()
        root.putChild(b"status.json", Document(CONTENT_TYPE, shown, self._work))
        metrics = Snapshots(self._metrics.rendered, self._work, self._reactor.seconds)
        root.putChild(b"metrics", Document(metrics_page.CONTENT_TYPE, metrics, self._work))
        return AdminSite(root, self._reactor, self._work, self._config.admin_names, operators_max(descriptors))
