"""What the two commands' options have in common: parsing, and saying in one line what is wrong."""

from __future__ import annotations

import math
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address
from types import TracebackType
from typing import Any, NoReturn

from twisted.internet.error import CannotListenError
from twisted.python import usage

from rproxy.pool.backend import Address
from rproxy.tap.keys import Keyring
from rproxy.wire.seal import KeyringError

PORT_MAX = 65535
MONITOR_PORT = 5555
_HOST = r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]\s]+))"
_TWISTD_PIDFILE = "twistd.pid"


class StartupError(Exception):
    """The service cannot start; the text is for the person who started it."""


class CommandOptions(usage.Options):
    """A twistd subcommand that ends with one line on stderr, and status 1, when its options are wrong."""

    command = ""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            fail(f"twistd {self.command}: {error} (twistd {self.command} --help lists the options)")

    def parseArgs(self, *args: str) -> None:
        if args:
            raise usage.UsageError(f"unexpected argument {args[0]!r}")

    def own_pidfile(self) -> None:
        """Give this command a pid file of its own, so that proxy and agent can start in one folder."""
        twistd = self.parent
        if twistd is None:
            return
        if twistd.get("pidfile") == _TWISTD_PIDFILE:
            twistd["pidfile"] = f"{self.command}.pid"
        pidfile = twistd.get("pidfile")
        if pidfile and not os.access(os.path.dirname(os.path.abspath(pidfile)), os.W_OK):
            raise usage.UsageError(f"cannot write {pidfile} here: start elsewhere, or use twistd --pidfile FILE")


def fail(message: str) -> NoReturn:
    raise SystemExit(message)


def number(name: str, text: str, low: float, high: float = math.inf, *, zero: bool = False) -> float:
    """`text` as a finite number with low < number <= high, or 0 where that, too, is allowed. Raises `UsageError`."""
    try:
        value = float(text)
    except ValueError:
        raise usage.UsageError(f"--{name} {text}: not a number") from None
    if not (low < value <= high and math.isfinite(value)) and not (zero and value == 0):
        limits = f"above {low:g}" + (f" and at most {high:g}" if math.isfinite(high) else "")
        raise usage.UsageError(f"--{name} {text}: must be {limits}")
    return value


def whole(name: str, text: str, low: int, high: int) -> int:
    """`text` as a whole number with low <= number <= high. Raises `UsageError`."""
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        raise usage.UsageError(f"--{name} {text}: not a whole number")
    value = int(text)
    if not low <= value <= high:
        raise usage.UsageError(f"--{name} {text}: must be from {low} to {high}")
    return value


def host_and_port(name: str, text: str, *, host: str | None = None, port: int | None = None) -> Address:
    """HOST:PORT, with an IPv6 host in brackets; a lone part stands for the one that has no default."""
    bare = re.fullmatch(_HOST, text)
    if host is not None and text.isascii() and text.isdigit():
        return host, _port(name, text, text)
    if port is not None and bare is not None:
        return _host(name, text, bare["six"], bare["host"]), port
    match = re.fullmatch(_HOST + r":(?P<port>[0-9]+)", text)
    if match is None:
        raise usage.UsageError(f"--{name} {text}: not of the form {_form(host, port)}")
    return _host(name, text, match["six"], match["host"]), _port(name, text, match["port"])


def _port(name: str, text: str, digits: str) -> int:
    if len(digits) > 5 or int(digits) > PORT_MAX:
        raise usage.UsageError(f"--{name} {text}: the port must be from 0 to {PORT_MAX}")
    return int(digits)


def _form(host: str | None, port: int | None) -> str:
    return ("[HOST:]PORT" if host is not None else "HOST[:PORT]" if port is not None else "HOST:PORT") + (
        " (an IPv6 address in brackets)"
    )


def _host(name: str, text: str, six: str | None, host: str | None) -> str:
    if six is None:
        assert host is not None
        return host
    try:
        ip = IPv6Address(six)
    except ValueError:
        raise usage.UsageError(f"--{name} {text}: [{six}] is not an IPv6 address") from None
    return str(ip.ipv4_mapped or ip)


def ip_of(name: str, text: str) -> str:
    """`text` as an IP address. Raises `UsageError`."""
    try:
        return str(ip_address(text))
    except ValueError:
        raise usage.UsageError(f"--{name} {text}: not an IP address") from None


def keyring(path: str | None, *, derived: bool) -> Keyring | None:
    """The keys of `--keyring`. Raises `UsageError`."""
    if path is None:
        return None
    try:
        return Keyring.read(path, derived=derived)
    except KeyringError as error:
        raise usage.UsageError(f"--keyring {path}: {error}") from None


def local_address(name: str, host: str) -> str:
    """A host of ours as an IP address: names are looked up, once, at the start."""
    if not host:
        return host
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise usage.UsageError(f"--{name} {host}: {error.strerror}") from None


def cannot_listen(what: str, error: BaseException | None) -> StartupError:
    """An error of listening as one line."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    text = getattr(cause, "strerror", None) or str(cause)
    if isinstance(cause, PermissionError):
        text += " (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    return StartupError(f"cannot listen on {what}: {text}")


def report_startup_errors_in_one_line() -> None:
    """A `StartupError` that leaves the process shows its text, not a traceback.

    twistd removes its pid file, and tells the parent of a daemon, only for an ordinary exception: so not SystemExit.
    """
    previous: Callable[..., Any] = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, StartupError):
            print(f"twistd: {value}", file=sys.__stderr__)  # sys.stderr is the log by now
        else:
            previous(kind, value, traceback)

    sys.excepthook = hook


def use_monotonic_time(reactor: Any) -> None:
    """Run the reactor's timers on monotonic time: its own is the wall clock, which people and NTP move.

    For a reactor that has no timers yet, so for twistd's alone.
    """
    reactor.seconds = time.monotonic
