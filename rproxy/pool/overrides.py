"""What operators say of back-ends: it lasts until they say otherwise, whatever becomes of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.events import NOTHING, Administered, Events, Weighed
from rproxy.pool.rows import Rows
from rproxy.pool.states import NO_WORD, Administration, State, Word
from rproxy.pool.static_rows import drains

WORDS_MAX: Final = 16384
"""Beyond, the oldest word of a back-end that has no row is dropped, if there is one."""


@attrs.define(eq=False)
class Words:
    """What operators say of each back-end, by address and service port, whether it has a row or not.

    Both callables are the pool's: `_reported` tells the policy that a back-end has changed, and `_propagate` adds to
    events those that they cause.
    """

    _rows: Rows
    _propagate: Callable[[Events, float], Events]
    _reported: Callable[[Backend, float], Events]
    changes: int = attrs.field(init=False, default=0)
    """How often anything has been said."""

    def __iter__(self) -> Iterator[Address]:
        """The back-ends of which an operator says anything, in the order of their last changes, the oldest first."""
        return iter(self._rows.words)

    def __contains__(self, key: Address) -> bool:
        return key in self._rows.words

    def __len__(self) -> int:
        return len(self._rows.words)

    def of(self, key: Address) -> Word:
        """What an operator says of a back-end; `NO_WORD` if nothing."""
        return self._rows.words.get(key, NO_WORD)

    def administer(self, key: Address, administration: Administration, now: float, unix_time: float = 0.0) -> Events:
        """An operator drains a back-end, or returns it to service; `unix_time` is now, in s.

        After `MAINT`, one that is up starts slowly: it may have been started again. After `DRAIN` it does not.
        """
        word = self.of(key)
        if word.administration is not administration:
            since = 0.0 if administration is Administration.READY else unix_time
            word = attrs.evolve(word, administration=administration, since=since)
        return self._say(key, word, now, Administered)

    def weigh(self, key: Address, weight: int | None, now: float) -> Events:
        """An operator gives a back-end a weight, or, with None, its own one again."""
        return self._say(key, attrs.evolve(self.of(key), weight=weight), now, Weighed)

    def put(self, key: Address, word: Word, now: float) -> Events:
        """Restore a word: from the state file, or from the service that had the back-end before."""
        before = self.of(key)
        kinds: list[type[Administered | Weighed]] = []
        if word.administration is not before.administration:
            kinds.append(Administered)
        if word.weight != before.weight:
            kinds.append(Weighed)
        return self._say(key, word, now, *kinds)

    def _say(self, key: Address, word: Word, now: float, *kinds: type[Administered | Weighed]) -> Events:
        """Replace what an operator says of a back-end. Without a row there are no events."""
        words, backend = self._rows.words, self._rows.get(key)
        self.changes += 1
        words.pop(key, None)
        if word != NO_WORD:
            self._make_room()
            words[key] = word
        if backend is None:
            return NOTHING
        before, backend.word = backend.word.administration, word
        if backend.static is not None and backend.state is not State.DEPARTED:
            backend.draining = drains(backend.static, word)
        if before is Administration.MAINT and word.administration is not before and backend.is_up:
            self._rows.start_slowly(backend, now)
        events: Events = tuple(
            Administered(backend, word.administration) if kind is Administered else Weighed(backend, word.weight)
            for kind in kinds
        )
        return self._propagate(events + self._rows.update(backend) + self._reported(backend, now), now)

    def _make_room(self) -> None:
        words = self._rows.words
        absent = (key for key in words if self._rows.get(key) is None)
        if len(words) >= WORDS_MAX and (oldest := next(absent, None)) is not None:
            del words[oldest]
