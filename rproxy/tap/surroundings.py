"""What the services of a process share."""

from __future__ import annotations

from time import time
from typing import Any

import attrs

from rproxy.carriers.carrier import Carrier
from rproxy.config.model import ProxyConfig
from rproxy.net.lookups import Lookups
from rproxy.net.own_listeners import OwnListeners
from rproxy.observe.choices import ChoiceBook
from rproxy.observe.history import History
from rproxy.pool.backend import Backend
from rproxy.sources.agents.monitor import Monitor
from rproxy.tap.access_log import AccessLogPart
from rproxy.timing.wheel import Wheel


@attrs.frozen
class Surroundings:
    """What the services of a process share."""

    reactor: Any
    config: ProxyConfig
    monitor: Monitor
    carrier: Carrier
    own: OwnListeners
    deadlines: Wheel
    history: History
    access_log: AccessLogPart
    choices: ChoiceBook | None = attrs.field(init=False)
    """Of the choices of all services; None where nobody looks at them."""
    lookups: Lookups = attrs.field(init=False)

    @choices.default
    def _make_choices(self) -> ChoiceBook | None:
        return ChoiceBook(time) if self.config.has_operators else None

    @lookups.default
    def _make_lookups(self) -> Lookups:
        return Lookups(self.reactor)

    def exclude_loop(self, backend: Backend) -> None:
        """A back-end leads back to this proxy by way of another one."""
        self.own.bar((backend.address, backend.port))
        self.monitor.exclude(backend)
