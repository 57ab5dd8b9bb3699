"""What a family of `/metrics` is.

Names are HAProxy's with rproxy_ in the place of haproxy_ where they mean the same, its words included: a *server* is a
back-end, a *backend* is the pool of a service, a *frontend* its clients' side, *in* is from clients and *out* to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Literal, TypeVar

import attrs

from rproxy.observe.histogram import Histogram

Of = TypeVar("Of")
Reading = float | None | Mapping[str, float] | Histogram
"""A value; None where there is none; values by a further label; or a histogram."""


@attrs.frozen
class Family(Generic[Of]):
    """One metric of everything that is an `Of`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    read: Callable[[Of], Reading]
    label: str = ""
    """Name of the label of a mapping's keys."""
    is_slow: bool = False
    """Whether reading and writing it takes some µs."""
