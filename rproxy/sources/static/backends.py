"""The static back-ends of one service: of which addresses they are, as names are looked up again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.net.addresses import Address, canonical_ip, is_ip, written
from rproxy.net.lookups import Lookups
from rproxy.sources.static.row import INTERVAL_S, JITTER, Checks, Entry, Row

LOOK_UP_S: Final = 30.0
"""Time between two lookups of a name."""
FIRST_LOOK_UP_S: Final = 2.0
"""The same until it was found for the first time."""
ADDRESSES_MAX: Final = 1024
"""Addresses of one name that are used."""
SPACING_S: Final = 0.002
"""Between the first checks of back-ends that are added together."""
NAMED_MAX: Final = 8
"""Back-ends that one line names."""


class Name:
    """The addresses of one host name. `changed` is called after each lookup that has found others than before.

    A lookup that fails changes nothing, and is logged once.
    """

    def __init__(self, checks: Checks, lookups: Lookups, host: str, changed: Callable[[], None]) -> None:
        self.addresses: Sequence[str] = ()
        self._checks = checks
        self._lookups = lookups
        self._host = host
        self._changed = changed
        self._failure = ""
        """Why the last lookup has failed."""
        self._asked: Deferred[Sequence[str]] | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Look it up now, and then again and again."""
        self._asked = asked = self._lookups.resolve(self._host)
        asked.addCallbacks(self._found, self._failed).addBoth(self._wait)

    def stop(self) -> None:
        """Look it up no more."""
        self._is_stopped = True
        self._checks.wheel.disarm(self)
        if self._asked is not None:
            self._asked.cancel()

    def _found(self, found: Sequence[str]) -> None:
        addresses = list(dict.fromkeys(map(canonical_ip, found)))
        if len(addresses) > ADDRESSES_MAX:
            del addresses[ADDRESSES_MAX:]
            self._log_failure(f"it has over {ADDRESSES_MAX} addresses; the first ones are used")
        elif self._failure:
            self._failure = ""
            self._checks.log.info("{host}: looked up again", host=self._host)
        if set(addresses) != set(self.addresses):
            self.addresses = addresses
            self._changed()

    def _failed(self, failure: Failure) -> None:
        if not self._is_stopped:
            reason = getattr(failure.value, "strerror", None) or str(failure.value) or type(failure.value).__name__
            known = "its known addresses stay" if self.addresses else "it is tried again"
            self._log_failure(f"cannot be looked up: {reason}; {known}")

    def _log_failure(self, failure: str) -> None:
        if failure != self._failure:
            self._failure = failure
            self._checks.log.warn("{host}: {failure}", host=self._host, failure=failure)

    def _wait(self, result: Failure | None) -> None:
        self._asked = None
        if result is not None:
            self._checks.log.failure("the addresses of {host}", result, host=self._host)
        if not self._is_stopped:
            interval_s = LOOK_UP_S if self.addresses else FIRST_LOOK_UP_S
            jitter = JITTER * (2 * self._checks.jitter() - 1)
            self._checks.wheel.arm(self, interval_s * (1 + jitter), self.start)


class StaticBackends:
    """Keeps the pool's back-ends without an agent as they are configured.

    Of entries with the same address the first one counts. An address that is not configured any more, or that a name
    does not have any more, is drained: its sessions go on. `changed` is called with the addresses and entries in use
    whenever these may have changed.
    """

    log = Logger()

    def __init__(
        self,
        checks: Checks,
        lookups: Lookups,
        changed: Callable[[Mapping[Address, Entry]], None] = lambda entries: None,
    ) -> None:
        self._checks = checks
        self._lookups = lookups
        self._changed = changed
        self._entries: tuple[Entry, ...] = ()
        self._names: dict[str, Name] = {}
        self._rows: dict[Address, Row] = {}
        self._is_running = False

    def start(self) -> None:
        """Add the back-ends, check them, and look names up, until `stop`."""
        self._is_running = True
        self.apply(self._entries)

    def stop(self) -> None:
        """Cancel all timers, lookups and checks; the pool stays as it is. May come without a start, and twice."""
        self._is_running = False
        for name in self._names.values():
            name.stop()
        for row in self._rows.values():
            row.stop()
        self._names.clear()
        self._rows.clear()
        self._checks.throttle.stop()

    def apply(self, entries: Iterable[Entry]) -> None:
        """Use these entries from now on; before `start` they are only kept."""
        self._entries = tuple(entries)
        if not self._is_running:
            return
        hosts = {entry.address[0] for entry in self._entries if not is_ip(entry.address[0])}
        for host in self._names.keys() - hosts:
            self._names.pop(host).stop()
        new = [host for host in hosts if host not in self._names]
        for host in new:
            self._names[host] = Name(self._checks, self._lookups, host, self._settle)
        self._settle()
        for host in new:
            self._names[host].start()

    def _wanted(self) -> dict[Address, Entry]:
        wanted: dict[Address, Entry] = {}
        for entry in self._entries:
            host, port = entry.address
            name = self._names.get(host)
            for address in [canonical_ip(host)] if name is None else name.addresses:
                wanted.setdefault((address, port), entry)
        return wanted

    def _settle(self) -> None:
        """Have a row for each address that is wanted, and for no other."""
        wanted, rows = self._wanted(), self._rows
        gone = [key for key in rows if key not in wanted]
        added = [key for key in wanted if key not in rows]
        for key in gone:
            row = rows.pop(key)
            host = row.entry.address[0]
            is_named = host in self._names and row.entry in self._entries
            row.stop(f"{host} has not this address any more" if is_named else "not configured any more")
        for key, row in rows.items():
            if row.entry != wanted[key]:
                row.change(wanted[key])
        for number, key in enumerate(added):
            row = rows[key] = Row(self._checks, key, wanted[key])
            row.start(min(number * SPACING_S, INTERVAL_S))
        if added:
            self._log_added(added)
        self._changed({key: row.entry for key, row in rows.items()})

    def _log_added(self, added: Sequence[Address]) -> None:
        more = len(added) - NAMED_MAX
        self._checks.log.info(
            "static back-end(s) added: {named}{more}",
            named=", ".join(map(written, added[:NAMED_MAX])),
            more=f" and {more} more" if more > 0 else "",
        )
