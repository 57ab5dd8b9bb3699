"""The columns of the operators' tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from rproxy.cli import figures
from rproxy.cli.figures import number_of, printable
from rproxy.cli.grid import Column, Row

GOOD: Final = "green"
WARNING: Final = "yellow"
BAD: Final = "red"
MUTED: Final = "dim"
STEERED: Final = "cyan"
STATE_STYLES: Final = {
    "up": GOOD,
    "suspect": WARNING,
    "down": f"{BAD} bold",
    "draining": STEERED,
    "maint": STEERED,
    "registered": MUTED,
    "departed": MUTED,
}
RATE: Final = "rate"
"""New sessions per second: the only figure that is computed here."""
HIGH: Final = 75
SATURATED: Final = 90
"""Percentages from which figures are shown in yellow, and in red."""


def figure(key: str, title: str, written: Callable[[object], str], rank: int, field: str = "", **how: Any) -> Column:
    """A column of figures, aligned on the right: the row's `field`, by default that of the column's key."""
    name = field or key
    return Column(key, title, lambda row: written(row.get(name)), rank, right=True, order=by(name), **how)


def by(key: str) -> Callable[[Row], float | None]:
    """Sorts rows by a figure."""
    return lambda row: number_of(row.get(key))


def word(key: str, title: str, rank: int = 0, **how: Any) -> Column:
    return Column(key, title, lambda row: printable(row.get(key)), rank, **how)


def level(key: str) -> Callable[[Row], str]:
    """The style of a percentage."""

    def style(row: Row) -> str:
        number = number_of(row.get(key)) or 0
        return BAD if number >= SATURATED else WARNING if number >= HIGH else ""

    return style


def state(row: Row) -> str:
    """Of a back-end, with a mark where it is up and full."""
    text = printable(row.get("state"))
    return f"{text},full" if row.get("full") is True and text == "up" else text


def state_style(row: Row) -> str:
    return WARNING if row.get("full") is True else STATE_STYLES.get(str(row.get("state")), "")


def sessions(row: Row) -> str:
    """Of a back-end or service, with its limit if it has one."""
    now, limit = figures.count(row.get("connections")), number_of(row.get("max_connections"))
    return now if limit is None else f"{now}/{limit:.0f}"


def weight(row: Row) -> str:
    """The weight in force; with a star if an operator has set it."""
    text, own = figures.count(row.get("weight")), row.get("own_weight")
    return text if own is None or own == row.get("weight") else f"{text}*"


def note(row: Row) -> str:
    """What else is to be said of a back-end."""
    said, own, passed_over = row.get("said"), row.get("own_weight"), row.get("passed_over")
    notes = [] if not passed_over else [printable(passed_over)]
    is_draining = row.get("state") == "draining"
    if row.get("administration") == "drain":
        notes.append("by an operator" if is_draining else "drained by an operator")
    elif is_draining and not said:
        notes.append("by its agent")
    if said:
        notes.append(f"agent-check: {printable(said)}")
    if weight(row).endswith("*"):
        notes.append(f"weight by an operator, own {figures.count(own)}")
    return "; ".join(notes)


def by_address(row: Row) -> tuple[Any, ...]:
    """Sorts back-ends by their addresses and ports."""
    return figures.address_order(figures.backend_name(row))


_STATES: Final = {name: number for number, name in enumerate(["down", "suspect", "maint", "draining", "up"])}
"""Sorted by state, what needs attention comes first."""
BACKENDS: Final[Sequence[Column]] = (
    word("service", "SERVICE", 1),
    Column("backend", "BACKEND", figures.backend_name, order=by_address),
    Column("state", "STATE", state, style=state_style, order=lambda row: _STATES.get(str(row.get("state")), -1)),
    figure("since", "SINCE", figures.age, 4),
    Column("sessions", "SESS", sessions, right=True, order=by("connections")),
    figure(RATE, "NEW/S", figures.rate, 4),
    figure("total", "TOTAL", figures.count, 8),
    figure("score", "SCORE", figures.value, 6),
    figure("cpu", "CPU", figures.percent, 2, style=level("cpu")),
    figure("memory", "MEM", figures.percent, 3, style=level("memory")),
    figure("load", "LOAD", figures.percent, 6, style=level("load")),
    figure("rtt", "RTT", figures.milliseconds, 7, "rtt_ms"),
    figure("loss", "LOSS", figures.share, 7, style=lambda row: WARNING if row.get("loss") else ""),
    figure("tcp", "TCP", figures.count, 13),
    Column("weight", "WGHT", weight, 9, right=True, order=by("weight")),
    figure("up", "UP", figures.size, 10, "bytes_up"),
    figure("down", "DOWN", figures.size, 10, "bytes_down"),
    figure("age", "AGE", figures.age, 11, "report_age"),
    Column("note", "NOTE", note, 5, is_text=True),
)
SERVICES: Final[Sequence[Column]] = (
    Column("name", "SERVICE", lambda row: printable(row.get("name"))),
    Column("eligible", "USABLE", lambda row: f"{figures.count(row.get('eligible'))}/{figures.count(row.get('known'))}"),
    figure("sessions", "SESS", figures.count, 0),
    figure(RATE, "NEW/S", figures.rate, 1),
    figure("waiting", "WAIT", figures.count, 1, style=lambda row: WARNING if row.get("waiting") else ""),
    Column("ended", "ENDED", lambda row: figures.count(total(row, "sessions")), 2, right=True),
    Column("refused", "REFUSED", lambda row: figures.count(total(row, "refused")), 3, right=True),
    Column("up", "UP", lambda row: figures.size(counter(row, "bytes", "up")), 4, right=True),
    Column("down", "DOWN", lambda row: figures.size(counter(row, "bytes", "down")), 4, right=True),
    Column("note", "NOTE", lambda row: service_note(row), 1, style=lambda row: BAD, is_text=True),
)


def counter(row: Row, *keys: str) -> object:
    """A counter of a service; None if the document does not have it."""
    found: object = row.get("counters")
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def total(row: Row, key: str) -> int | None:
    """The sum of a service's counters of one kind."""
    counts = counter(row, key)
    return sum(each for each in counts.values() if isinstance(each, int)) if isinstance(counts, dict) else None


def service_note(row: Row) -> str:
    """What is wrong with a service, or unusual."""
    notes = []
    if row.get("panic"):
        notes.append("panic: less than half of its back-ends are up, so all are used")
    elif row.get("eligible") == 0:
        notes.append("no back-end can be used")
    if row.get("leaving"):
        notes.append("leaving: the configuration no longer names it")
    if row.get("full"):
        notes.append(f"full back-ends: {figures.count(row.get('full'))}")
    return "; ".join(notes)


SESSIONS: Final[Sequence[Column]] = (
    figure("id", "SESSION", figures.count, 0),
    word("service", "SERVICE", 4),
    word("listener", "LISTENER", 7),
    word("client", "CLIENT", order=lambda row: figures.address_order(str(row.get("client")))),
    word("backend", "BACKEND", order=lambda row: figures.address_order(str(row.get("backend")))),
    word("state", "STATE", 3),
    figure("age", "AGE", figures.age, 1),
    figure("up", "UP", figures.size, 5),
    figure("down", "DOWN", figures.size, 5),
)
KIND_STYLES: Final = {**STATE_STYLES, "ready": GOOD, "drain": STEERED, "panic": f"{BAD} bold", "doubt": WARNING}


def kind_style(row: Row) -> str:
    return KIND_STYLES.get(str(row.get("kind")), "")


def events(now: float) -> Sequence[Column]:
    """Of events and, by `since`, doubts; `now` is Unix time in s."""
    return (
        Column("time", "TIME", lambda row: figures.moment(row.get("time", row.get("since")), now)),
        word("service", "SERVICE", 3),
        word("backend", "BACKEND"),
        word("kind", "EVENT", style=kind_style),
        word("text", "", is_text=True),
    )
