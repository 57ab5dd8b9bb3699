"""The seam between the operators' API and the code that carries out its changes."""

from __future__ import annotations

from typing import Protocol

import attrs
from twisted.internet.defer import Deferred


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
    """Changes what a running proxy does. Everything that is done is in the log and the history.

    What operators say of a back-end holds until they say otherwise: it survives its agent's restart, the row's
    removal, a reload, and, with a state file, the proxy's restart. It is in force when the call returns; the Deferred
    fires once it is in the state file, if there is one, or that has failed, which is logged.

    Each method raises `Unknown`, or `Refusal` with the reason, or its Deferred fails with that; it fails with nothing
    else. Use `maybeDeferred`.
    """

    def drain(self, target: Target) -> Deferred[None]:
        """No new sessions; those that there are go on. The back-end is probed as before."""
        ...

    def maint(self, target: Target) -> Deferred[None]:
        """As `drain`; besides, the back-end does not count as down, whatever its agent or its checks say."""
        ...

    def ready(self, target: Target) -> Deferred[None]:
        """Ends `drain` and `maint`. What its agent or its agent-check says counts: it may still get no clients."""
        ...

    def weigh(self, target: Target, weight: int | None) -> Deferred[None]:
        """Set the weight, 1 to 65535, over that of the agent or the configuration; None restores theirs."""
        ...

    def kill(self, session: int) -> Deferred[None]:
        """End the session of that number, in whatever phase it is: both sides are reset. Fires when that is done."""
        ...

    def kill_all(self, target: Target) -> Deferred[int]:
        """End the sessions that a back-end has now, a few in each turn of the reactor: both sides are reset.

        Fires with how many these were when that is done.
        """
        ...

    def shed(self, target: Target, per_s: float) -> Deferred[int]:
        """End the sessions that a back-end has now little by little, at most `per_s` a second, the idle ones first.

        It ends when none of them is left; new ones still come, unless the back-end drains.
        Fires at once, with how many it has. Another call changes the rate, or stops that if it is 0.
        """
        ...
