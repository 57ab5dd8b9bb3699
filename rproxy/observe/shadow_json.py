"""`/api/shadow`: what another policy would have done with the same clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import attrs

from rproxy.policies.balance import Balance, Moments, Share, bucket_of
from rproxy.policies.shadow import Compared, Shadow

ROWS: Final = 100
"""Back-ends rendered in one go."""


@attrs.frozen
class ComparedPolicies:
    """A service whose policy is compared with another one."""

    service: str
    policy: str
    """The name of the acting one."""
    shadow_policy: str
    shadow: Shadow


@attrs.define
class _Totals:
    """Of one policy, over the back-ends that can get clients: figures relative to weight, summed up row by row."""

    sessions_max: float = 0.0
    choices_max: float = 0.0
    recent_choices: Moments = attrs.Factory(Moments)
    recent_choices_max: float = 0.0

    def add(self, share: Share, bucket: int) -> None:
        recent = share.recent.total(bucket) * share.scale
        self.recent_choices.add(recent)
        self.recent_choices_max = max(self.recent_choices_max, recent)
        self.sessions_max = max(self.sessions_max, share.sessions * share.scale)
        self.choices_max = max(self.choices_max, share.choices * share.scale)

    def document(self, balance: Balance, bucket: int) -> dict[str, Any]:
        deviation, peak = balance.recent(bucket)
        return {
            "sessions": {
                "now": _figures(balance.sessions.deviation, self.sessions_max, balance.sessions.mean),
                "minute": _figures(deviation, peak),
                "all": _figures(balance.mean_deviation, balance.peak),
            },
            "choices": {
                "minute": _figures(self.recent_choices.deviation, self.recent_choices_max, self.recent_choices.mean),
                "all": _figures(balance.choices.deviation, self.choices_max, balance.choices.mean),
            },
        }


class ShadowStatus:
    """The document. `compared` returns the services that have a shadow, `seconds` is the pool's clock."""

    def __init__(self, compared: Callable[[], Sequence[ComparedPolicies]], seconds: Callable[[], float]) -> None:
        self._compared = compared
        self._seconds = seconds

    def document(self) -> dict[str, Any]:
        """The whole document."""
        document: dict[str, Any] = json.loads(b"".join(self.rendered()))
        return document

    def rendered(self) -> Iterator[bytes]:
        """The document as JSON, in pieces that take a fraction of a millisecond each."""
        text, comma = '{"services": [', ""
        for each in self._compared():
            bucket = bucket_of(self._seconds())
            acting, shadow = _Totals(), _Totals()
            text += f'{comma}{{"backends": ['
            separator, rows = "\n", iter(each.shadow)
            while some := list(islice(rows, ROWS)):
                for compared in some:
                    text += separator + json.dumps(_row(compared, acting, shadow, bucket))
                    separator = ",\n"
                yield text.encode()
                text = ""
            text += f"\n], {json.dumps(_totals(each, acting, shadow, bucket))[1:]}"
            comma = ", "
        yield f"{text}]}}\n".encode()


def _row(compared: Compared, acting: _Totals, shadow: _Totals, bucket: int) -> dict[str, Any]:
    if compared.acting.is_counted:
        acting.add(compared.acting, bucket)
        shadow.add(compared.shadow, bucket)
    backend = compared.backend
    return {
        "backend": backend.name,
        "weight": backend.base_weight,
        "compared": compared.acting.is_counted,
        "acting": _share(compared.acting, bucket),
        "shadow": _share(compared.shadow, bucket),
    }


def _share(share: Share, bucket: int) -> dict[str, int]:
    return {"sessions": share.sessions, "choices": share.choices, "choices_minute": share.recent.total(bucket)}


def _totals(each: ComparedPolicies, acting: _Totals, shadow: _Totals, bucket: int) -> dict[str, Any]:
    compared = each.shadow
    return {
        "service": each.service,
        "choices": compared.choices,
        "differed": compared.differed,
        "unplaced": compared.unplaced,
        "failures": compared.failures,
        "minute": {
            "choices": compared.recent_choices.total(bucket),
            "differed": compared.recent_differed.total(bucket),
        },
        "acting": {"policy": each.policy, **acting.document(compared.acting_balance, bucket)},
        "shadow": {"policy": each.shadow_policy, **shadow.document(compared.shadow_balance, bucket)},
    }


def _figures(deviation: float, most: float, mean: float | None = None) -> dict[str, float]:
    figures = {"max": round(most, 3), "deviation": round(deviation, 3)}
    return figures if mean is None else {"mean": round(mean, 3), **figures}
