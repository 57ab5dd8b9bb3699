"""The seam for a way of choosing back-ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, Protocol

import attrs

from rproxy.net.addresses import Address
from rproxy.pool.backend import Backend
from rproxy.pool.comparison import Comparison

Notification = Literal["opened", "closed", "failed", "reported"]
"""The methods of `Policy` that notify it of a change of one back-end."""


@attrs.frozen
class Explanation:
    """What a policy compares: of two back-ends, it chooses the one with the lower `value`.

    `terms` are the parts of the value by name, in the order in which they are to be read.
    """

    value: float
    terms: Mapping[str, float] = MappingProxyType({})


NO_EXPLANATION: Final = Explanation(float("nan"))
"""Stands for one that could not be made."""


class Policy(Protocol):
    """Chooses a back-end for each client. Only the pool calls it, and notifies it of changes.

    A policy reads back-ends and never writes to them. What any method raises is logged, and costs no client its
    back-end: another eligible one is taken. `now` is in seconds, on the pool's clock, and never decreases.

    A policy that replaces another one while the pool has back-ends gets a `reported` for each of them. It then gets a
    `closed` for sessions that it was not told to have been `opened`; `backend.counts` has them.
    """

    def choose(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float
    ) -> Backend | None:
        """The back-end for the next client: one of `eligible`, which is in no order, and none of `exclude`.

        Those that are full, see `Backend.usable`, are not among `eligible` until a session on them ends.

        `client` is the client's address, None where it is not known. Returns None only where no such back-end is to
        get the client, who is then turned away or waits. It must change nothing that a second call would notice: a
        choice is followed by `opened` only if a session takes it.
        """

    def opened(self, backend: Backend, now: float) -> None:
        """A session takes the back-end that was chosen, and is connecting: `backend.counts.pending` includes it.

        If that fills the back-end, it is not eligible by now; no `reported` says so.
        """

    def closed(self, backend: Backend, now: float, served_s: float | None) -> None:
        """A session that was `opened` has ended, and is no longer counted. A back-end that was full is eligible again.

        `served_s` is how long it was connected, in seconds; None if it never was, or if the back-end failed it, see
        `failed`.
        """

    def failed(self, backend: Backend, now: float) -> None:
        """The back-end did not answer: a probe of one that is up, or an `opened` session, before its `closed`.

        For how long that counts is up to the policy. The next `reported` may come 0.1 s later, and says nothing of the
        service: `backend.health.refusals` is above 0 until a session was served.
        """

    def reported(self, backend: Backend, now: float) -> str | None:
        """The back-end has changed: its registration, figures, state, draining, eligibility or share of weight.

        Called after the change; before the first `opened` of a back-end, and last when it has gone. One that is not
        `usable` may be forgotten; one that is full may not.
        Returns why the back-end gets clients only while the others are as badly off, in a few words for operators that
        do not change with every report; empty or None if it is not passed over.
        """

    def explain(self, backend: Backend, now: float) -> Explanation:
        """What is compared for a back-end if a client came now; it may be one that is not eligible."""


class Comparing(Policy, Protocol):
    """A policy that tells what it compares, as all built-in ones do; the pool takes others as well.

    Both methods change nothing that any other call would notice, so that recording choices does not change them. What
    they raise is logged, and costs no more than the record.
    """

    def value(self, backend: Backend, now: float) -> float:
        """`explain(backend, now).value`, without the cost of its terms."""

    def compare(
        self, eligible: Sequence[Backend], client: Address | None, exclude: Collection[Backend], now: float, most: int
    ) -> Comparison[Backend]:
        """What `choose` with these arguments compares now: its `Comparison.winner` is what `choose` returns.

        It has about `most` candidates: of more back-ends, those that are the likeliest to win, and always the winner.
        """
