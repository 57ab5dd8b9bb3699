"""HAProxy's TCP protocol of agent checks: the line that an agent sends to whoever connects to it.

HAProxy's configuration manual describes it under ``agent-check`` (section 5.2); what that leaves open is read as
tcpcheck_agent_expect_reply in HAProxy's src/tcpcheck.c reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import attrs

LINE_MAX: Final = 4096
"""Bytes of a line, at most."""
TEXT_MAX: Final = 80
"""Characters of a description or of an unknown word that are kept."""
WEIGHT_MAX: Final = 256
"""The largest absolute weight."""
PERCENT_MAX: Final = 25600
"""Larger percentages count as this one."""
COUNT_MAX: Final = 0xFFFF_FFFF
UP: Final = "up"
READY: Final = "ready"
DRAIN: Final = "drain"
MAINT: Final = "maint"
_HEALTH: Final = frozenset({UP, "down", "fail", "stopped"})
_ADMINISTRATION: Final = frozenset({READY, DRAIN, MAINT})
_WEIGHT: Final = "weight:"
_MAXCONN: Final = "maxconn:"
_END: Final = re.compile(rb"[\r\n\0]")
_SEPARATORS: Final = " \t,"
_WORD: Final = re.compile(f"[^{_SEPARATORS}]+")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)


@attrs.frozen
class Weight:
    """`number` in percent of the configured weight if it is `relative`."""

    number: int
    relative: bool


@attrs.frozen
class Reply:
    """What a line says; None for what it does not mention, which stays as it is."""

    health: str | None = None
    """`UP`, or for down: ``down``, ``fail`` or ``stopped``."""
    description: str = ""
    """Of `health`, for operators."""
    administration: str | None = None
    """`READY`, `DRAIN` or `MAINT`."""
    weight: Weight | None = None
    max_connections: int | None = None
    """0 for no limit."""
    unread: str = ""
    """The first word that has no meaning, which is ignored; empty if there is none."""


class Incomplete(Exception):
    """The agent has ended the line too early, or sent one that is too long: it says nothing."""


def line_of(received: bytes, *, ended: bool) -> str | None:
    """The line at the start of what an agent has sent; None until it is complete. `ended`: nothing more comes.

    CR or LF ends it. Raises `Incomplete`.
    """
    end = _END.search(received, 0, LINE_MAX + 1)
    if end is None:
        if ended:
            raise Incomplete("the line has no end")
        if len(received) > LINE_MAX:
            raise Incomplete(f"the line is longer than {LINE_MAX} bytes")
        return None
    if end.group() == b"\0":
        raise Incomplete("there is a NUL in the line")
    return received[: end.start()].decode("latin-1")


def read(line: str) -> Reply:
    """What a line of `line_of` says. Words are separated by blanks, tabs and commas; case does not matter.

    Of several words of one kind the last one counts, even if it cannot be read. A word that begins with ``#`` begins
    the description.
    """
    words, description = _split(line)
    health = administration = weight = limit = None
    unread: list[str] = []
    for word in words:
        lower = word.lower()
        if lower in _HEALTH:
            health = lower
        elif lower in _ADMINISTRATION:
            administration = lower
        elif lower.startswith(_WEIGHT):
            weight = word[len(_WEIGHT) :]
        elif lower.startswith(_MAXCONN):
            limit = word[len(_MAXCONN) :]
        elif "0" <= word[0] <= "9" and "%" in word:
            weight = word
        else:
            unread.append(word)
    read_weight = None if weight is None else _weight(weight)
    read_limit = None if limit is None else _whole(limit, COUNT_MAX)
    if weight is not None and read_weight is None:
        unread.append(f"weight {weight}")
    if limit is not None and read_limit is None:
        unread.append(f"{_MAXCONN}{limit}")
    return Reply(
        health,
        _printable(description) if health is not None else "",
        administration,
        read_weight,
        read_limit,
        _printable(unread[0]) if unread else "",
    )


def _split(line: str) -> tuple[Sequence[str], str]:
    """The words, and the description that follows them."""
    words: list[str] = []
    for found in _WORD.finditer(line):
        word = found.group()
        if word.startswith("#"):
            return words, line[found.start() + 1 :].strip(" \t")
        words.append(word)
    return words, ""


def _weight(text: str) -> Weight | None:
    """None for what is no weight."""
    if text.endswith("%"):
        percent = _whole(text[:-1], math.inf)
        return None if percent is None else Weight(min(percent, PERCENT_MAX), relative=True)
    number = _whole(text, WEIGHT_MAX)
    return None if number is None else Weight(number, relative=False)


def _whole(text: str, most: float) -> int | None:
    """A number from 0 to `most`; None for anything else."""
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text)  # a line is too short for the digits that Python refuses
    return number if 0 <= number <= most else None


def _printable(text: str) -> str:
    """For logs: control characters and what is not ASCII become question marks, and long texts are cut."""
    return "".join(each if " " <= each <= "~" else "?" for each in text[:TEXT_MAX])
