"""`/api/events`: what has happened in the last hour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs

from rproxy.observe.history import KEPT, Happening, History
from rproxy.observe.json_list import in_parts, json_list
from rproxy.observe.parameters import Parameters, backend, whole

PARAMETERS: Final = ("after", "service", "backend", "limit")
LIMIT: Final = 1000
ROWS: Final = 100
"""Events rendered in one go."""
_ID_MAX: Final = 10**15


@attrs.frozen
class EventList:
    """The happenings that `history` keeps."""

    history: History

    def rendered(self, parameters: Parameters) -> Iterator[bytes]:
        """The document as JSON, in pieces that take a fraction of a millisecond each.

        Of more than `limit` the latest are listed, the oldest of them first. Raises `BadParameter` before the first
        piece.
        """
        after = whole(parameters, "after", 0, 0, _ID_MAX)
        limit = whole(parameters, "limit", LIMIT, 0, KEPT)
        service, name = parameters.get("service"), backend(parameters)
        last = self.history.last
        found = [
            each
            for each in self.history.after(after)
            if service in (None, each.service) and name in (None, each.backend)
        ]
        found = found[max(len(found) - limit, 0) :]
        yield from json_list("events", in_parts(found, ROWS), lambda some: map(event, some), lambda: {"last": last})


def event(happening: Happening) -> dict[str, Any]:
    """One happening, as documents have it."""
    return {
        "id": happening.id,
        "time": round(happening.at, 3),
        "service": happening.service,
        "backend": happening.backend,
        "kind": happening.kind,
        "text": happening.text,
    }
