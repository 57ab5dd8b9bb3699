"""What changes in the services and their back-ends, from one look to the next."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs

from rproxy.observe.status_json import AGES, ServiceView, parts, present_rows

_BEGIN: Final = b'{"backends": ['
_MOVING: Final = (*AGES, "score", "terms")
"""Fields of a row that change a little all the time."""


@attrs.frozen
class Look:
    """One look at everything, as JSON: `whole` for new listeners, `changed` for those that have the look before.

    Each in pieces; `changed` is empty if nothing has changed.
    """

    whole: list[bytes]
    changed: list[bytes]


class StatusChanges:
    """Looks at what `views` returns.

    A row counts as changed if anything but its `AGES` has, and its score and terms in their first three digits.
    """

    def __init__(self, views: Callable[[], Sequence[ServiceView]]) -> None:
        self._views = views
        self._rows: dict[str, int] = {}
        """Hashes of the last look's rows, by their entries in `gone`: strings, which the garbage collector ignores."""
        self._services = ""

    def forget(self) -> None:
        """Nobody has seen the last look."""
        self._rows, self._services = {}, ""

    def look(self, *, whole: bool) -> Iterator[Look | None]:
        """Look again: None after each piece of work, a fraction of a millisecond, and the `Look` at last.

        `whole` is whether its `whole` is wanted. Nothing counts as seen if the iterator is not exhausted.
        """
        rows: dict[str, int] = {}
        pieces = _Pieces(whole)
        for part in [part for each in self._views() for part in parts(each)]:
            service = json.dumps(part[0].service.name)
            for row in present_rows(part):
                moving = {name: row.pop(name) for name in _MOVING}
                text = json.dumps(row)
                key = f'{{"service": {service}, "address": "{row["address"]}", "port": {row["port"]}}}'
                rows[key] = hash((text, _rough(moving["score"]), *map(_rough, moving["terms"].values())))
                pieces.add(text, moving, changed=self._rows.get(key) != rows[key])
            pieces.cut()
            yield None
        totals: list[str] = []
        for view in self._views():
            totals.append(json.dumps(view.totals()))
            yield None
        services = ", ".join(totals)
        gone = ", ".join(key for key in self._rows if key not in rows)
        yield pieces.ended(services, gone, services_changed=services != self._services)
        self._rows, self._services = rows, services


class _Pieces:
    """The texts of a `Look`, as they grow."""

    def __init__(self, whole: bool) -> None:
        self._wants_whole = whole
        self._whole: list[bytes] = []
        self._changed: list[bytes] = []
        self._rows: list[str] = []
        self._changed_rows: list[str] = []

    def add(self, text: str, moving: dict[str, Any], *, changed: bool) -> None:
        """A row, in two parts."""
        if changed or self._wants_whole:
            full = f"{text[:-1]}, {json.dumps(moving)[1:]}"
            if self._wants_whole:
                self._rows.append(full)
            if changed:
                self._changed_rows.append(full)

    def cut(self) -> None:
        """The end of a piece."""
        for rows, pieces in ((self._rows, self._whole), (self._changed_rows, self._changed)):
            if rows:
                pieces.append((b", " if pieces else _BEGIN) + ", ".join(rows).encode())
                rows.clear()

    def ended(self, services: str, gone: str, *, services_changed: bool) -> Look:
        """Everything. `services` are all of them, `gone` the back-ends that are no longer there."""
        if self._changed or gone or services_changed:
            self._changed = self._changed or [_BEGIN]
            self._changed.append(f'], "services": [{services}], "gone": [{gone}]}}'.encode())
        whole = [*(self._whole or [_BEGIN]), f'], "services": [{services}], "gone": []}}'.encode()]
        return Look(whole, self._changed)


def _rough(value: float | None) -> str:
    """With three digits."""
    return "" if value is None else f"{value:.3g}"
