"""The families of `/metrics` that each back-end has."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite
from typing import Final, NamedTuple

from rproxy.observe.metric_family import Family
from rproxy.observe.service_figures import BackendFigures
from rproxy.observe.status_json import SHOWN_STATES, shown_state, shown_weight
from rproxy.pool.backend import Backend
from rproxy.pool.states import State
from rproxy.sessions.service import Service


class BackendRow(NamedTuple):
    """A back-end as it is read; a tuple, as there may be 10,000."""

    backend: Backend
    figures: BackendFigures
    service: Service
    now: float


def _ratio(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


_NO_STATE: Final = dict.fromkeys(SHOWN_STATES, 0)


def _states(row: BackendRow) -> Mapping[str, float]:
    shown = shown_state(row.backend)
    return {**_NO_STATE, shown: 1}


def _score(row: BackendRow) -> float | None:
    if row.backend.state is State.REGISTERED:
        return None
    value = row.service.pool.explain(row.backend, row.now).value
    return value if isfinite(value) else None


def _since_change_s(row: BackendRow) -> float | None:
    changed_at = row.figures.changed_at
    return None if changed_at is None else row.now - changed_at


def _down_s(row: BackendRow) -> float:
    down_s, changed_at = row.figures.down_s, row.figures.changed_at
    return down_s + row.now - changed_at if row.backend.state is State.DOWN and changed_at is not None else down_s


def _last_rtt_s(row: BackendRow) -> float | None:
    last_ms = row.backend.rtt.last_ms
    return None if last_ms is None else last_ms / 1000


BACKEND_FAMILIES: Final[tuple[Family[BackendRow], ...]] = (
    Family(
        "rproxy_server_status", "gauge", "1 for the present state, 0 for all others.", _states, "state", is_slow=True
    ),
    Family(
        "rproxy_server_eligible",
        "gauge",
        "Whether the back-end may get a client now.",
        lambda row: row.backend.eligible,
    ),
    Family(
        "rproxy_server_current_sessions",
        "gauge",
        "Sessions on the back-end now, connecting ones included.",
        lambda row: row.backend.connections,
    ),
    Family(
        "rproxy_server_limit_sessions",
        "gauge",
        "Most sessions that the back-end may have; none without a limit.",
        lambda row: None if row.backend.limit == inf else row.backend.limit,
    ),
    Family(
        "rproxy_server_sessions_total",
        "counter",
        "Sessions that were connected to the back-end.",
        lambda row: row.backend.counts.total,
    ),
    Family(
        "rproxy_server_connection_attempts_total",
        "counter",
        "Clients that were given to the back-end, connected or not.",
        lambda row: row.backend.counts.total + row.backend.counts.pending + row.backend.counts.unconnected,
    ),
    Family(
        "rproxy_server_connection_errors_total",
        "counter",
        "Connects that failed by the back-end's fault, early ends included.",
        lambda row: row.backend.health.refused,
    ),
    Family(
        "rproxy_server_redispatch_warnings_total",
        "counter",
        "Sessions that another back-end got because a connect to this one failed.",
        lambda row: row.figures.redispatched,
    ),
    Family(
        "rproxy_server_bytes_in_total",
        "counter",
        "Bytes from clients, in sessions that have ended.",
        lambda row: row.backend.counts.bytes_up,
    ),
    Family(
        "rproxy_server_bytes_out_total",
        "counter",
        "Bytes to clients, in sessions that have ended.",
        lambda row: row.backend.counts.bytes_down,
    ),
    Family(
        "rproxy_server_weight", "gauge", "Weight in force; 100 is the usual one.", lambda row: shown_weight(row.backend)
    ),
    Family(
        "rproxy_server_slow_start_ratio",
        "gauge",
        "Fraction of the weight that slow start grants.",
        lambda row: row.backend.share,
    ),
    Family(
        "rproxy_server_check_failures_total",
        "counter",
        "Probes lost, or checks failed.",
        lambda row: row.figures.failures,
    ),
    Family(
        "rproxy_server_check_up_down_total",
        "counter",
        "Times that the back-end went down.",
        lambda row: row.figures.downs,
    ),
    Family(
        "rproxy_server_check_last_change_seconds",
        "gauge",
        "Time since the back-end last came up or went down.",
        _since_change_s,
    ),
    Family("rproxy_server_downtime_seconds_total", "counter", "Time that the back-end was down.", _down_s),
    Family(
        "rproxy_server_check_duration_seconds", "gauge", "Round trip of the last answered probe or check.", _last_rtt_s
    ),
    Family(
        "rproxy_server_loss_ratio",
        "gauge",
        "Fraction of the last hundred probes that was lost.",
        lambda row: row.backend.losses.rate if row.backend.has_agent else None,
    ),
    Family("rproxy_server_cpu_ratio", "gauge", "CPU in use, as reported.", lambda row: _ratio(row.backend.report.cpu)),
    Family(
        "rproxy_server_memory_ratio",
        "gauge",
        "Memory in use, as reported.",
        lambda row: _ratio(row.backend.report.memory),
    ),
    Family(
        "rproxy_server_load_ratio",
        "gauge",
        "The application's load, as reported.",
        lambda row: _ratio(row.backend.report.load),
    ),
    Family(
        "rproxy_server_tcp_connections",
        "gauge",
        "TCP connections of the host, as reported, kept current by our sessions.",
        lambda row: None if row.backend.report.tcp is None else row.backend.tcp,
    ),
    Family(
        "rproxy_server_other_proxies_sessions",
        "gauge",
        "Sessions that other proxies have on the back-end, as reported.",
        lambda row: row.backend.report.others,
    ),
    Family(
        "rproxy_server_report_age_seconds",
        "gauge",
        "Age of the last report.",
        lambda row: row.backend.report_age_s(row.now),
    ),
    Family(
        "rproxy_server_score",
        "gauge",
        "What the policy compares; lower is better.",
        _score,
        is_slow=True,
    ),
)
