"""Runs many worlds, several at once in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context

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
    others = set(active_children())
    # Not forked: beside other threads that may hang, and a worker's end goes unnoticed.
    executor = ProcessPoolExecutor(min(workers, len(runs)), mp_context=get_context("spawn"))
    try:
        yield from zip(runs, executor.map(execute, runs), strict=True)
    except BrokenProcessPool:
        raise RunFailed("a worker process has died; has it run out of memory? try fewer --workers") from None
    finally:
        for worker in set(active_children()) - others:  # idle, unless the study ends early: runs can take minutes
            worker.terminate()
        executor.shutdown(cancel_futures=True)
