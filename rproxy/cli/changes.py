"""The commands that change something: drain, maint, ready, weight, kill, shed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from rproxy.cli import backend_names
from rproxy.cli.backend_names import Target
from rproxy.cli.client import Client, Failure, Query
from rproxy.cli.figures import backend_name, count, printable
from rproxy.cli.grid import Row
from rproxy.cli.output import Output

POLL_S: Final = 1.0
"""Between two looks at a back-end that is waited for."""
_PATIENCE: Final = 10
"""The pause is at least this many times as long as the last answer took."""


def change(
    client: Client, output: Output, names: Sequence[str], service: str | None, do: str, query: Query | None = None
) -> list[Target]:
    """Have the proxy `do` something with back-ends, print its answers, and return the back-ends.

    All names are looked up before anything is changed.
    """
    targets = [backend_names.find(client, name, service) for name in names]
    for target in targets:
        path = f"/api/backends/{quote(target.service, safe='')}/{quote(target.backend, safe='')}/{do}"
        _tell(output, client.post(path, query), f"{target}: {do}")
    return targets


def kill_sessions(client: Client, output: Output, sessions: Sequence[int]) -> None:
    """End them one by one."""
    for session in sessions:
        _tell(output, client.post(f"/api/sessions/{session}/kill"), f"session {session}: killed")


def _tell(output: Output, answer: dict[str, Any], otherwise: str) -> None:
    output.lines([printable(answer.get("done") or otherwise)])


def wait_until_drained(client: Client, output: Output, targets: Sequence[Target], within_s: float) -> None:
    """Until no session is left on any. Raises `Failure` if that takes longer than `within_s`."""
    _wait(client, output, targets, within_s, "no session is left", _sessions_left)


def wait_until_usable(client: Client, output: Output, targets: Sequence[Target], within_s: float) -> None:
    """Until all may get clients. Raises `Failure` if that takes longer than `within_s`."""
    _wait(client, output, targets, within_s, "it may get clients", _not_usable)


def _sessions_left(row: Row | None) -> str:
    """What is still waited for; empty for nothing. There is no row if the back-end has gone."""
    left = row.get("connections") if row is not None else 0
    return f"{count(left)} session{'' if left == 1 else 's'} left" if left else ""


def _not_usable(row: Row | None) -> str:
    if row is None:
        return "it is not there yet"
    usable = row.get("eligible", row.get("state") == "up")
    return "" if usable else f"it is {printable(row.get('state'))}"


def _wait(
    client: Client,
    output: Output,
    targets: Sequence[Target],
    within_s: float,
    end: str,
    left: Callable[[Row | None], str],
) -> None:
    """Wait until `left` of each back-end's row, None if it has none, is empty."""
    deadline = time.monotonic() + within_s
    try:
        for target in targets:
            while still := _look(client, target, deadline, left):
                if time.monotonic() >= deadline:
                    raise Failure(f"{target}: {still} after {within_s:g} s")
            _show_progress("")
            output.lines([f"{target}: {end}"])
    finally:
        _show_progress("")


def _look(client: Client, target: Target, deadline: float, left: Callable[[Row | None], str]) -> str:
    """What is still left, after a pause if something is."""
    began_at = time.monotonic()
    still = left(_row(client, target))
    now = time.monotonic()
    if still and now < deadline:
        _show_progress(f"{target}: {still}")
        time.sleep(min(max(POLL_S, _PATIENCE * (now - began_at)), deadline - now))
    return still


def _show_progress(text: str) -> None:
    """In place of what was shown before; for people only."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def _row(client: Client, target: Target) -> Row | None:
    """The back-end's row; None if it has gone."""
    rows = client.rows(backend_names.PATH, "backends", {"service": target.service})
    return next((row for row in rows if backend_name(row) == target.backend), None)
