"""The families of `/metrics` that services with a shadow policy have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from rproxy.observe.metric_family import Family
from rproxy.policies.balance import Balance, bucket_of
from rproxy.policies.shadow import Shadow


class ShadowRow(NamedTuple):
    shadow: Shadow
    now: float


def _both(read: Callable[[Balance, int], float]) -> Callable[[ShadowRow], Mapping[str, float]]:
    """What `read` returns for each policy, by the role that it has."""
    return lambda row: {
        "acting": read(row.shadow.acting_balance, bucket_of(row.now)),
        "shadow": read(row.shadow.shadow_balance, bucket_of(row.now)),
    }


SHADOW_FAMILIES: Final[tuple[Family[ShadowRow], ...]] = (
    Family(
        "rproxy_shadow_choices_total",
        "counter",
        "Clients for whom both policies have chosen.",
        lambda row: row.shadow.choices,
    ),
    Family(
        "rproxy_shadow_differing_choices_total",
        "counter",
        "Clients whom the shadow would have given another back-end.",
        lambda row: row.shadow.differed,
    ),
    Family(
        "rproxy_shadow_unplaced_choices_total",
        "counter",
        "Clients for whom the shadow had no back-end.",
        lambda row: row.shadow.unplaced,
    ),
    Family(
        "rproxy_shadow_errors_total",
        "counter",
        "Exceptions that the shadow policy has raised.",
        lambda row: row.shadow.failures,
    ),
    Family(
        "rproxy_shadow_sessions_deviation",
        "gauge",
        "Standard deviation of back-ends' sessions, relative to weight, as the last minute's clients found it.",
        _both(lambda balance, bucket: balance.recent(bucket)[0]),
        "role",
    ),
    Family(
        "rproxy_shadow_sessions_peak",
        "gauge",
        "Most sessions of a back-end, relative to weight, in the last minute.",
        _both(lambda balance, bucket: balance.recent(bucket)[1]),
        "role",
    ),
    Family(
        "rproxy_shadow_choices_deviation",
        "gauge",
        "Standard deviation of the choices of back-ends, relative to weight, so far.",
        _both(lambda balance, bucket: balance.choices.deviation),
        "role",
    ),
)
