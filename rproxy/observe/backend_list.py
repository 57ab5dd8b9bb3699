"""`/api/backends` and `/api/services`: parts of `/status.json`, by service and state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from rproxy.observe.json_list import json_list
from rproxy.observe.parameters import BadParameter, Parameters, service
from rproxy.observe.status_json import SHOWN_STATES, ServiceView, parts, present_rows

PARAMETERS: Final = ("service", "state")


@attrs.frozen
class BackendList:
    """`views` returns those of the present services."""

    views: Callable[[], Sequence[ServiceView]]

    def backends(self, parameters: Parameters) -> Iterator[bytes]:
        """The rows as JSON, in pieces that take a fraction of a millisecond each.

        Raises `BadParameter` before the first piece.
        """
        wanted = service(parameters, [view.service.name for view in self.views()])
        state = parameters.get("state")
        if state is not None and state not in SHOWN_STATES:
            raise BadParameter(f"state must be one of {', '.join(SHOWN_STATES)}")
        yield from json_list(
            "backends",
            [part for each in self._of(wanted) for part in parts(each)],
            lambda part: [row for row in present_rows(part) if state in (None, row["state"])],
        )

    def services(self, parameters: Parameters) -> Iterator[bytes]:
        """The services as JSON, one a piece."""
        return json_list("services", self.views(), lambda view: [view.totals()])

    def _of(self, name: str | None) -> list[ServiceView]:
        return [view for view in self.views() if name in (None, view.service.name)]
