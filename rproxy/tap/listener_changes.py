"""What a change of the configuration does to the listeners of all services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from rproxy.tap.listeners import ClientListeners, Listener
from rproxy.tap.startup import StartupError

_Placed = tuple[ClientListeners, Listener]
"""A listener with the service that has it."""


class ListenerChanges:
    """Opens new listeners first, so that nothing has changed if one cannot be opened; closes others last.

    One that stays open may go from one service to another: `open`, `take_over` and `close` follow one another, in one
    turn of the reactor.
    """

    log = Logger()

    def __init__(
        self, wanted: Iterable[tuple[ClientListeners, Sequence[Listener]]], of: Iterable[ClientListeners]
    ) -> None:
        """`wanted` has the listeners that there are to be of each service; `of` are all services that may have some."""
        wanted = list(wanted)
        self._owners = [owner for owner, _ in wanted]
        self._closing: list[_Placed] = [(owner, listener) for owner in of for listener in owner.opened]
        self._moving: list[tuple[_Placed, _Placed]] = []
        """Those that are another service's from now on, or have another name, and as which."""
        left = [(owner, listener) for owner, listeners in wanted for listener in listeners]
        for may_move in (False, True):
            left = [placed for placed in left if not self._stays(placed, may_move=may_move)]
        self._opening: list[_Placed] = left

    def _stays(self, wanted: _Placed, *, may_move: bool) -> bool:
        """Whether a listener is open already: at this service, or at another one if it `may_move`."""
        owner, listener = wanted
        for placed in self._closing:
            is_own = placed[0] is owner
            if placed[1].stands_for(listener) and (is_own or (may_move and _is_open(placed))):
                self._closing.remove(placed)
                if not is_own or (placed[1].text != listener.text and _is_open(placed)):
                    self._moving.append((wanted, placed))
                return True
        return False

    def open(self) -> None:
        """Open what is not open yet. Raises `StartupError`, and leaves nothing open then that was not before."""
        opened: list[_Placed] = []
        try:
            for owner, listener in self._opening:
                owner.open(listener, self._log_failure)
                opened.append((owner, listener))
        except StartupError:
            for owner, listener in opened:
                owner.close(listener)
            raise

    def _log_failure(self, error: StartupError) -> None:
        self.log.critical("{error}", error=error)

    def take_over(self) -> None:
        """Have what stays open accept clients for the service that it is of now, and as that is configured now."""
        for (owner, listener), (before, known) in self._moving:
            owner.take(listener, known, before)
        for owner in self._owners:
            owner.settle()

    def close(self) -> Deferred[Any]:
        """Close what is not wanted any more."""
        closing = [owner.close(listener) for owner, listener in self._closing]
        return DeferredList([each for each in closing if each is not None])


def _is_open(placed: _Placed) -> bool:
    owner, listener = placed
    return owner.opened[listener] is not None
