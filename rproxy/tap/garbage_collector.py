"""Python's garbage collector for a process with large tables, in which every collection delays all sessions.

A collection takes 0.1 to 0.5 µs for each object that it looks at. Python's own looks at all old objects whenever a
quarter more have become old, ended sessions included: 40 ms and more in a proxy with 10,000 back-ends. Here an object
that has survived two collections is not looked at again until there are twice as many as the last time, and
`FREE_OBJECTS` more at least; modules and what else is there at the start do not count. Reference counts free the others
all the same. Only old objects in reference cycles wait until then, and the proxy breaks those of its own.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

YOUNG: Final = 2000
"""More new objects than have been freed, in which case those are looked at."""
MIDDLE: Final = 2
"""So many times before those that have survived are looked at once more."""
NEVER: Final = 1 << 30
FREE_OBJECTS: Final = 500_000
"""Old objects that are never looked at, at least: some 100 MB, twice what 10,000 back-ends have."""
_OLD_AT_ONCE: Final = YOUNG * (MIDDLE + 2)
"""About as many become old in one collection, at most."""


class GarbageCollector:
    """Has Python's collector, which is the whole process', look at young objects often and at old ones seldom."""

    def __init__(self, clock: IReactorTime, free_objects: int = FREE_OBJECTS) -> None:
        """Changes nothing."""
        self._clock = clock
        self._free_objects = free_objects
        self._at_start = 0
        """Old objects there were."""
        self._limit = self._room = 0
        """How many old objects there may be before all are looked at, and how many more may become old before that."""
        self._due: IDelayedCall | None = None

    def start(self) -> None:
        """From now on. What there is now, such as all modules, is old."""
        gc.collect()
        gc.freeze()
        self._at_start = gc.get_freeze_count()
        self._limit, self._room = self._at_start + self._free_objects, self._free_objects
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        gc.callbacks.append(self._collected)

    def stop(self) -> None:
        """Have the collector do nothing more than Python's own. May be called twice, and before `start`."""
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _collected(self, phase: str, info: Mapping[str, Any]) -> None:
        """As `gc.callbacks` has it: what has survived is old. A collection within this call is not possible."""
        if phase == "stop" and info["generation"] == 1:
            gc.freeze()
            self._room -= _OLD_AT_ONCE
            if self._room <= 0 and self._due is None:
                self._due = self._clock.callLater(0, self._look)

    def _look(self) -> None:
        """Look at old objects if there are too many: most of those that have become old may have been freed."""
        self._due = None
        self._room = self._limit - gc.get_freeze_count()
        if self._room > 0:
            return
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        old = gc.get_freeze_count()
        self._room = max(old - self._at_start, self._free_objects)
        self._limit = old + self._room
