"""The load of the service itself, beside that of its host."""

from __future__ import annotations

import re
from typing import Final, Protocol

import attrs
from twisted.logger import Logger

from rproxy.agent.sampler import Load, Sampler
from rproxy.timing.rate_limit import RateLimit

LOG_INTERVAL_S: Final = 60.0
"""Two lines at once, and then one in this time, say whether the load can be read."""
_LINE_MAX: Final = 100
"""Bytes of a line that holds a number."""
_SHOWN_MAX: Final = 40
_NUMBER: Final = re.compile(rb"\+?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class ApplicationLoad(Protocol):
    """A source of the service's load. `start` is called once, then `percentage` repeatedly, then `stop` once."""

    def start(self) -> None:
        """Open and start what is needed. Called when the agent starts; must neither block nor raise."""

    def stop(self) -> None:
        """Release everything. Called when the agent stops, even if `start` was not called."""

    def percentage(self) -> int | None:
        """The load now, 0..100, or as of a short time ago; None if it is unknown.

        Called for every answer to a probe, in the reactor's thread: must neither block nor raise.
        """


@attrs.frozen
class ApplicationSampler:
    """Another sampler's load, with the service's own."""

    sampler: Sampler
    application: ApplicationLoad

    def sample(self) -> Load:
        """As `Sampler.sample`."""
        load = self.sampler.sample()
        return Load(load.cpu, load.memory, load.tcp, self.application.percentage())  # a third of what `evolve` takes


class BadLoad(Exception):
    """The text is not a load; the message says why, for the log."""


def parse_load(text: bytes) -> int:
    """The number in the last line that is not blank, rounded. Raises `BadLoad` if it is not a number from 0 to 100.

    Line ends may be those of any system, and a UTF-8 byte order mark may come first.
    """
    lines = text.removeprefix(_BYTE_ORDER_MARK).strip(b" \t\r\n\0").splitlines()
    if not lines:
        raise BadLoad("no number")
    line = lines[-1].strip()
    if len(line) > _LINE_MAX or not _NUMBER.fullmatch(line) or not float(line) <= 100:
        shown = line[:_SHOWN_MAX].decode("ascii", "backslashreplace") + ("…" if len(line) > _SHOWN_MAX else "")
        raise BadLoad(f"{shown!r} is not a number from 0 to 100")
    return round(float(line))


class LoadLog:
    """Logs when the service's load becomes unknown, and when it is known again."""

    log = Logger()

    def __init__(self) -> None:
        self._limit = RateLimit.once_in(LOG_INTERVAL_S, burst=2)
        self._logged_known = True
        """The state last logged."""

    def known(self, now: float) -> None:
        """The load has been read, at `now` in monotonic seconds."""
        if not self._logged_known and self._limit.admit(now):
            self._logged_known = True
            self.log.info("the service's load can be read again")

    def unknown(self, reason: str, now: float) -> None:
        """The load could not be read."""
        if self._logged_known and self._limit.admit(now):
            self._logged_known = False
            self.log.warn(
                "the service's load cannot be read and is reported as unknown: {reason}",
                reason=" ".join(reason.split()),
            )
