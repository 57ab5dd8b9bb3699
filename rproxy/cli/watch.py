"""`rproxy status --watch`: the tables again and again, on a screen as `top` has it, or one after the other."""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from typing import Final

import attrs

from rproxy.cli import status
from rproxy.cli.client import Client, Failure
from rproxy.cli.output import Output
from rproxy.cli.status import Document, Selection
from rproxy.cli.terminal import Terminal
from rproxy.cli.view import View

TICK_S: Final = 0.5
"""How long it takes to notice a new size of the terminal, in s."""
_PATIENCE: Final = 5
"""The pause between requests is at least this many times as long as the last answer took."""


@attrs.frozen
class Answer:
    """What became of one request."""

    document: Document | None
    failure: str
    at: float
    """In s of the monotonic clock."""


class Poller(threading.Thread):
    """Asks the proxy in a thread of its own, so that keys are answered while it is silent."""

    def __init__(self, client: Client, interval_s: float) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._interval_s = interval_s
        self._answers: list[Answer] = []
        self.woken, self._wake = socket.socketpair()

    def run(self) -> None:
        while True:
            began_at = time.monotonic()
            self._answers.append(ask(self._client))
            self._wake.send(b".")
            time.sleep(max(self._interval_s, _PATIENCE * (time.monotonic() - began_at)))

    def take(self) -> list[Answer]:
        """The answers since the last call. To be called when `woken` can be read."""
        self.woken.recv(1024)
        answers, self._answers = self._answers, []
        return answers


def ask(client: Client) -> Answer:
    """Raises nothing."""
    try:
        document = client.get(status.PATH)
    except Failure as failure:
        return Answer(None, str(failure), time.monotonic())
    return Answer(document, "", time.monotonic())


def on_screen(client: Client, output: Output, selection: Selection, interval_s: float) -> None:
    """Until a key or Ctrl-C ends it. Raises `Failure` if the first request fails."""
    view = View(client.place, selection)
    view.take(client.get(status.PATH), time.monotonic())
    poller = Poller(client, interval_s)
    try:
        with Terminal(output) as terminal:
            poller.start()
            _serve(view, terminal, poller, output)
    except (KeyboardInterrupt, EOFError):
        pass


def _serve(view: View, terminal: Terminal, poller: Poller, output: Output) -> None:
    size = None
    while True:
        now = output.size
        if now != size or view.failure:
            terminal.paint(view.lines(*now, time.monotonic()), now[0])
            size = now
        readable, _, _ = select.select([poller.woken.fileno(), *terminal.input], [], [], TICK_S)
        if poller.woken.fileno() in readable:
            for answer in poller.take():
                _take(view, answer)
            size = None
        if set(readable) - {poller.woken.fileno()}:
            if not all(map(view.press, terminal.keys())):
                return
            size = None
        if terminal.resumed:
            terminal.resumed, size = False, None


def _take(view: View, answer: Answer) -> None:
    if answer.document is None:
        view.failure = answer.failure
        return
    try:
        view.take(answer.document, answer.at)
    except Failure as failure:
        view.failure = str(failure)


def one_after_the_other(
    client: Client, output: Output, selection: Selection, interval_s: float, *, as_json: bool
) -> None:
    """For programs, for ever: tables with a line between them, or documents, a line each.

    Raises `Failure` if the first request fails; a proxy that goes away later is waited for.
    """
    document: Document | None = client.get(status.PATH)
    failed = ""
    while True:
        if document is not None and as_json:
            selected = status.selected(document, client.place, selection)
            output.write(json.dumps(selected, separators=(",", ":")) + "\n")
        elif document is not None:
            status.show(document, client.place, output, selection)
            output.write("\n")
        time.sleep(interval_s)
        answer = ask(client)
        document = answer.document
        if answer.failure and not failed:
            print(f"rproxy status: {answer.failure}; waiting for it", file=sys.stderr)
        failed = answer.failure
