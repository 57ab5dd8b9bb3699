"""Runs many worlds, several at once in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from signal import SIG_IGN, SIGINT, signal
from typing import cast

import attrs
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from rproxy.study.policies import Choice
from rproxy.study.scenarios import Scenario
from rproxy.study.world import PolicyFailed, Result, World


@attrs.frozen
class Run:
    """A scenario under a policy with one seed. `scenario` and `policy` are their names as the table shows them."""

    scenario: str
    policy: str
    seed: int
    world: Scenario
    choice: Choice


class RunFailed(Exception):
    """A run did not end. The text is one line."""


@implementer(ILogObserver)
class _Failures:
    """Keeps the first exception that the program's parts have logged and gone on from: a study must not."""

    def __init__(self) -> None:
        self.first: BaseException | None = None

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_level") is LogLevel.critical and self.first is None:
            failure = event.get("log_failure")
            self.first = RuntimeError(str(event.get("log_format"))) if failure is None else failure.value


def execute(run: Run) -> Result:
    """Run it in this process. Raises `RunFailed`."""
    failures = _Failures()
    globalLogPublisher.addObserver(failures)
    try:
        result = World(run.world, run.choice.maker(run.world), run.seed).run()
    except PolicyFailed as error:
        raise RunFailed(f"{_name(run)}: the policy failed: {error}") from error
    finally:
        globalLogPublisher.removeObserver(failures)
    if failures.first is not None:
        raise RunFailed(f"{_name(run)}: {type(failures.first).__name__}: {failures.first}") from failures.first
    return result


def _name(run: Run) -> str:
    return f"{run.scenario} under {run.policy}, seed {run.seed}"


def execute_all(
    runs: Sequence[Run], workers: int, execute: Callable[[Run], Result] = execute
) -> Iterator[tuple[Run, Result]]:
    """Every run with its result, in their order, as they end. Raises `RunFailed`."""
    if workers == 1 or len(runs) < 2:
        for run in runs:
            yield run, execute(run)
        return
    crew = [_Worker(execute) for _ in range(min(workers, len(runs)))]
    try:
        yield from zip(runs, _results(runs, crew), strict=True)
    finally:
        for worker in crew:
            worker.stop()


def _results(runs: Sequence[Run], crew: Sequence[_Worker]) -> Iterator[Result]:
    """The results in the order of the runs. A worker that has ended its run gets the next one at once."""
    waiting = iter(enumerate(runs))
    found: dict[int, Result] = {}
    busy: dict[Connection, tuple[int, _Worker]] = {}

    def start(worker: _Worker) -> None:
        number, run = next(waiting, (None, None))
        if number is not None and run is not None:
            worker.start(run)
            busy[worker.pipe] = number, worker

    for worker in crew:
        start(worker)
    for number in range(len(runs)):
        while number not in found:
            for pipe in wait(list(busy)):
                ended, worker = busy.pop(cast(Connection, pipe))
                found[ended] = worker.result()
                start(worker)
        yield found.pop(number)


class _Worker:
    """A process that executes one run after the other.

    `concurrent.futures` has such workers, but waits for ever on some versions of Python if one of them dies while
    further runs are on their way to it.
    """

    def __init__(self, execute: Callable[[Run], Result]) -> None:
        context = get_context("spawn")  # a fork of a process that has threads may hang
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, execute), daemon=True)
        self._process.start()
        theirs.close()  # the process alone holds it: its death is the end of the pipe

    def start(self, run: Run) -> None:
        """Begin with a run. Raises `RunFailed`."""
        try:
            self.pipe.send(run)
        except OSError:
            raise _died() from None

    def result(self) -> Result:
        """Wait for the run's result. Raises `RunFailed`."""
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            raise _died() from None
        if isinstance(found, RunFailed):
            raise found
        return cast(Result, found)

    def stop(self) -> None:
        """End the process, also in the middle of a run: they can take minutes."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _died() -> RunFailed:
    return RunFailed("a worker process has died; has it run out of memory? try fewer --workers")


def _work(pipe: Connection, execute: Callable[[Run], Result]) -> None:
    """The life of a worker's process."""
    signal(SIGINT, SIG_IGN)  # Ctrl-C reaches every process of the terminal; the study's own ends the workers
    while True:
        try:
            run = pipe.recv()
        except EOFError:  # the study's process has ended
            return
        try:
            found: Result | RunFailed = execute(run)
        except RunFailed as error:
            found = error
        except Exception as error:
            found = RunFailed(f"{_name(run)}: {type(error).__name__}: {error}")
        pipe.send(found)
