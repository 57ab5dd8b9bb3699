"""The families of `/metrics` that the process has once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rproxy.observe.metric_family import Family
from rproxy.observe.process_figures import ProcessFigures
from rproxy.observe.status_json import Ended, Status
from rproxy.observe.suspicions import PROCESS_KINDS
from rproxy.pool.admission import Refusal
from rproxy.sources.agents.counters import HELD_BACK
from rproxy.wire.pdu import Flaw


class ProcessRow(NamedTuple):
    status: Status
    ended: Ended
    """Of all services, those that have gone included."""
    sessions: int
    """Of the same moment as `ended`: the sum of both must not decrease."""
    figures: ProcessFigures
    doubts: Mapping[tuple[str, str], int]
    """How many there are, by service and kind; the service is empty for those of the process."""
    lost_records: int
    """Of the access log."""


_DROPS: Final = [reason.value for reason in (*Flaw, *Refusal)]

PROCESS_FAMILIES: Final[tuple[Family[ProcessRow], ...]] = (
    Family(
        "rproxy_process_build_info",
        "gauge",
        "1, with the version.",
        lambda row: {row.status.process.version: 1},
        "version",
    ),
    Family(
        "rproxy_process_current_connections",
        "gauge",
        "Sessions of all services.",
        lambda row: row.status.capacity.sessions,
    ),
    Family(
        "rproxy_process_max_connections",
        "gauge",
        "Most sessions of all services.",
        lambda row: row.status.capacity.sessions_max,
    ),
    Family(
        "rproxy_process_connections_total",
        "counter",
        "Sessions that have begun, those of services that have gone included.",
        lambda row: row.ended.endings.total() + row.sessions,
    ),
    Family(
        "rproxy_process_bytes_in_total",
        "counter",
        "Bytes from clients of all services, in sessions that have ended.",
        lambda row: row.ended.up,
    ),
    Family(
        "rproxy_process_bytes_out_total",
        "counter",
        "Bytes to clients of all services, in sessions that have ended.",
        lambda row: row.ended.down,
    ),
    Family(
        "rproxy_process_dropped_logs_total",
        "counter",
        "Records of the access log that could not be written.",
        lambda row: row.lost_records,
    ),
    Family(
        "rproxy_process_doubts",
        "gauge",
        "Doubts about the process as a whole.",
        lambda row: {kind: row.doubts.get(("", kind), 0) for kind in PROCESS_KINDS},
        "kind",
    ),
    Family(
        "rproxy_datagrams_accepted_total",
        "counter",
        "Agents' datagrams that were accepted.",
        lambda row: row.status.datagrams.accepted,
        "type",
    ),
    Family(
        "rproxy_datagrams_dropped_total",
        "counter",
        "Datagrams that were dropped, by reason.",
        lambda row: {reason: row.status.datagrams.dropped[reason] for reason in _DROPS},
        "reason",
    ),
    Family(
        "rproxy_datagram_errors_total",
        "counter",
        "Datagrams that could not be sent, by error.",
        lambda row: row.status.datagrams.send_errors,
        "error",
    ),
    Family(
        "rproxy_probes_total",
        "counter",
        "Probes, by what they were sent for.",
        lambda row: {cause: count for cause, count in row.status.datagrams.probes.items() if cause != HELD_BACK},
        "cause",
    ),
    Family(
        "rproxy_probes_held_back_total",
        "counter",
        "Times that the budget of probes on demand was spent.",
        lambda row: row.status.datagrams.probes[HELD_BACK],
    ),
    Family(
        "process_cpu_seconds_total", "counter", "CPU time, of user and system.", lambda row: row.figures.cpu_seconds
    ),
    Family("process_resident_memory_bytes", "gauge", "Resident memory.", lambda row: row.figures.resident_bytes),
    Family("process_virtual_memory_bytes", "gauge", "Virtual memory.", lambda row: row.figures.virtual_bytes),
    Family(
        "process_start_time_seconds",
        "gauge",
        "When the process was started, in Unix time.",
        lambda row: row.figures.started,
    ),
    Family("process_open_fds", "gauge", "Open descriptors.", lambda row: row.figures.open_fds),
    Family("process_max_fds", "gauge", "Most descriptors that may be open.", lambda row: row.figures.max_fds),
)
