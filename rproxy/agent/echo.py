"""The echo: an agent tells each of its proxies how many sessions the others have on its service (protocol, rule 8).

Pure: times are seconds from any monotonic origin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import attrs

from rproxy.net.addresses import Address
from rproxy.wire.pdu import COUNT_MAX, UINT32_MAX, ProbeRequest

FORGET_S: Final = 12.0
"""A count is forgotten at this age."""
SWITCH_MAX: Final = 8
"""Two addresses are taken for one proxy if one continues the other's sequence numbers, with fewer than this lost."""


@attrs.define
class _LastProbe:
    """The last probe from one address. `sessions` is None if it bore no count."""

    sessions: int | None
    sequence: int
    at: float


class Echo:
    """The sessions that each of an agent's proxies last reported as its own.

    A proxy is identified by the address that its probes come from. Two things show that a proxy now uses another
    address, and its former count is dropped:

    - No `--proxy` has the former address any longer: the name resolves to another one, or the proxy probes from another
      of the name's addresses.
    - The sequence numbers continue at the new address: two `--proxy` are the same process, which numbers all probes of
      a back-end in one sequence, whichever address they leave from.

    A proxy that restarts at another address shows neither, and counts twice for up to `FORGET_S`.
    """

    def __init__(self, present: Callable[[], Collection[Address | None]]) -> None:
        """`present` returns the addresses that the agent's proxies have now."""
        self._present = present
        self._last: dict[Address, _LastProbe] = {}

    def record(self, source: Address, probe: ProbeRequest, now: float) -> None:
        """Remember the count in a probe. To be called only for probes that have passed every check."""
        last = self._last.get(source)
        if last is None:
            self._drop_absent()
            self._last[source] = _LastProbe(probe.sessions, probe.sequence, now)
            self._drop_former(probe.sequence, SWITCH_MAX + 1)
            return
        gap = (probe.sequence - last.sequence) & UINT32_MAX
        last.sessions, last.sequence, last.at = probe.sessions, probe.sequence, now
        if 1 < gap <= UINT32_MAX // 2:
            self._drop_former(probe.sequence, min(gap, SWITCH_MAX + 1))

    def _drop_absent(self) -> None:
        """Drop addresses that no proxy has now."""
        present = self._present()
        self._last = {address: last for address, last in self._last.items() if address in present}

    def _drop_former(self, sequence: int, gap: int) -> None:
        """Drop addresses whose last number is less than `gap` behind `sequence`: the same proxy's, most likely.

        Another proxy that happens to be at such a number counts again from its next probe on.
        """
        for address, last in list(self._last.items()):
            if 0 < (sequence - last.sequence) & UINT32_MAX < gap:
                del self._last[address]

    def heard(self, now: float) -> dict[Address, tuple[float, int | None]]:
        """When each proxy that has not been silent for `FORGET_S` last probed, and the count that it gave."""
        return {address: (last.at, last.sessions) for address, last in self._last.items() if now - last.at < FORGET_S}

    def others(self, source: Address, now: float) -> int | None:
        """The sessions of all proxies but the one at `source`, at most `COUNT_MAX`; None if no other reported any."""
        total: int | None = None
        for address, last in self._last.items():
            if address != source and last.sessions is not None and now - last.at < FORGET_S:
                total = last.sessions + (total or 0)
        return total if total is None or total <= COUNT_MAX else COUNT_MAX
