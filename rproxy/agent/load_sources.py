"""Where the service's load comes from: its accept queue, a command, a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.agent.accept_queue import ListeningSockets, backlog_max, reached
from rproxy.agent.application_load import BadLoad, LoadLog, parse_load
from rproxy.agent.shell_command import CommandFailed, ShellCommand
from rproxy.agent.sock_diag import Listener
from rproxy.net.files import open_nonblocking
from rproxy.timing.loops import keep_looping

SEARCH_S: Final = 5.0
"""How often to search for the service's sockets; in between, only their queues are read."""
SEARCH_MIN_S: Final = 0.1
"""The same while queues cannot be read one by one: nothing listens, or sockets share an address (SO_REUSEPORT)."""
PROC_S: Final = 1.0
"""The same in /proc, without sock_diag."""
QUERIES_MAX: Final = 4
"""Sockets that are read one by one, at most."""
RUN_S: Final = 1.0
"""How often to run a command, or to read a file."""
RUN_TIMEOUT_S: Final = 5.0
"""A command that takes longer is killed."""
OUTPUT_MAX: Final = 4096
"""Bytes read from the end of a command's output, or of a file."""


class AcceptQueueLoad:
    """An `ApplicationLoad`: how full the accept queue of the service's listening socket is.

    Of several sockets, the fullest that clients reach counts. A queue of the length of its backlog is full. Unknown
    while nothing listens: clients are refused then, which the proxy notices.

    Without sock_diag, the queue is read from /proc at most every `PROC_S`, and the backlog is taken to be the largest
    that the kernel allows.
    """

    def __init__(self, seconds: Callable[[], float], port: int, own_addresses: Callable[[], Collection[str]]) -> None:
        """`seconds` is a monotonic clock. `own_addresses` returns this host's addresses at which clients arrive."""
        self._seconds = seconds
        self._port = port
        self._own_addresses = own_addresses
        self._sockets = ListeningSockets(seconds)
        self._queries: Sequence[bytes] = ()
        """Of the sockets that clients reach; empty if these cannot be read one by one."""
        self._percentage: int | None = None
        """As of the last search."""
        self._search_from = self._search_by = float("-inf")
        """When to search again if there are no queries, and when in any case."""

    def start(self) -> None:
        """See `ApplicationLoad`."""

    def stop(self) -> None:
        """See `ApplicationLoad`."""
        self._sockets.close()

    def percentage(self) -> int | None:
        """See `ApplicationLoad`."""
        now = self._seconds()
        if self._queries and now < self._search_by:
            try:
                fullest = 0
                for query in self._queries:
                    fullest = max(fullest, _fill(*self._sockets.diag.queue(query)))
                return fullest
            except OSError:  # closed since
                self._queries = ()
        if now >= self._search_from:
            self._search(now)
        return self._percentage

    def _search(self, now: float) -> None:
        sockets = reached(self._sockets.find(self._port), self._own_addresses())
        self._percentage = _fullest(sockets)
        self._search_by = now + SEARCH_S
        self._search_from = now + (PROC_S if self._sockets.is_slow else SEARCH_MIN_S)
        queries = {each.place: each.query for each in sockets if each.query}
        can_be_asked = len(queries) == len({each.query for each in sockets}) <= QUERIES_MAX
        self._queries = tuple(queries.values()) if can_be_asked else ()


def _fullest(found: Collection[Listener]) -> int | None:
    """An unknown backlog is taken to be the largest that there can be. None if that is unknown, or `found` is empty."""
    backlogs = [(each.queued, backlog_max() if each.backlog is None else each.backlog) for each in found]
    return max((_fill(queued, most) for queued, most in backlogs if most is not None), default=None)


def _fill(queued: int, backlog: int) -> int:
    """In percent. With a backlog of 0, the kernel still queues one connection."""
    return min(round(100 * queued / (backlog or 1)), 100)


class CommandLoad:
    """An `ApplicationLoad`: the last line of a command's output, which is run every `RUN_S`."""

    log = Logger()

    def __init__(self, reactor: Any, command: str) -> None:
        self._reactor = reactor
        self._command = ShellCommand(reactor, command, output_max=OUTPUT_MAX, timeout_s=RUN_TIMEOUT_S)
        self._percentage: int | None = None
        self._load_log = LoadLog()
        self._running: Deferred[None] | None = None
        """The last run."""
        self._loop = LoopingCall(self._run)
        self._loop.clock = reactor

    def start(self) -> None:
        """See `ApplicationLoad`."""
        keep_looping(self._loop, RUN_S, now=True, failed=self._failed)

    def stop(self) -> None:
        """See `ApplicationLoad`."""
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.cancel()
        self._command.stop()

    def percentage(self) -> int | None:
        """See `ApplicationLoad`: as of the last run that has ended."""
        return self._percentage

    def _failed(self, failure: Failure) -> None:
        self._percentage = None
        self.log.failure("running --load-command", failure)

    def _run(self) -> Deferred[None]:
        """`LoopingCall` waits for the Deferred before the next run."""
        self._running = Deferred.fromCoroutine(self._measure())
        return self._running

    async def _measure(self) -> None:
        with suppress(CancelledError):  # by `stop`
            try:
                self._percentage = parse_load(await self._command.run())
            except (CommandFailed, BadLoad) as error:
                self._percentage = None
                self._load_log.unknown(f"{self._command.command}: {error}", self._reactor.seconds())
            else:
                self._load_log.known(self._reactor.seconds())


class FileLoad:
    """An `ApplicationLoad`: the last line of a file, which is read at most every `RUN_S`. Its age does not matter."""

    def __init__(self, seconds: Callable[[], float], path: str) -> None:
        """`seconds` is a monotonic clock."""
        self._seconds = seconds
        self._path = path
        self._percentage: int | None = None
        self._read_from = float("-inf")
        """When to read again."""
        self._load_log = LoadLog()

    def start(self) -> None:
        """See `ApplicationLoad`."""

    def stop(self) -> None:
        """See `ApplicationLoad`."""

    def percentage(self) -> int | None:
        """See `ApplicationLoad`."""
        now = self._seconds()
        if now >= self._read_from:
            self._read_from = now + RUN_S
            self._percentage = self._read(now)
        return self._percentage

    def _read(self, now: float) -> int | None:
        try:
            load = parse_load(_tail(self._path))
        except OSError as error:
            self._load_log.unknown(f"{self._path}: {error.strerror}", now)
        except BadLoad as error:
            self._load_log.unknown(f"{self._path}: {error}", now)
        else:
            self._load_log.known(now)
            return load
        return None


def _tail(path: str) -> bytes:
    """The last bytes of a regular file. Raises `OSError` or `BadLoad`."""
    with open(path, "rb", buffering=0, opener=open_nonblocking) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadLoad("not a regular file")
        if status.st_size > OUTPUT_MAX:
            file.seek(status.st_size - OUTPUT_MAX)
        return file.read(OUTPUT_MAX)
