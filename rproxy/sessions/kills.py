"""Ends sessions because an operator says so, a few in each turn of the reactor."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeVar

import attrs
from twisted.internet.defer import Deferred

from rproxy.pool.backend import Backend
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Slices
from rproxy.timing.work_queue import WorkQueue

AT_ONCE: Final = 16
"""Most sessions cut in one turn of the reactor: about a millisecond of work."""

_Result = TypeVar("_Result")
_Steps = Generator[None, None, _Result]
"""Does the work of one turn before each yield; returns the result."""


@attrs.frozen
class Found:
    """To which service and back-end the session belonged that was cut."""

    service: str
    backend: str
    """Its name; empty if the session had none."""


class Kills:
    """Cuts sessions as `Ending.KILLED`, of those that `slices` lists: all, in every phase."""

    def __init__(self, slices: Slices, turns: WorkQueue) -> None:
        self._slices = slices
        self._turns = turns

    def one(self, number: int) -> Deferred[Found | None]:
        """Cut the session of that number. Fires with whose it was; with None if there is no such session."""
        return self._begin(self._cut_one(number))

    def all_of(self, backend: Backend) -> Deferred[int]:
        """Cut the sessions that a back-end has now. Fires with how many there were, once they have ended."""
        return self._begin(self._cut_all(backend))

    def _begin(self, steps: _Steps[_Result]) -> Deferred[_Result]:
        result: Deferred[_Result] = Deferred()
        self._turns.add(lambda: self._step(steps, result))
        return result

    def _step(self, steps: _Steps[_Result], result: Deferred[_Result]) -> None:
        try:
            next(steps)
        except StopIteration as end:
            result.callback(end.value)
        except Exception:
            result.errback()
        else:
            self._turns.add(lambda: self._step(steps, result))

    def _cut_one(self, number: int) -> _Steps[Found | None]:
        for sessions in self._slices():
            for session in sessions:
                if session.id == number:
                    backend = session.backend
                    session.link.cut(Ending.KILLED)
                    return Found(session.service.name, "" if backend is None else backend.name)
            yield
        return None

    def _cut_all(self, backend: Backend) -> _Steps[int]:
        found: list[Session] = []
        for sessions in self._slices():
            found += [session for session in sessions if session.backend is backend]
            yield
        cut = 0
        while found:
            few, found = found[:AT_ONCE], found[AT_ONCE:]
            for session in few:
                if session.backend is backend:  # it has not ended meanwhile
                    session.link.cut(Ending.KILLED)
                    cut += 1
            yield
        return cut
