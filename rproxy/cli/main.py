"""The operators' commands run: with a client for the proxy that the options name, and errors in one line."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from rproxy.cli import backend_names, changes, choices, reports, shadow, status, watch
from rproxy.cli.client import DEFAULT_URL, Client, Failure, place_of
from rproxy.cli.columns import STATE_STYLES
from rproxy.cli.output import Output, discard_output
from rproxy.cli.status import Selection
from rproxy.net.files import open_regular

URL: Final = "RPROXY_URL"
TOKEN_FILE: Final = "RPROXY_TOKEN_FILE"  # noqa: S105 - the name of a variable
INTERRUPTED: Final = 130
"""The exit status that shells give to a command that SIGINT has ended."""
_TOKEN_MAX: Final = 4096
"""Bytes of a token file."""
Options = argparse.Namespace


def run(command: str, options: Options) -> int:
    """Returns the exit status."""
    try:
        COMMANDS[command](client_of(options), Output(), options)
    except Failure as failure:
        print(f"rproxy {command}: error: {failure}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has seen enough
        discard_output()
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def client_of(options: Options) -> Client:
    """For the proxy that the options or the environment name. Raises `Failure`."""
    url = getattr(options, "place", None) or options.url or os.environ.get(URL) or DEFAULT_URL
    path = options.token_file or os.environ.get(TOKEN_FILE)
    return Client(place_of(url), token_in(path) if path else None)


def token_in(path: str) -> str:
    """The first token in a file as the proxy has one: lines that begin with a ``#`` are none. Raises `Failure`."""
    try:
        with open_regular(path) as file:
            data = file.read(_TOKEN_MAX)
    except OSError as error:
        raise Failure(f"--token-file {path}: {error.strerror}") from None
    lines = [line.strip() for line in data.decode("ascii", errors="replace").splitlines()]
    token = next((line for line in lines if line and not line.startswith("#")), "")
    if not token:
        raise Failure(f"--token-file {path}: there is no token in it")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Failure(f"--token-file {path}: a token is a line of ASCII characters without blanks")
    return token


def _status(client: Client, output: Output, options: Options) -> None:
    if unknown := set(options.state) - STATE_STYLES.keys():
        raise Failure(f"--state {', '.join(sorted(unknown))}: the states are {', '.join(STATE_STYLES)}")
    selection = Selection(options.service, options.state, sort=options.sort, backwards=options.reverse)
    if options.watch and output.is_terminal and not options.json:
        watch.on_screen(client, output, selection, options.interval)
    elif options.watch:
        watch.one_after_the_other(client, output, selection, options.interval, as_json=options.json)
    else:
        document = client.get(status.PATH)
        show = status.show_json if options.json else status.show
        show(document, client.place, output, selection)


def _query(client: Client, options: Options, *names: str) -> dict[str, Any]:
    """Parameters as the options have them; a back-end by its address and port."""
    query = {name: getattr(options, name) for name in names}
    if query.get("backend") is not None:
        query["backend"] = backend_names.address_of(client, options.backend, options.service)
    return query


def _sessions(client: Client, output: Output, options: Options) -> None:
    query = _query(client, options, "client", "backend", "service", "limit")
    if options.json:
        reports.as_json(client, output, reports.SESSIONS, query)
    else:
        reports.sessions(client, output, query)


def _events(client: Client, output: Output, options: Options) -> None:
    query = _query(client, options, "backend", "service", "limit")
    if options.json and not options.follow:
        reports.as_json(client, output, reports.EVENTS, query)
        return
    show = partial(reports.show_events_as_json, output) if options.json else reports.EventTable(output).show
    after = reports.events(client, query, show)
    if options.follow:
        reports.follow(client, query, after, show, time.sleep)


def _choices(client: Client, output: Output, options: Options) -> None:
    query = _query(client, options, "client", "backend", "service", "limit")
    if options.json:
        reports.as_json(client, output, choices.PATH, query)
    else:
        choices.show(client, output, query, whole=options.candidates)


def _explain(client: Client, output: Output, options: Options) -> None:
    if options.backend is None and options.json:
        reports.as_json(client, output, choices.PATH, {"service": options.service, "limit": 1})
    elif options.backend is None:
        choices.show_last(client, output, options.service)
    elif options.json:
        reports.as_json(client, output, reports.EXPLAIN, _query(client, options, "backend", "service"))
    else:
        reports.explain(client, output, options.backend, options.service)


def _shadow(client: Client, output: Output, options: Options) -> None:
    if options.json:
        reports.as_json(client, output, shadow.PATH)
    else:
        shadow.show(client, output, options.service)


def _doubts(client: Client, output: Output, options: Options) -> None:
    if options.json:
        reports.as_json(client, output, reports.DOUBTS)
    else:
        reports.doubts(client, output)


def _steer(do: str, client: Client, output: Output, options: Options) -> None:
    names, wait_s = list(options.backends), options.wait
    if isinstance(wait_s, str):
        names, wait_s = [wait_s, *names], math.inf
    if not names:
        options.wrong("the following arguments are required: BACKEND")
    targets = changes.change(client, output, names, options.service, do)
    if wait_s is not None:
        wait = changes.wait_until_usable if do == "ready" else changes.wait_until_drained
        wait(client, output, targets, wait_s)


def _weight(client: Client, output: Output, options: Options) -> None:
    changes.change(client, output, [options.backend], options.service, "weight", {"value": options.weight})


def _kill(client: Client, output: Output, options: Options) -> None:
    if bool(options.sessions) is (options.backend is not None):
        options.wrong("name sessions by their numbers, or a back-end by --backend")
    if options.backend is not None:
        changes.change(client, output, [options.backend], options.service, "kill")
    else:
        changes.kill_sessions(client, output, options.sessions)


def _shed(client: Client, output: Output, options: Options) -> None:
    if isinstance(options.wait, str):
        options.wrong(f"argument --wait: {options.wait!r} is no number of seconds")
    rate = f"{options.rate:.12f}".rstrip("0").rstrip(".")  # the proxy takes no exponents
    targets = changes.change(client, output, [options.backend], options.service, "shed", {"rate": rate})
    if options.wait is not None and options.rate:
        changes.wait_until_drained(client, output, targets, options.wait)


COMMANDS: Final[Mapping[str, Callable[[Client, Output, Options], None]]] = {
    "status": _status,
    "sessions": _sessions,
    "events": _events,
    "choices": _choices,
    "explain": _explain,
    "shadow": _shadow,
    "doubts": _doubts,
    "drain": lambda *given: _steer("drain", *given),
    "maint": lambda *given: _steer("maint", *given),
    "ready": lambda *given: _steer("ready", *given),
    "weight": _weight,
    "kill": _kill,
    "shed": _shed,
}
