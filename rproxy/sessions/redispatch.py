"""When an end of the back-end's connection counts as a failed connect, so that another back-end is tried.

A port forwarder or load balancer with nothing behind it, a process that dies at start, or a full queue accepts a
connection and closes it at once. A later end is deliberate: the service has usually read a request and chosen to close.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, StrEnum, auto
from typing import Final

import attrs

EARLY_END_S: Final = 0.1
"""An end later than this after the connect is an answer of the service."""
EARLY_DATA_MAX: Final = 65536
"""Most bytes of a client kept in memory: until its back-end is connected and has taken them."""


class Redispatch(StrEnum):
    """Which sessions are given to another back-end when theirs ends early; values of --redispatch-early."""

    ALL = "all"
    UNSENT = "unsent"
    """Only those whose client has sent nothing: no request is ever sent twice."""
    OFF = "off"


class Verdict(Enum):
    """What an early end of the back-end's connection means."""

    END = auto()
    """Says nothing about the back-end: the client gets the end as it was."""
    SERVED = auto()
    """An answer: the back-end's service works. The client gets it."""
    FAULT = auto()
    """A failed connect, but the client gets the end: it cannot be given to another back-end."""
    RETRY = auto()
    """A failed connect: the client is given to another back-end."""


@attrs.frozen
class EarlyEnd:
    """A back-end ended its connection before it sent a byte."""

    after_s: float
    """Time since the connect."""
    reset: bool
    """By a reset, not by an end of stream."""
    half_closed: bool
    """The client had ended its stream before."""
    sent: int
    """Bytes that the client has sent in all."""
    kept: int
    """Bytes that are kept and could be sent to another back-end: a redispatch needs all of `sent`."""

    def verdict(self, redispatch: Redispatch, *, has_other: Callable[[], bool], may_retry: bool) -> Verdict:
        """`has_other` returns whether there is another back-end; called only if that matters. `may_retry` is whether
        attempts and time are left.

        To a client that has half-closed, an end of stream is an answer; to one that has half-closed without sending,
        as port checks do, so is a reset. Where there is no other back-end to compare with, it is no evidence against
        this one.
        """
        if redispatch is Redispatch.OFF:
            return Verdict.END
        if self.half_closed and not self.reset:
            return Verdict.SERVED
        if self.half_closed and not self.sent:
            return Verdict.END
        if self.after_s > EARLY_END_S or not self.sent == self.kept <= EARLY_DATA_MAX or not has_other():
            return Verdict.END
        if not may_retry or (self.sent and redispatch is Redispatch.UNSENT):
            return Verdict.FAULT
        return Verdict.RETRY
