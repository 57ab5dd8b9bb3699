"""Preparing the process before anything is served: clock, limits, errors in one line."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final

from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from rproxy.admin.http_server import CONNECTIONS_MAX
from rproxy.config.model import ProxyConfig
from rproxy.config.validators import ConfigError
from rproxy.observe.status_json import ProcessFacts
from rproxy.sessions.capacity import SESSIONS_MAX, sessions_for

_OPERATORS_SHARE: Final = 32
"""One descriptor in this many may be an operator's connection."""
_OPERATORS_MIN: Final = 4
_OPERATORS_RESERVED: Final = 16
"""Operators' connections within those descriptors that `sessions_for` never gives to sessions."""
_log = Logger()


class StartupError(Exception):
    """The service cannot start. The text is one line for the user."""


def cannot_listen(what: str, error: BaseException | None) -> StartupError:
    """The error that listening on `what` has ended with, in one line."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    text = getattr(cause, "strerror", None) or str(cause)
    if isinstance(cause, PermissionError):
        text += " (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    return StartupError(f"cannot listen on {what}: {text}")


def report_startup_errors_in_one_line() -> None:
    """Install an excepthook: `StartupError` and `OSError` are one line on stderr and in the log, without a traceback.

    They must reach twistd as ordinary exceptions: it does not remove its pid file on SystemExit.
    """
    previous: Callable[..., Any] = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, StartupError | OSError):
            _log.critical("{error}", error=str(value))
            print(f"twistd: {value}", file=sys.__stderr__)  # twistd has replaced sys.stderr by the log
        else:
            previous(kind, value, traceback)

    sys.excepthook = hook


def use_monotonic_time(reactor: Any) -> None:
    """Run the reactor's timers on monotonic time. Twisted uses the wall clock, which NTP and users set.

    Call it before the reactor has any timer, and only on a reactor that this process owns.
    """
    reactor.seconds = time.monotonic


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one if the system allows it. Returns the limit then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS refuses an infinite one
        hard = soft
    return SESSIONS_MAX * 4 if hard == resource.RLIM_INFINITY else hard


def operators_max(descriptors: int) -> int:
    """The limit of operators' connections for a process that may have `descriptors` open files."""
    return min(max(descriptors // _OPERATORS_SHARE, _OPERATORS_MIN), CONNECTIONS_MAX)


def sessions_max(config: ProxyConfig, descriptors: int) -> int:
    """The limit of sessions for a process that may have `descriptors` open files. Raises `ConfigError` if it is 0."""
    operators = 0 if not config.has_operators else max(operators_max(descriptors) - _OPERATORS_RESERVED, 0)
    fit = sessions_for(descriptors - operators)
    if fit < 1:
        raise ConfigError(f"{descriptors} open files are too few for any session (ulimit -n)")
    asked = config.max_connections
    if asked is None:
        return fit
    if asked > fit:
        reason = f"{descriptors} open files are enough for {fit} (ulimit -n)"
        raise ConfigError(reason, config.key("max-connections"), asked)
    return asked


def process_facts() -> ProcessFacts:
    """What operators are told of this process, which has just started."""
    return ProcessFacts(version("rproxy"), round(time.time(), 3), os.getpid())
