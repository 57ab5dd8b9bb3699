"""`/api/explain`: why a back-end gets clients, or gets none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import attrs

from rproxy.observe.choices import ChoiceBook
from rproxy.observe.history import History
from rproxy.observe.json_list import json_list
from rproxy.observe.parameters import BadParameter, Parameters, backend, service
from rproxy.observe.status_json import ServiceView
from rproxy.observe.why import Moment, Why
from rproxy.pool.admission import Refusal
from rproxy.pool.states import Administration, State
from rproxy.wire.pdu import Flaw

PARAMETERS: Final = ("backend", "service")
NEAR: Final = 3
"""Back-ends of the same host that are named."""
_GONE: Final = (State.FORGOTTEN.value, State.DEPARTED.value)
_WAITS: Final = {Administration.DRAIN: "it will drain", Administration.MAINT: "it will be in maintenance"}
_SAYS: Final[Mapping[str, str]] = {
    Flaw.SEALED: "it is sealed with a key, and this proxy has no --keyring",
    Flaw.UNSEALED: "it is not sealed with a key, and this proxy has a --keyring",
    Flaw.KEY_ID: "it is sealed with a key that this proxy's --keyring does not have",
    Flaw.SEAL: "its seal is not that of the key: another key of that number, or another address",
    Flaw.VERSION: "it is of another version of the protocol",
    Refusal.NOT_ALLOWED: "its network is not one that may register (--allow, from)",
    Refusal.NO_SERVICE: "no service takes agents with its --service-port",
    Refusal.TABLE_FULL: "the table of back-ends is full",
    Refusal.HOST_FULL: "its host has as many back-ends as it may",
    Refusal.RATE_LIMITED: "it registers too often",
    Refusal.RETIRED: "it has unregistered before, and may only come back when it is started again",
    Refusal.OWN_LISTENER: "it leads to this proxy itself",
    Refusal.STATIC: "the configuration names it, so it takes no agent",
}


@attrs.frozen
class Explanations:
    """`dropped` returns when, on the services' clock, a host's last datagram was dropped, and for what; None if none.

    `takes_agents` tells by a service's name whether agents may register with it.
    """

    views: Callable[[], Sequence[ServiceView]]
    book: ChoiceBook
    history: History
    dropped: Callable[[str], tuple[float, str] | None]
    takes_agents: Callable[[str], bool]
    wall: Callable[[], float]

    def rendered(self, parameters: Parameters) -> Iterator[bytes]:
        """The document as JSON, a service a piece. Raises `BadParameter` before the first.

        The services that have the back-end explain it; if none has, those that are asked for.
        """
        views = self.views()
        wanted, name = service(parameters, [view.service.name for view in views]), backend(parameters)
        if name is None:
            raise BadParameter("backend must be given, as ADDRESS:PORT")
        asked = [view for view in views if wanted in (None, view.service.name)]
        having = [view for view in asked if view.service.pool.get(*_address(name))]
        yield from json_list("explanations", having or asked, lambda view: [self._explained(view, name)])

    def _explained(self, view: ServiceView, name: str) -> dict[str, Any]:
        pool, moment = view.service.pool, Moment(view.service.seconds(), self.wall())
        found = pool.get(*_address(name))
        if found is None:
            text = self._unknown(view, name, moment)
        else:
            log = next((log for log in self.book.logs if log.pool is pool), None)
            text = Why(pool, partial(self.history.latest, view.service.name), log)(found, moment)
        return {
            "service": view.service.name,
            "backend": name,
            "known": found is not None,
            "eligible": found is not None and found.eligible,
            "text": text,
        }

    def _unknown(self, view: ServiceView, name: str, moment: Moment) -> str:
        host, port = _address(name)
        parts = []
        gone = self.history.latest(view.service.name, name, _GONE)
        if gone is not None:
            parts.append(f"gone since {moment.clock(gone.at)}: {gone.text}")
        elif self.takes_agents(view.service.name):
            parts.append("not registered: nobody has registered it")
        else:
            parts.append("not configured, and this service takes no agents")
        drop = self.dropped(host)
        if drop is not None:
            at, reason = drop
            why = _SAYS.get(reason, reason)
            dropped_at = moment.clock(moment.unix_time(at))
            parts.append(f"the last datagram from {host} that was dropped came at {dropped_at}: {why}")
        override = view.service.pool.overrides.of((host, port))
        if override.administration is not Administration.READY:
            parts.append(f"{_WAITS[override.administration]} when it comes, because an operator says so")
        others = [each.name for each in view.service.pool if each.address == host][:NEAR]
        if others:
            parts.append(f"of this host there is {', '.join(others)}")
        return "; ".join(parts)


def _address(name: str) -> tuple[str, int]:
    host, _, port = name.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
