"""The seam for rules about which clients a service takes, and how many of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Gate(Protocol):
    """Admits clients by their IP address. Methods must be quick, and raise nothing."""

    @property
    def refused(self) -> Mapping[str, int]:
        """How many clients were not admitted, by reason."""
        ...

    def admit(self, host: str) -> bool:
        """Whether a client at `host` is served; counts it if so. One that is not is reset.

        Called once for each client, before a back-end is chosen for it.
        """
        ...

    def count(self, host: str) -> None:
        """Count a client that was served already when the service got this gate; `leave` follows."""
        ...

    def leave(self, host: str) -> None:
        """The session of a client that was admitted or counted has ended."""
        ...
