"""Totals of the monitoring protocol's datagrams, of all services together."""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs

PERIODIC: Final = "periodic"
REGISTRATION: Final = "registration"
ON_DEMAND: Final = "on_demand"
HELD_BACK: Final = "held_back"
"""Counters of probes, by what they were sent for, and of the times when the budget of those on demand was spent."""


@attrs.frozen
class Counters:
    """Datagrams accepted by type, dropped by reason, those that could not be sent, and probes by what caused them."""

    accepted: Counter[str] = attrs.Factory(Counter)
    dropped: Counter[str] = attrs.Factory(Counter)
    send_errors: Counter[str] = attrs.Factory(Counter)
    probes: Counter[str] = attrs.Factory(
        lambda: Counter(dict.fromkeys((PERIODIC, REGISTRATION, ON_DEMAND, HELD_BACK), 0))
    )
