"""Keeps the pools' rows, and operators' overrides, in a file while the proxy runs; restores both when it starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.pool import Pool
from rproxy.sources.saved.overrides import SavedOverrides, described
from rproxy.sources.saved.rows import Rows, Saved, encoded, is_kept
from rproxy.sources.saved.state_file import TAKEN_OVER, StateFile, StateFileError
from rproxy.sources.source import Source
from rproxy.timing.background import InBackground
from rproxy.timing.work_queue import WorkQueue

WRITE_EVERY_S: Final = 1.0
"""Changes are written this often: those of the last second before a crash are lost."""
RETRY_S: Final = 10.0
"""Time until the next try after a write that failed."""
STOP_S: Final = 2.0
"""How long the last write may take, on stopping."""
COMPARED_PER_TURN: Final = 500
ENCODED_PER_TURN: Final = 50
RESTORED_PER_TURN: Final = 10
"""Rows handled in one turn of the reactor: some tenths of a millisecond."""
NAMED_MAX: Final = 8
"""Back-ends that one line names."""
TRIES: Final = 3
TRY_AGAIN_S: Final = 0.25
"""Time from a probe's timeout to the next probe: in a burst of probes, some may be lost."""


class Restoring:
    """Restores rows through a source, with up to `TRIES` probes each; a row without an answer is dropped."""

    def __init__(self, rows: Rows, source: Source, clock: IReactorTime, turns: WorkQueue) -> None:
        self.left = dict(rows)
        """Rows that have neither answered nor been dropped."""
        self._source = source
        self._clock = clock
        self._turns = turns
        self._tries = dict.fromkeys(rows, TRIES)
        self._call: IDelayedCall | None = None
        self._stopped = False

    def start(self) -> None:
        """Check the rows that are left, repeatedly until none is."""
        self._call = None
        self._step(self._round())

    def stop(self) -> None:
        """Drop the rows that are left. May be called without `start`, and twice."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _step(self, steps: Iterator[None]) -> None:
        if self._stopped:
            return
        if next(steps, steps) is None:
            self._turns.add(lambda: self._step(steps))
        elif self.left:
            self._call = self._clock.callLater(self._source.timeout_s + TRY_AGAIN_S, self.start)

    def _round(self) -> Iterator[None]:
        """Try each unconfirmed row once more. Others may have registered under its address."""
        for number, (address, registration) in enumerate(list(self.left.items())):
            if number and number % RESTORED_PER_TURN == 0:
                yield
            source, port = self._source, address[1]
            if source.is_restoring(registration, port):
                continue
            if self._tries[address] and source.is_unconfirmed(registration, port):
                self._tries[address] -= 1
                source.restore([(registration, port)])
            else:
                del self.left[address]


class Keeper:
    """Writes the rows of all `pools` into `file`, at most every `WRITE_EVERY_S` seconds if they change.

    A back-end of several pools is one row. Those of `unsaved` are left out. Overrides are kept by pool, which
    are by their services' names.
    """

    log = Logger()

    def __init__(
        self,
        file: StateFile,
        pools: Callable[[], Mapping[str, Pool]],
        source: Source,
        clock: IReactorTime,
        turns: WorkQueue,
        in_background: InBackground[str],
        unsaved: Callable[[], Collection[Address]] = lambda: (),
    ) -> None:
        self._file = file
        self._pools = pools
        self._source = source
        self._clock = clock
        self._turns = turns
        self._in_background = in_background
        self._unsaved = unsaved
        self._restoring = Restoring({}, source, clock, turns)
        self._written: Saved | None = None
        """What is in the file, None if unknown."""
        self._kept: Mapping[Backend, Registration] = {}
        """The pool's rows as of the last write."""
        self._said: Mapping[str, int] = {}
        """How often operators had said anything, by service, as of the last write."""
        self._left = 0
        """Rows of the previous run that were neither confirmed nor dropped at the last write."""
        self._unread = self._failure = ""
        """Why the file could not be read, and why the last write failed."""
        self._call: IDelayedCall | None = None
        self._to_save: list[Deferred[None]] = []
        """What fires after the next pass."""
        self._saving: list[Deferred[None]] = []
        """What fires after the current pass."""
        self._stopped: Deferred[None] | None = None
        self._is_last = False
        """Whether the current pass began after `stop` was called."""
        self.taken_over = False
        """Whether another process writes the file now, and this one no more."""

    def load(self) -> None:
        """Read the file, which blocks: call it before the reactor runs."""
        saved = Saved()
        try:
            saved = self._file.read()
            self._written = saved
        except StateFileError as error:
            self._unread = str(error)
            self.log.warn("--state-file {path}: {error}; it is not used", path=self._file.path, error=error)
        if saved.rows:
            self.log.info("{number} back-end(s) known from {path}", number=len(saved.rows), path=self._file.path)
        self._restore_overrides(saved.overrides)
        self._restoring = Restoring(saved.rows, self._source, self._clock, self._turns)

    def _restore_overrides(self, overrides: SavedOverrides) -> None:
        """Have overrides hold before any back-end gets clients."""
        pools, now = self._pools(), self._clock.seconds()
        held = {where: override for where, override in overrides.items() if where[0] in pools}
        for (service, key), override in held.items():
            pools[service].overrides.put(key, override, now)
        if held:
            named = [described(service, key, override) for (service, key), override in islice(held.items(), NAMED_MAX)]
            more = f" and {len(held) - len(named)} more" if len(held) > len(named) else ""
            self.log.info(
                "in force as before, by an operator: {overrides}{more}", overrides=", ".join(named), more=more
            )

    def start(self) -> None:
        """Restore the file's rows, and keep the file up to date. Call it once the sources' ports are open."""
        self._restoring.start()
        self._schedule(WRITE_EVERY_S)

    def save(self) -> Deferred[None]:
        """Write at once what has changed. Fires when that is done, or has failed, which is logged."""
        saved: Deferred[None] = Deferred()
        if self.taken_over or self._stopped is not None:
            saved.callback(None)
            return saved
        self._to_save.append(saved)
        if self._call is not None:
            self._call.cancel()
            self._begin_pass()
        return saved  # otherwise a pass is running, and another follows it

    def stop(self) -> Deferred[None]:
        """Write once more if anything has changed. Fires when that is done, after `STOP_S` at the latest."""
        self._restoring.stop()
        stopped = self._stopped = Deferred()
        deadline = self._clock.callLater(STOP_S, self._end)
        stopped.addCallback(lambda _: deadline.cancel() if deadline.active() else None)
        if self.taken_over:
            self._end()
        elif self._call is not None:
            self._call.cancel()
            self._begin_pass()
        return stopped  # otherwise a pass is running, and another follows it

    def _end(self) -> None:
        assert self._stopped is not None
        if not self._stopped.called:
            self._stopped.callback(None)

    def _schedule(self, seconds: float) -> None:
        self._call = self._clock.callLater(seconds, self._begin_pass)

    def _begin_pass(self) -> None:
        self._call = None
        self._is_last = self._stopped is not None
        self._saving, self._to_save = self._to_save, []
        self._step(self._pass())

    def _step(self, steps: Iterator[None]) -> None:
        try:
            if next(steps, steps) is None:
                self._turns.add(lambda: self._step(steps))
        except Exception:
            self.log.failure("--state-file {path}", path=self._file.path)
            self._end_pass(RETRY_S)

    def _end_pass(self, seconds: float) -> None:
        """Begin the next pass, or schedule it: no more if it was taken over, or this was the last one on stopping."""
        saving, self._saving = self._saving, []
        for saved in saving:
            saved.callback(None)
        if self.taken_over or self._is_last:
            self._to_save, left = [], self._to_save
            for saved in left:
                saved.callback(None)
            if self._stopped is not None:
                self._end()
        elif self._stopped is not None or self._to_save:
            self._begin_pass()
        else:
            self._schedule(seconds)

    def _pass(self) -> Iterator[None]:
        """Write what there is if it differs from what was last written. Allocates little if nothing changed."""
        seen, pools = self._kept, self._pools()
        said = {name: pool.overrides.changes for name, pool in pools.items()}
        kept: dict[Backend, Registration] = {}
        changed = self._written is None or len(self._restoring.left) != self._left or said != self._said
        for number, backend in enumerate(list(chain.from_iterable(pools.values()))):
            if number and number % COMPARED_PER_TURN == 0:
                yield
            if is_kept(backend):
                registration = kept[backend] = backend.registration
                before = seen.get(backend)
                changed = changed or (before is not registration and before != registration)
        if changed or len(kept) != len(seen):
            yield from self._rewrite(kept, said)
        else:
            self._end_pass(WRITE_EVERY_S)

    def _rewrite(self, kept: Mapping[Backend, Registration], said: Mapping[str, int]) -> Iterator[None]:
        rows, unsaved = dict(self._restoring.left), set(self._unsaved())
        left = len(rows)
        for number, (backend, registration) in enumerate(kept.items()):
            if number and number % COMPARED_PER_TURN == 0:
                yield
            address = (backend.address, backend.port)
            if address not in unsaved:
                rows[address] = registration
        pools = self._pools().items()
        overrides = {(name, key): pool.overrides.of(key) for name, pool in pools for key in pool.overrides}
        saved = Saved(rows, overrides)
        pieces = []
        if saved != self._written:
            for piece in encoded(saved, ENCODED_PER_TURN):
                pieces.append(piece)
                yield

        def done(failure: str) -> None:
            if not failure:
                self._written, self._kept, self._said, self._left = saved, kept, said, left
            self.taken_over = failure == TAKEN_OVER
            self._log_outcome(failure)
            self._end_pass(RETRY_S if failure else WRITE_EVERY_S)

        if pieces:
            self._in_background(lambda: self._write(pieces), done)
        else:
            done("")

    def _write(self, pieces: Sequence[bytes]) -> str:
        """Returns the error, empty if it was written."""
        try:
            self._file.write(pieces)
        except StateFileError as error:
            return str(error)
        return ""

    def _log_outcome(self, failure: str) -> None:
        if self.taken_over:
            self.log.info("--state-file {path}: {error}", path=self._file.path, error=failure)
        elif failure and failure not in (self._failure, self._unread):
            self.log.warn("--state-file {path}: {error}; back-ends are not kept", path=self._file.path, error=failure)
        elif self._failure and not failure:
            self.log.info("--state-file {path}: back-ends are kept again", path=self._file.path)
        self._failure = failure
