"""The seam for a way of choosing back-ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, Protocol

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend

Notification = Literal["opened", "closed", "failed", "reported"]
"""The methods of `Policy` that notify it of a change of one back-end."""


class Policy(Protocol):
    """Chooses a back-end for each client. Only the pool calls it, and notifies it of changes.

    A policy reads back-ends and never writes to them. What any method raises is logged, and costs no client its
    back-end: another eligible one is taken.
    """

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend]
    ) -> Backend | None:
        """The back-end for the next client: one of `eligible`, which is in no order, and none of `exclude`.

        `client` is the client's address, None where it is not known. Returns None only where no such back-end is to
        get the client, who is then turned away or waits. It must change nothing that a second call would notice: a
        choice is followed by `opened` only if a session takes it.
        """

    def opened(self, backend: Backend) -> None:
        """A session takes the back-end that was chosen, and is connecting: `backend.counts.pending` includes it."""

    def closed(self, backend: Backend) -> None:
        """A session that was `opened` has ended, whether it ever connected or not, and is no longer counted."""

    def failed(self, backend: Backend) -> None:
        """The back-end did not answer: a probe of one that is up, or an `opened` session, before its `closed`.

        The next `reported` ends it.
        """

    def reported(self, backend: Backend) -> None:
        """The back-end has changed: its registration, figures, state, draining, eligibility or share of weight.

        Called after the change; before the first `opened` of a back-end, and last when it has gone (its `slot` is -1).
        """
