"""The echo: each proxy learns from an agent how many sessions the others have on its service (rule 8 of the protocol).

Pure: times are seconds from any monotonic origin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.wire.pdu import COUNT_MAX, UINT32_MAX, ProbeRequest

FORGET_S: Final = 12.0
"""A count no longer matters when it is this old."""
SWITCH_MAX: Final = 8
"""Two addresses are one proxy's if the numbers of their probes follow on from each other, with fewer than this lost."""


@attrs.define
class _Said:
    """The last probe from one address: its count of sessions (None: not said), its sequence number, its time."""

    sessions: int | None
    sequence: int
    at: float


class Echo:
    """What each of an agent's proxies said last of its own sessions.

    A proxy is an address, from which its probes come. That a proxy has moved to another one shows in either of two
    ways. No `--proxy` stands for its former address any longer: its name has changed, or it probes from another of the
    name's addresses. Or the numbers of its probes go on at the new address: two `--proxy` are the same process, which
    numbers the probes of a back-end in one sequence, wherever they leave from. A proxy that is restarted at another
    address, which has neither, counts twice for up to `FORGET_S`.
    """

    def __init__(self, present: Callable[[], Collection[Address | None]]) -> None:
        """`present` returns the addresses that the agent's proxies have now."""
        self._present = present
        self._said: dict[Address, _Said] = {}

    def heard(self, source: Address, probe: ProbeRequest, now: float) -> None:
        """A proxy has probed. To be called only for a probe that has passed every check."""
        said = self._said.get(source)
        if said is None:
            self._retain()
            self._said[source] = _Said(probe.sessions, probe.sequence, now)
            self._drop_former(probe.sequence, SWITCH_MAX + 1)
            return
        gap = (probe.sequence - said.sequence) & UINT32_MAX
        said.sessions, said.sequence, said.at = probe.sessions, probe.sequence, now
        if 1 < gap <= UINT32_MAX // 2:
            self._drop_former(probe.sequence, min(gap, SWITCH_MAX + 1))

    def _retain(self) -> None:
        """Only the proxies' present addresses count."""
        present = self._present()
        self._said = {address: said for address, said in self._said.items() if address in present}

    def _drop_former(self, sequence: int, gap: int) -> None:
        """Drop the addresses whose last number is in the gap before this one. A proxy of its own soon says it again."""
        for address, said in list(self._said.items()):
            if 0 < (sequence - said.sequence) & UINT32_MAX < gap:
                del self._said[address]

    def others(self, source: Address, now: float) -> int | None:
        """The sessions of all proxies but the one at `source`, at most `COUNT_MAX`; None if no other one said any."""
        total: int | None = None
        for address, said in self._said.items():
            if address != source and said.sessions is not None and now - said.at < FORGET_S:
                total = said.sessions + (total or 0)
        return total if total is None or total <= COUNT_MAX else COUNT_MAX
