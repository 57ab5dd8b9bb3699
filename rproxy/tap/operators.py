"""What operators see and steer, wired to the HTTP listener."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from time import time
from typing import Any

import attrs
from twisted.logger import Logger

from rproxy.admin import metrics_page
from rproxy.admin.access import Access
from rproxy.admin.answers import JSON, Folder
from rproxy.admin.changes import Changes, ChangingBackends, ChangingSessions, Row
from rproxy.admin.control import Control, Target
from rproxy.admin.documents import Document, Query
from rproxy.admin.health import Health
from rproxy.admin.http_server import AdminSite
from rproxy.admin.metrics_page import MetricsPage
from rproxy.admin.snapshots import Snapshots
from rproxy.admin.stream import Stream, Streams
from rproxy.config.model import ProxyConfig
from rproxy.config.secret_file import SecretFileError
from rproxy.config.token_file import TokenFile
from rproxy.observe import backend_list, choice_list, event_list, explanations, session_list
from rproxy.observe.backend_list import BackendList
from rproxy.observe.choice_list import ChoiceList
from rproxy.observe.choices import ChoiceBook
from rproxy.observe.doubts import Doubts
from rproxy.observe.event_list import EventList
from rproxy.observe.explanations import Explanations
from rproxy.observe.history import History
from rproxy.observe.readiness import faults
from rproxy.observe.session_list import SessionList
from rproxy.observe.shadow_json import ShadowStatus
from rproxy.observe.status_json import Status
from rproxy.sessions.sweep import Slices
from rproxy.sources.agents.drop_log import DropLog
from rproxy.tap.page import LivePage
from rproxy.tap.services import Services
from rproxy.tap.startup import operators_max
from rproxy.timing.work_queue import WorkQueue


@attrs.frozen
class Seen:
    """What operators can ask for. Nothing here changes what the proxy does."""

    services: Services
    status: Status
    history: History
    doubts: Doubts
    choices: ChoiceBook
    slices: Slices
    """Of the sessions of all services."""
    drops: DropLog
    lost: Callable[[], int]
    """How many records the access log has lost."""


class Operators:
    """The resources of the HTTP listener: what operators see, and what they change by `control`."""

    log = Logger()

    def __init__(
        self, reactor: Any, config: ProxyConfig, seen: Seen, page: LivePage, control: Control, work: WorkQueue
    ) -> None:
        """Opens nothing."""
        self._reactor = reactor
        self._config = config
        self._seen = seen
        self._page = page
        self._control = control
        self._work = work
        self.access = Access(None, reactor.seconds, reads_openly=config.reads_openly)
        self._token_file = config.admin_token_file
        self._set_tokens()
        self.stopping = False
        """Whether the process takes no more clients."""

    def _set_tokens(self) -> None:
        self.access.tokens = None if self._token_file is None else self._token_file.tokens

    def use_tokens(self, file: TokenFile | None) -> None:
        """Accept the tokens of this file from now on; None accepts none. A change is logged."""
        before, self._token_file = self.access.tokens, file
        self._set_tokens()
        if self.access.tokens != before:
            self.log.info("tokens of operators have changed: there are {number}", number=len(self.access.tokens or ()))

    def read_tokens_again(self) -> None:
        """Read the file of tokens again, if there is one. If it cannot be used, which is logged, the tokens stay."""
        if self._token_file is None:
            return
        try:
            self._token_file = self._token_file.reread()
        except SecretFileError as error:
            path = self._token_file.path
            self.log.error("--admin-token-file {path}: {error}; the tokens stay as they were", path=path, error=error)
        else:
            self._set_tokens()
            self.log.info("tokens of operators read again")

    def site(self, descriptors: int) -> AdminSite:
        """For the listener; `descriptors` is how many the process may have open."""
        seen, root, connections_max = self._seen, Folder(), operators_max(descriptors)
        metrics = MetricsPage(seen.status, seen.services.compared, seen.lost)
        root.putChild(b"status.json", self._document(seen.status.rendered))
        root.putChild(b"metrics", self._document(metrics.rendered, metrics_page.CONTENT_TYPE))
        root.putChild(b"healthz", Health("ok"))
        root.putChild(b"readyz", Health("ready", self._faults))
        api = self._api(connections_max)
        root.putChild(b"api", api)
        self._page.add(root, api, lambda request: self.access.to_read(request) is None)
        return AdminSite(root, self._reactor, self._work, self._config.admin_names, connections_max, self.access)

    def _api(self, connections_max: int) -> Folder:
        work, api, seen, views = self._work, Folder(), self._seen, self._seen.services.views
        lists, events = BackendList(views), EventList(seen.history)
        sessions = SessionList(seen.slices, self._names, time)
        streams = Streams(
            views, seen.history, work, self._reactor, most=connections_max // 2, began=secrets.token_hex(4)
        )
        backends = Query(backend_list.PARAMETERS, lists.backends, work)
        listed = Query(session_list.PARAMETERS, sessions.rendered, work)
        changes = Changes(self._control, self._row)
        api.putChild(b"backends", ChangingBackends(backends, changes, self.access, work))
        api.putChild(b"sessions", ChangingSessions(listed, changes, self.access, work))
        api.putChild(b"services", Query((), lists.services, work))
        api.putChild(b"events", Query(event_list.PARAMETERS, events.rendered, work))
        choices = ChoiceList(seen.choices)
        why = Explanations(views, seen.choices, seen.history, seen.drops.last_of, self._takes_agents, time)
        api.putChild(b"choices", Query(choice_list.PARAMETERS, choices.rendered, work))
        api.putChild(b"explain", Query(explanations.PARAMETERS, why.rendered, work))
        api.putChild(b"doubts", self._document(seen.doubts.rendered, strict=True))
        shadows = ShadowStatus(seen.services.compared, self._reactor.seconds)
        api.putChild(b"shadow", self._document(shadows.rendered, strict=True))
        api.putChild(b"stream", Stream(streams))
        return api

    def _document(
        self, rendered: Callable[[], Iterator[bytes]], content_type: str = JSON, *, strict: bool = False
    ) -> Document:
        snapshots = Snapshots(rendered, self._work, self._reactor.seconds)
        return Document(content_type, snapshots, self._work, strict=strict)

    def _takes_agents(self, name: str) -> bool:
        return any(each.agents.accepts.takes_agents for each in self._seen.services if each.config.name == name)

    def _names(self) -> list[str]:
        return [view.service.name for view in self._seen.services.views()]

    def _row(self, target: Target) -> Row | None:
        for view in self._seen.services.views():
            if view.service.name == target.service:
                host, _, port = target.backend.rpartition(":")
                backend = view.service.pool.get(host.removeprefix("[").removesuffix("]"), int(port))
                return None if backend is None else view.rows([backend])[0]
        return None

    def _faults(self) -> Iterator[str]:
        return faults([view.service for view in self._seen.services.views()], stopping=self.stopping)
