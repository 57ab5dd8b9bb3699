"""Listening sockets that the service manager has opened and passes on (sd_listen_fds(3)): socket activation.

Twisted reads the variables about them, too, but only where each socket has a name, and removes them when
`twisted.internet.endpoints` is first imported. They are read here from the environment that the process was started
with, whoever was imported first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

_FIRST: Final = 3
"""SD_LISTEN_FDS_START."""
_COUNT_MAX: Final = 10_000
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@attrs.frozen
class InheritedSocket:
    """`name` is from LISTEN_FDNAMES, empty where there is none."""

    descriptor: int
    name: str


def inherited_sockets() -> tuple[InheritedSocket, ...]:
    """The sockets that were passed to this very process, in order. They are not passed on to its children."""
    pid = os.getpid()
    found = parse(_initial_environment(), pid) or parse(os.environ, pid)
    for each in found:
        try:
            os.set_inheritable(each.descriptor, False)
        except OSError:  # it is not open: whoever uses it finds that out
            continue
    return found


def parse(environment: Mapping[str, str], pid: int) -> tuple[InheritedSocket, ...]:
    """What the variables say to the process `pid`; nothing if they are for another one, or make no sense."""
    number = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(pid) or not (number.isascii() and number.isdigit()):
        return ()
    if len(number) > len(str(_COUNT_MAX)) or int(number) > _COUNT_MAX:
        return ()
    names = environment.get("LISTEN_FDNAMES", "")
    named = names.split(":") if names else []
    return tuple(
        InheritedSocket(_FIRST + place, named[place] if place < len(named) else "") for place in range(int(number))
    )


def forget() -> None:
    """Remove the variables, so that children do not take descriptors of theirs for such sockets."""
    for name in _VARIABLES:
        os.environ.pop(name, None)


def tell_twisted(sockets: tuple[InheritedSocket, ...]) -> None:
    """Let Twisted's ``systemd:`` endpoint strings know all sockets, also those without a name, by their index."""
    from twisted.internet import endpoints
    from twisted.python.systemd import ListenFDs

    parser = getattr(endpoints, "_SystemdParser", None)
    if parser is not None and any(not each.name for each in sockets):
        names = [each.name or f"\0{each.descriptor}" for each in sockets]  # a name that no string can have
        parser._sddaemon = ListenFDs([each.descriptor for each in sockets], names)


def _initial_environment() -> Mapping[str, str]:
    """The environment as of this process' start, on Linux; elsewhere the present one."""
    try:
        with open("/proc/self/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return os.environ
    pairs = (os.fsdecode(each).partition("=") for each in variables)
    return {name: value for name, _, value in pairs}
