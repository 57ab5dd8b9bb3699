"""The families of `/metrics` that each service has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rproxy.observe.choices import ChoiceLog
from rproxy.observe.metric_family import Family
from rproxy.observe.service_figures import ServiceFigures
from rproxy.observe.status_json import Ended
from rproxy.observe.suspicions import SERVICE_KINDS
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.sessions.client_gate import Refusal
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service


class ServiceRow(NamedTuple):
    service: Service
    ended: Ended
    sessions: int
    """Of the same moment as `ended`: the sum of both must not decrease."""
    figures: ServiceFigures
    doubts: Mapping[tuple[str, str], int]
    """How many there are, by service and kind."""


def _doubts(row: ServiceRow) -> Mapping[str, float]:
    return {kind: row.doubts.get((row.service.name, kind), 0) for kind in SERVICE_KINDS}


def _unrecorded(row: ServiceRow) -> float | None:
    recorder = row.service.recorder
    return recorder.unrecorded if isinstance(recorder, ChoiceLog) else None


SERVICE_FAMILIES: Final[tuple[Family[ServiceRow], ...]] = (
    Family(
        "rproxy_frontend_current_sessions",
        "gauge",
        "Sessions now, those that wait for a back-end included.",
        lambda row: row.service.sessions,
    ),
    Family(
        "rproxy_frontend_limit_sessions",
        "gauge",
        "Most sessions that the service may have; none without a limit of its own.",
        lambda row: limit if (limit := row.service.capacity.sessions_max) < SESSIONS_MAX else None,
    ),
    Family(
        "rproxy_frontend_sessions_total",
        "counter",
        "Sessions that have begun.",
        lambda row: row.ended.endings.total() + row.sessions,
    ),
    Family(
        "rproxy_frontend_session_endings_total",
        "counter",
        "Sessions that have ended, by how.",
        lambda row: {ending.value: row.ended.endings[ending] for ending in Ending},
        "ending",
    ),
    Family(
        "rproxy_frontend_denied_sessions_total",
        "counter",
        "Clients refused, by the key of the rule.",
        lambda row: {rule.value: row.ended.refused[rule.value] for rule in Refusal},
        "rule",
    ),
    Family(
        "rproxy_frontend_bytes_in_total",
        "counter",
        "Bytes from clients, in sessions that have ended.",
        lambda row: row.ended.up,
    ),
    Family(
        "rproxy_frontend_bytes_out_total",
        "counter",
        "Bytes to clients, in sessions that have ended.",
        lambda row: row.ended.down,
    ),
    Family(
        "rproxy_listener_sessions_total",
        "counter",
        "Sessions that have ended, by the listener that accepted them.",
        lambda row: row.figures.listeners,
        "listener",
    ),
    Family("rproxy_backend_known_servers", "gauge", "Back-ends in any state.", lambda row: len(row.service.pool)),
    Family(
        "rproxy_backend_active_servers",
        "gauge",
        "Back-ends that may get clients, full ones included.",
        lambda row: len(row.service.pool.eligible) + row.service.pool.full,
    ),
    Family(
        "rproxy_backend_full_servers",
        "gauge",
        "Back-ends that have as many sessions as they may.",
        lambda row: row.service.pool.full,
    ),
    Family(
        "rproxy_backend_panic",
        "gauge",
        "Whether so many are down that back-ends that are down get clients, too.",
        lambda row: row.service.pool.panicking,
    ),
    Family(
        "rproxy_backend_current_queue",
        "gauge",
        "Clients that wait for a back-end.",
        lambda row: row.service.wait_queue.waiting,
    ),
    Family(
        "rproxy_backend_longest_wait_seconds",
        "gauge",
        "How long the first client in the queue has waited.",
        lambda row: row.service.wait_queue.longest_s(),
    ),
    Family(
        "rproxy_backend_loadbalanced_total",
        "counter",
        "Choices of a back-end.",
        lambda row: row.service.pool.choices,
    ),
    Family(
        "rproxy_backend_unrecorded_choices_total",
        "counter",
        "Choices that are not in the record of choices, because they came too fast.",
        _unrecorded,
    ),
    Family(
        "rproxy_backend_policy_errors_total",
        "counter",
        "Exceptions that the policy has raised, and choices that it must not make.",
        lambda row: row.service.pool.guard.failures,
    ),
    Family(
        "rproxy_backend_redispatch_warnings_total",
        "counter",
        "Sessions that got another back-end because a connect failed.",
        lambda row: row.ended.redispatches,
    ),
    Family(
        "rproxy_backend_tls_errors_total",
        "counter",
        "TLS handshakes with back-ends that failed.",
        lambda row: row.ended.tls_connect_failures,
    ),
    Family(
        "rproxy_backend_doubts",
        "gauge",
        "Doubts about the service; /api/doubts has their texts.",
        _doubts,
        "kind",
    ),
    Family(
        "rproxy_backend_queue_time_seconds",
        "histogram",
        "Wait for a back-end, of sessions that have ended; 0 without one.",
        lambda row: row.figures.queue,
    ),
    Family(
        "rproxy_backend_connect_time_seconds",
        "histogram",
        "Time to connect, failed attempts included, of sessions that have ended.",
        lambda row: row.figures.connect,
    ),
    Family(
        "rproxy_backend_total_time_seconds",
        "histogram",
        "Length of the sessions that were connected and have ended.",
        lambda row: row.figures.total,
    ),
    Family(
        "rproxy_backend_report_age_seconds",
        "histogram",
        "Age of the chosen back-end's report at the choice, of sessions that have ended.",
        lambda row: row.figures.report_age,
    ),
    Family(
        "rproxy_backend_check_duration_seconds",
        "histogram",
        "Round trips of answered probes and checks.",
        lambda row: row.figures.rtt,
    ),
)
