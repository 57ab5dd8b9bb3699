"""Replays an access log: the same clients at the same times, under other policies.

As in the program's own log, a line's time is that of the session's end.

A log says how long sessions lasted beside whatever else its back-end had, not how much they asked for. So the replay
assumes that a back-end shares itself equally among its open sessions, and that what a client asks for does not depend
on the back-end that it got. Then the log gives each session's work, and the speeds of the back-ends; with the choices
that the log has, the simulated sessions last exactly as long as the logged ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from math import isfinite
from typing import Any, Final

import attrs

from rproxy.study.hosts import HostSpec
from rproxy.study.scenarios import Scenario
from rproxy.study.traffic import Logged
from rproxy.study.world import Result, quantile

BACKEND_KEYS: Final = ("backend", "back-end", "back_end")
"""Names that the back-end's key may have."""
BEGIN_S: Final = 15.0
"""The first session of the log comes at this time, when slow start is over."""
SHRINK: Final = 10
"""A back-end's speed is drawn towards the mean as if it had so many sessions more, of the usual work."""
WORK_MIN_S: Final = 1e-6
"""Of a session that took no time, as far as the log can tell."""


class MalformedLine(Exception):
    """A line of a log is of no use; the text says why."""


@attrs.frozen
class Entry:
    """A session: when it began and how long it lasted, in s, and the names of its back-end and service."""

    time_s: float
    duration_s: float
    backend: str
    service: str = ""
    """Empty if the log does not say."""


@attrs.frozen
class Log:
    """The sessions of a log in the order of their beginnings, and the lines that are none, by number."""

    entries: tuple[Entry, ...]
    flaws: Mapping[int, str]

    @property
    def seconds(self) -> float:
        """From the first session's beginning until the last one's end; there is one entry at least."""
        return max(entry.time_s + entry.duration_s for entry in self.entries) - self.entries[0].time_s

    @property
    def services(self) -> list[str]:
        """The names of those whose sessions it has; empty if it has none."""
        return sorted({entry.service for entry in self.entries} - {""})


def read_log(lines: Iterable[str]) -> Log:
    """Read JSON lines. Empty lines are ignored, and so are unknown keys."""
    entries, flaws = [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entries.append(_entry(line))
        except MalformedLine as flaw:
            flaws[number] = str(flaw)
    return Log(tuple(sorted(entries, key=lambda entry: entry.time_s)), flaws)


def _entry(line: str) -> Entry:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise MalformedLine("no JSON") from None
    if not isinstance(fields, dict):
        raise MalformedLine("no JSON object")
    time_s, duration_s = _time_s(fields), _number(fields, "duration")
    if duration_s < 0:
        raise MalformedLine("duration is below 0")
    backend = next((fields[key] for key in BACKEND_KEYS if key in fields), None)
    if not isinstance(backend, str) or not backend:
        raise MalformedLine("backend is missing, or no text")
    service = fields.get("service")
    return Entry(time_s - duration_s, duration_s, backend, service if isinstance(service, str) else "")


def _time_s(fields: Mapping[str, Any]) -> float:
    """The time of the session's end, which may be a number of seconds, or ISO 8601."""
    given = fields.get("time")
    if not isinstance(given, str):
        return _number(fields, "time")
    try:
        return datetime.fromisoformat(given).timestamp()
    except (ValueError, OverflowError):
        raise MalformedLine("time is neither seconds nor ISO 8601") from None


def _number(fields: Mapping[str, Any], key: str) -> float:
    given = fields.get(key)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise MalformedLine(f"{key} is missing, or no number")
    try:
        number = float(given)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        raise MalformedLine(f"{key} is not finite")
    return number


def works(entries: Sequence[Entry]) -> list[float]:
    """What each session got of its back-end, in seconds of it alone: the integral of 1 / (sessions open there)."""
    events: dict[str, list[tuple[float, int, int]]] = {}
    for number, entry in enumerate(entries):
        one = events.setdefault(entry.backend, [])
        one.append((entry.time_s, 1, number))
        one.append((entry.time_s + entry.duration_s, -1, number))
    found = [0.0] * len(entries)
    for one in events.values():
        one.sort(key=lambda event: (event[0], -event[1]))
        progress, then, sessions = 0.0, one[0][0], 0
        for at, change, number in one:
            progress += (at - then) / sessions if sessions else 0.0
            then = at
            sessions += change
            found[number] += -progress if change > 0 else progress
    return [max(work, WORK_MIN_S) for work in found]


def speeds(entries: Sequence[Entry], work: Sequence[float]) -> dict[str, float]:
    """By back-end: a slow one took longer for what is the same on average. The mean session's work stays as it is."""
    usual = sum(work) / len(work)
    totals: dict[str, tuple[int, float]] = {}
    for entry, mine in zip(entries, work, strict=True):
        count, total = totals.get(entry.backend, (SHRINK, SHRINK * usual))
        totals[entry.backend] = count + 1, total + mine
    return {backend: usual * count / total for backend, (count, total) in totals.items()}


def scenario_of(log: Log, name: str) -> Scenario:
    """What the log describes, which has one entry at least: hosts in the order of their names."""
    entries = log.entries
    work = works(entries)
    speed = speeds(entries, work)
    first_s = entries[0].time_s
    clients = tuple(
        (BEGIN_S + entry.time_s - first_s, mine * speed[entry.backend])
        for entry, mine in zip(entries, work, strict=True)
    )
    ended_s = log.seconds
    return Scenario(
        text=f"{len(entries):,} sessions on {len(speed):,} back-ends in {ended_s:,.0f} s, as {name} has them",
        hosts=tuple(HostSpec(speed[backend]) for backend in sorted(speed)),
        traffic=Logged(clients),
        hog=None,
        begin_s=BEGIN_S - 1,
        warm_s=BEGIN_S - 1,
        seconds=BEGIN_S + ended_s,
        completes=True,
    )


def as_logged(log: Log) -> Result:
    """What the log itself says."""
    entries = log.entries
    times = sorted(entry.duration_s for entry in entries)
    names = sorted({entry.backend for entry in entries})
    busy = dict.fromkeys(names, 0.0)
    for entry, work in zip(entries, works(entries), strict=True):
        busy[entry.backend] += work
    chosen = [sum(1 for _ in group) for group in _by_backend(entries, names)]
    return Result(
        mean=sum(times) / len(times),
        p50=quantile(times, 0.5),
        p99=quantile(times, 0.99),
        p999=quantile(times, 0.999),
        most=max(busy.values()) * len(busy) / sum(busy.values()),
        failures=0,
        count=len(times),
        chosen=tuple(chosen),
        probes_s=0.0,
        took_s=0.0,
    )


def _by_backend(entries: Sequence[Entry], names: Sequence[str]) -> Iterator[list[Entry]]:
    groups: dict[str, list[Entry]] = {name: [] for name in names}
    for entry in entries:
        groups[entry.backend].append(entry)
    yield from groups.values()
