"""Detects replayed probes: a replayed probe must not make an agent believe that its proxy is alive."""

from __future__ import annotations

from typing import Final

_BITS: Final = 1 << 22
"""Size of each of the filter's two halves for each proxy: half a megabyte. A token sets three bits."""
TOKENS: Final = _BITS // 16
"""Capacity of a half for each proxy: 15 days of probes every 5 s, 7 hours of ten a second. At most 1 % of new tokens,
which are random, are mistaken for old ones.
"""
RESTART_NUMBERS: Final = 16
"""Lower sequence numbers than this may be those of a restarted proxy, however high the previous ones were."""
REORDER_MAX: Final = 8
"""How far a sequence number may be behind the highest one: UDP does not keep datagrams in order."""
_SEQUENCE_NUMBERS: Final = 1 << 32
_WORD: Final = (1 << 32) - 1


class TokenFilter:
    """The tokens of all probes, whichever proxy they came from.

    A Bloom filter that remembers at least the last `TOKENS` for each proxy, and at most twice as many. When the newer
    half is full, it replaces the older one.
    """

    def __init__(self, proxies: int = 1) -> None:
        self._bits = _BITS * proxies
        self._tokens = TOKENS * proxies
        self._new = bytearray(self._bits // 8)
        self._old = bytearray()
        self._count = 0
        """Tokens in the newer half."""

    def add(self, token: int) -> bool:
        """Remember a 64-bit `token`. Returns whether it is new; false positives are possible, false negatives not."""
        low, high = token & _WORD, token >> 32
        positions = [low % self._bits, (low + high) % self._bits, (low + 2 * high) % self._bits]
        if _has_all(self._new, positions) or (self._old and _has_all(self._old, positions)):
            return False
        if self._count == self._tokens:
            self._new, self._old, self._count = bytearray(self._bits // 8), self._new, 0
        for position in positions:
            self._new[position >> 3] |= 1 << (position & 7)
        self._count += 1
        return True


def _has_all(half: bytearray, positions: list[int]) -> bool:
    return all(half[position >> 3] >> (position & 7) & 1 for position in positions)


class SequenceGuard:
    """The sequence numbers of one proxy's probes whose tokens are new.

    A number is accepted if it continues from the highest one, or is one that a proxy starts with. So probes recorded
    before the proxy's last restart are refused by their tokens, as long as these are remembered; those recorded since
    then, by their sequence numbers as well. After a silence, in which the first probes of a restarted proxy may have
    been lost, only tokens count.
    """

    def __init__(self) -> None:
        self._highest: int | None = None
        """The highest sequence number, modulo 2^32; None while any is accepted."""

    def accept(self, sequence: int) -> bool:
        """Whether a probe with this number is new."""
        if self._highest is None:
            self._highest = sequence
            return True
        behind = (self._highest - sequence) % _SEQUENCE_NUMBERS
        if behind <= REORDER_MAX:
            return True
        if behind < _SEQUENCE_NUMBERS // 2 and sequence >= RESTART_NUMBERS:
            return False
        self._highest = sequence
        return True

    def forget(self) -> None:
        """Accept any number next: the proxy has been silent, and may have restarted meanwhile."""
        self._highest = None
