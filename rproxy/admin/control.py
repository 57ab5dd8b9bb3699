"""The seam between the operators' API and what does as it says."""

from __future__ import annotations

from typing import Protocol

import attrs


class Refusal(Exception):
    """A request that cannot be done. The text is one line for the operator."""


class Unknown(Refusal):
    """There is no such service, back-end or session."""


@attrs.frozen
class Target:
    """A back-end of a service, as operators name it."""

    service: str
    """Its name; "default" for that of the command line."""
    backend: str
    """address:port, as in `Backend.name`."""


class Control(Protocol):
    """Changes what a running proxy does. Every call is done when it returns, and noted in the log and the history.

    What an operator says of a back-end holds until he says otherwise: it survives its agent's restart, the row's
    removal, a reload, and, with a state file, the proxy's restart. All raise `Unknown`, or `Refusal` with the reason.
    """

    def drain(self, target: Target) -> None:
        """No new sessions; those that there are go on. The back-end is probed as before."""
        ...

    def maint(self, target: Target) -> None:
        """As `drain`, and whatever its agent or its checks say is of no consequence: it does not count as down."""
        ...

    def ready(self, target: Target) -> None:
        """Ends `drain` and `maint`."""
        ...

    def weigh(self, target: Target, weight: int | None) -> None:
        """Have it count with this weight, 1 to 65535, whatever its agent or the configuration says; None ends that."""
        ...

    def kill(self, session: int) -> None:
        """End the session of that number at once; both sides are reset."""
        ...

    def kill_all(self, target: Target) -> int:
        """End all sessions on a back-end at once. Returns how many."""
        ...

    def shed(self, target: Target, per_s: float) -> int:
        """End the sessions on a back-end little by little, at most `per_s` a second, those that are idle first.

        Returns how many there are. 0 stops that. It ends when none is left; new sessions still come, unless the
        back-end drains.
        """
        ...
