"""Whether a probe is one that nobody has sent before. Who repeats an old one must not pass for a proxy that lives."""

from __future__ import annotations

from typing import Final

_BITS: Final = 1 << 22
"""Of each half of the memory, half a megabyte. A token, random as it is, sets three of them."""
TOKENS: Final = _BITS // 16
"""How many a half takes: two weeks of probes every 5 s. A new token is mistaken for an old one in 1 % at most."""
STARTS: Final = 16
"""Sequence numbers below this may be those of a proxy that has been started again, though they were higher before."""
LATE: Final = 8
"""By so much a sequence number may be behind: datagrams overtake each other."""
_NUMBERS: Final = 1 << 32


class TokenMemory:
    """Remembers the last `TOKENS` tokens at least, and at most twice as many: a Bloom filter of two halves."""

    def __init__(self) -> None:
        self._new = bytearray(_BITS // 8)
        self._old = bytearray()
        self._count = 0

    def add(self, token: int) -> bool:
        """Whether it had not been there."""
        places = [(token >> shift) % _BITS for shift in (0, 21, 42)]
        if _has_all(self._new, places) or (self._old and _has_all(self._old, places)):
            return False
        if self._count == TOKENS:
            self._new, self._old, self._count = bytearray(_BITS // 8), self._new, 0
        for place in places:
            self._new[place >> 3] |= 1 << (place & 7)
        self._count += 1
        return True


def _has_all(half: bytearray, places: list[int]) -> bool:
    return all(half[place >> 3] >> (place & 7) & 1 for place in places)


class Freshness:
    """What has been heard of one proxy.

    A probe is fresh if its token has not been seen, and its sequence number goes on from the highest one or is that of
    a beginning. What was recorded in an earlier life of the proxy fails by its tokens, for as long as these are
    remembered; what was recorded in the present one fails by its numbers, too. After a silence, when the proxy's
    beginning may have been missed, only tokens count.
    """

    def __init__(self) -> None:
        self._tokens = TokenMemory()
        self._highest: int | None = None

    def take(self, sequence: int, token: int) -> bool:
        """Whether a probe is fresh; it is not any more the next time."""
        if not self._tokens.add(token):
            return False
        if self._highest is None:
            self._highest = sequence
            return True
        behind = (self._highest - sequence) % _NUMBERS
        if 0 <= behind <= LATE:
            return True
        if behind < _NUMBERS // 2 and sequence >= STARTS:
            return False
        self._highest = sequence
        return True

    def fell_silent(self) -> None:
        """The proxy may have been started again, long since."""
        self._highest = None
