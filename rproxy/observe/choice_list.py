"""`/api/choices`: the recorded choices, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from math import isfinite
from typing import Any, Final

import attrs

from rproxy.net.addresses import Network, within
from rproxy.observe.choices import KEPT, Choice, ChoiceBook, ChoiceLog, Compared
from rproxy.observe.json_list import json_list
from rproxy.observe.parameters import Parameters, backend, network, service, whole
from rproxy.observe.status_json import significant

PARAMETERS: Final = ("service", "backend", "client", "limit")
SHOWN: Final = 50
SHOWN_MAX: Final = 10 * KEPT
UNKNOWN_RULE: Final = "unknown"
LOOKED: Final = 100
"""Choices that are looked at in one go, where few are asked for."""


@attrs.frozen
class ChoiceList:
    """The choices that `book` keeps."""

    book: ChoiceBook

    def rendered(self, parameters: Parameters) -> Iterator[bytes]:
        """The document as JSON, a choice a line, in pieces of a fraction of a millisecond each, some of them empty.

        Beside the choices, `services` says by name how many are kept, and for how many the budget did not suffice.
        Raises `BadParameter` before the first piece.
        """
        logs = self.book.logs
        name, limit = service(parameters, [log.name for log in logs]), whole(parameters, "limit", SHOWN, 0, SHOWN_MAX)
        wanted = _Wanted(backend(parameters), network(parameters, "client"))
        logs = [log for log in logs if name in (None, log.name)]
        yield from json_list(
            "choices",
            _found(logs, wanted, limit),
            lambda found: [] if found is None else [_told(*found)],
            lambda: {"services": {log.name: {"kept": len(log.kept), "unrecorded": log.unrecorded} for log in logs}},
        )


@attrs.frozen
class _Wanted:
    """Which choices are asked for: those in which the back-end took part, and those of the clients; None for any."""

    backend: str | None
    clients: Network | None

    def has(self, choice: Choice) -> bool:
        if self.backend is not None and not choice.concerns(self.backend):
            return False
        return self.clients is None or (choice.host is not None and within(choice.host, (self.clients,)))


def _found(logs: list[ChoiceLog], wanted: _Wanted, limit: int) -> Iterator[tuple[ChoiceLog, Choice] | None]:
    """Up to `limit` choices, the newest first, each with its log; None where many were looked at in vain."""
    shown = 0
    for looked, (log, choice) in enumerate(merge(*map(_newest_first, logs), key=lambda each: -each[1].id)):
        if shown == limit:
            return
        if wanted.has(choice):
            shown += 1
            yield log, choice
        elif looked % LOOKED == 0:
            yield None


def _newest_first(log: ChoiceLog) -> Iterator[tuple[ChoiceLog, Choice]]:
    for choice in reversed(list(log.kept)):
        yield log, choice


def _told(log: ChoiceLog, choice: Choice) -> dict[str, Any]:
    """Of a choice whose rule fails, which is the policy's code, all but what was compared."""
    try:
        return document(log.name, choice)
    except BaseException:
        log.cannot_tell(choice)
        return document(log.name, attrs.evolve(choice, compared=()))


def document(service: str, choice: Choice) -> dict[str, Any]:
    """One choice of a service. Its `rule` and `candidates` are those that decided, `before` those that picked none."""
    decided = next((index for index, each in enumerate(choice.compared) if each.picked is not None), None)
    comparisons = [_comparison(each) for each in choice.compared]
    decisive = comparisons[-1 if decided is None else decided] if comparisons else NOTHING_COMPARED
    return {
        "id": choice.id,
        "time": round(choice.at, 3),
        "service": service,
        "session": choice.session,
        "client": choice.client,
        "chosen": choice.chosen,
        "why": choice.why(),
        "recomputed": choice.recomputed(),
        **decisive,
        "before": [each for each in comparisons if each is not decisive],
        "left_out": {
            "tried": choice.tried,
            "full": choice.full,
            "ineligible": choice.ineligible,
            "others": decisive["others"],
        },
    }


def _comparison(compared: Compared) -> dict[str, Any]:
    parts = list(map(str, compared.rule.parts))
    rows = zip(compared.names, compared.values, compared.terms, compared.ages_s, compared.keys, strict=True)
    return {
        "rule": str(compared.rule.name),
        "given": dict(zip(map(str, compared.rule.given), map(_exact, compared.given), strict=True)),
        "candidates": [
            {
                "backend": name,
                "value": significant(value),
                "terms": {term: significant(number) for term, number in terms.items()},
                "report_age": significant(age_s),
                "key": {part: _exact(number) for part, number in zip(parts, key, strict=True)},
            }
            for name, value, terms, age_s, key in rows
        ],
        "others": compared.more,
        "others_from": None if compared.floor is None else list(map(_exact, compared.floor)),
    }


NOTHING_COMPARED: Final[dict[str, Any]] = {
    "rule": UNKNOWN_RULE,
    "given": {},
    "candidates": [],
    "others": 0,
    "others_from": None,
}


def _exact(number: float) -> float | None:
    """None for what JSON has no number for."""
    return number if isfinite(number) else None
