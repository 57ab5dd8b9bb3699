"""Keeps the pool's rows in a file while the proxy runs, and has those of its last run checked when it starts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.pool import Pool
from rproxy.pool.states import State
from rproxy.sources.saved.rows import Rows, encoded, is_kept
from rproxy.sources.saved.state_file import StateFile, StateFileError
from rproxy.sources.source import Source
from rproxy.timing.work_queue import WorkQueue

KEEP_S: Final = 1.0
"""Between two looks at the pool: what happens in the last second before a crash is lost."""
RETRY_S: Final = 10.0
"""The same after a write that failed."""
STOP_S: Final = 2.0
"""How long the last write may take, on stopping."""
LOOKED_AT: Final = 500
ENCODED: Final = 50
RESTORED: Final = 10
"""How many rows are handled in one turn of the reactor: some tenths of a millisecond."""
TRIES: Final = 3
TRY_S: Final = 0.25
"""After a probe's timeout, until the next one is sent: in a burst of probes, some may be lost."""


class Restoring:
    """Has a source check rows, up to `TRIES` times each; a row that stays silent is given up."""

    def __init__(self, rows: Rows, pool: Pool, source: Source, clock: IReactorTime, turns: WorkQueue) -> None:
        self.left = dict(rows)
        """Those that have neither answered nor been given up."""
        self._pool = pool
        self._source = source
        self._clock = clock
        self._turns = turns
        self._tries = dict.fromkeys(rows, TRIES)
        self._call: IDelayedCall | None = None
        self._stopped = False

    def start(self) -> None:
        """Check the rows that are left, again and again until none is."""
        self._call = None
        self._go_on(self._round())

    def stop(self) -> None:
        """Give up the rows that are left. May be called without `start`, and twice."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _go_on(self, steps: Iterator[None]) -> None:
        if self._stopped:
            return
        if next(steps, steps) is None:
            self._turns.add(lambda: self._go_on(steps))
        elif self.left:
            self._call = self._clock.callLater(self._pool.timeout_s + TRY_S, self.start)

    def _round(self) -> Iterator[None]:
        """One more try for the rows that nothing has confirmed: somebody else may have registered in their names."""
        for number, (address, registration) in enumerate(list(self.left.items())):
            if number and number % RESTORED == 0:
                yield
            backend = self._pool.get(*address)
            if backend is not None and self._source.is_restoring(backend, registration):
                continue
            if self._tries[address] and (backend is None or backend.state is State.REGISTERED):
                self._tries[address] -= 1
                self._source.restore([(registration, address[1])])
            else:
                del self.left[address]


class InBackground(Protocol):
    """Runs what may block, beside the reactor."""

    def __call__(self, work: Callable[[], str], done: Callable[[str], None]) -> object:
        """Call `work` in another thread, and then `done` with its result in the reactor's thread."""


def in_thread(reactor: Any) -> InBackground:
    """Each call has a thread of its own, which nothing waits for on stopping: a disk or a network may hang."""

    def start(work: Callable[[], str], done: Callable[[str], None]) -> None:
        def run() -> None:
            result = work()
            reactor.callFromThread(done, result)

        threading.Thread(target=run, name="state file", daemon=True).start()

    return start


class Keeper:
    """Writes the rows into `file` when they have changed, at most once a second, without those of `strangers`."""

    log = Logger()

    def __init__(
        self,
        file: StateFile,
        pool: Pool,
        source: Source,
        clock: IReactorTime,
        turns: WorkQueue,
        in_background: InBackground,
        strangers: Callable[[], Collection[Address]] = lambda: (),
    ) -> None:
        self._file = file
        self._pool = pool
        self._source = source
        self._clock = clock
        self._turns = turns
        self._in_background = in_background
        self._strangers = strangers
        self._restoring = Restoring({}, pool, source, clock, turns)
        self._written: Rows | None = None
        """What is in the file, None if that is not known."""
        self._seen: Mapping[Backend, Registration] = {}
        """The rows of the pool that were kept then."""
        self._left = 0
        """How many of the last run's rows had been neither confirmed nor given up at the last look."""
        self._unread = self._failure = ""
        """Why it could not be read, and why the last write failed."""
        self._call: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._is_last = False
        """Whether the pool has been looked at since `stop` was called."""

    def load(self) -> None:
        """Read the file, which takes its time: before the reactor runs."""
        rows: Rows = {}
        try:
            rows = self._written = self._file.read()
        except StateFileError as error:
            self._unread = str(error)
            self.log.warn("--state-file {path}: {error}; it is not used", path=self._file.path, error=error)
        if rows:
            self.log.info("{number} back-end(s) known from {path}", number=len(rows), path=self._file.path)
        self._restoring = Restoring(rows, self._pool, self._source, self._clock, self._turns)

    def start(self) -> None:
        """Have its rows checked, and keep it up to date from now on. Once the sources' ports are open."""
        self._restoring.start()
        self._wait(KEEP_S)

    def stop(self) -> Deferred[None]:
        """Write once more if anything has changed. Fires when that is done, after `STOP_S` at the latest."""
        self._restoring.stop()
        stopped = self._stopped = Deferred()
        patience = self._clock.callLater(STOP_S, self._end)
        stopped.addCallback(lambda _: patience.cancel() if patience.active() else None)
        if self._call is not None:
            self._call.cancel()
            self._look()
        return stopped  # otherwise one look is going on, and another follows it

    def _end(self) -> None:
        assert self._stopped is not None
        if not self._stopped.called:
            self._stopped.callback(None)

    def _wait(self, seconds: float) -> None:
        self._call = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._call = None
        self._is_last = self._stopped is not None
        self._go_on(self._pass())

    def _go_on(self, steps: Iterator[None]) -> None:
        try:
            if next(steps, steps) is None:
                self._turns.add(lambda: self._go_on(steps))
        except Exception:
            self.log.failure("--state-file {path}", path=self._file.path)
            self._rest(RETRY_S)

    def _rest(self, seconds: float) -> None:
        """Until the next look; on stopping, none comes after the last one."""
        if self._stopped is None:
            self._wait(seconds)
        elif self._is_last:
            self._end()
        else:
            self._look()

    def _pass(self) -> Iterator[None]:
        """Compare the pool with what was written, and write it if it has changed. Makes no garbage where it has not."""
        seen = self._seen
        kept: dict[Backend, Registration] = {}
        changed = self._written is None or len(self._restoring.left) != self._left
        for number, backend in enumerate(list(self._pool)):
            if number and number % LOOKED_AT == 0:
                yield
            if is_kept(backend):
                registration = kept[backend] = backend.registration
                before = seen.get(backend)
                changed = changed or (before is not registration and before != registration)
        if changed or len(kept) != len(seen):
            yield from self._rewrite(kept)
        else:
            self._rest(KEEP_S)

    def _rewrite(self, kept: Mapping[Backend, Registration]) -> Iterator[None]:
        rows, strangers = dict(self._restoring.left), set(self._strangers())
        left = len(rows)
        for number, (backend, registration) in enumerate(kept.items()):
            if number and number % LOOKED_AT == 0:
                yield
            address = (backend.address, backend.port)
            if address not in strangers:
                rows[address] = registration
        pieces = []
        if rows != self._written:
            for piece in encoded(rows, ENCODED):
                pieces.append(piece)
                yield

        def done(failure: str) -> None:
            if not failure:
                self._written, self._seen, self._left = rows, kept, left
            self._tell(failure)
            self._rest(RETRY_S if failure else KEEP_S)

        if pieces:
            self._in_background(lambda: self._write(pieces), done)
        else:
            done("")

    def _write(self, pieces: Sequence[bytes]) -> str:
        """What is wrong, nothing if it was written."""
        try:
            self._file.write(pieces)
        except StateFileError as error:
            return str(error)
        return ""

    def _tell(self, failure: str) -> None:
        if failure and failure not in (self._failure, self._unread):
            self.log.warn("--state-file {path}: {error}; back-ends are not kept", path=self._file.path, error=failure)
        elif self._failure and not failure:
            self.log.info("--state-file {path}: back-ends are kept again", path=self._file.path)
        self._failure = failure
