"""What the two commands' options have in common: parsing, and saying in one line what is wrong."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import metadata
from ipaddress import IPv6Address, ip_address
from platform import python_version
from types import TracebackType
from typing import Any, NoReturn

from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python import usage

from rproxy.net.addresses import Address
from rproxy.tap.keys import Keyring
from rproxy.tap.pidfile import clear
from rproxy.wire.keyfile import KeyringError

PORT_MAX = 65535
MONITOR_PORT = 5555
_HOST = r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]\s]+))"
_TWISTD_PIDFILE = "twistd.pid"
_log = Logger()


class StartupError(Exception):
    """The service cannot start; the text is for the person who started it."""


class CommandOptions(usage.Options):
    """A twistd subcommand that ends with one line on stderr, and status 1, when its options are wrong."""

    command = ""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        asked = getattr(getattr(self.parent, "subCommand", None), "asked", "")
        if asked:
            fail(f"twistd: there is no command {asked}; do you mean {self.command}? (twistd --help lists all)")
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            fail(f"twistd {self.command}: {self._explained(str(error))}")

    def _explained(self, error: str) -> str:
        """An error of this class, or of getopt, which says less than it might."""
        unknown = re.fullmatch(r"option (-\S+) not recognized", error)
        if unknown is None:
            return f"{error} (twistd {self.command} --help lists the options)"
        option = unknown[1]
        if _is_twistds(option, self.parent):
            return f"{option} is an option of twistd itself: it goes before {self.command}"
        near = get_close_matches(option, [f"--{name.rstrip('=')}" for name in self.longOpt], 1)
        hint = f"; do you mean {near[0]}?" if near else ""
        return f"there is no option {option}{hint} (twistd {self.command} --help lists the options)"

    def parseArgs(self, *args: str) -> None:
        if args:
            raise usage.UsageError(f"unexpected argument {args[0]!r}")

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(version())
        raise SystemExit

    @property
    def name(self) -> str:
        """That of the log and of the pid file, without the ending."""
        return self.command

    def own_pidfile(self) -> None:
        """A daemon's pid file is its command's own, so that proxy and agent can start in one folder. Without daemon
        there is none.
        """
        twistd = self.parent
        if twistd is None:
            return
        if twistd.get("pidfile") == _TWISTD_PIDFILE and not _is_given("--pidfile"):
            twistd["pidfile"] = "" if in_foreground(twistd) else f"{self.name}.pid"
        pidfile = twistd.get("pidfile")
        if not pidfile:
            return
        path = os.path.join(twistd.get("chroot") or "/", os.path.abspath(pidfile).lstrip("/"))
        if not os.access(os.path.dirname(path), os.W_OK):
            raise usage.UsageError(f"cannot write {pidfile} here: start elsewhere, or use twistd --pidfile FILE")
        clear(path)


def in_foreground(twistd: Mapping[str, Any]) -> bool:
    """Whether it is told not to become a daemon."""
    return bool(twistd.get("nodaemon") or twistd.get("debug"))


def _is_given(option: str) -> bool:
    """Whether it is on the command line, in full: twistd itself knows only what it comes to."""
    return any(word.partition("=")[0] == option for word in sys.argv)


def _is_twistds(option: str, twistd: usage.Options | None) -> bool:
    if not isinstance(twistd, usage.Options):
        return False
    if option.startswith("--"):
        return option[2:] in {name.rstrip("=") for name in twistd.longOpt}
    return option[1:] in twistd.shortOpt.replace(":", "")


def version() -> str:
    """Of this program, and of what it runs on."""
    return f"rproxy {metadata.version('rproxy')} (Twisted {metadata.version('Twisted')}, Python {python_version()})"


def fail(message: str) -> NoReturn:
    raise SystemExit(message)


def number(name: str, text: str, low: float, high: float, *, zero: bool = False) -> float:
    """`text` as a number with low <= number <= high, or 0 where that, too, is allowed. Raises `UsageError`."""
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text, re.ASCII | re.IGNORECASE):
        raise usage.UsageError(f"--{name} {text}: not a number")
    value = float(text)
    if not low <= value <= high and not (zero and value == 0):
        raise usage.UsageError(f"--{name} {text}: must be {'0, or ' if zero else ''}from {low:.10g} to {high:.10g}")
    return value


def whole(name: str, text: str, low: int, high: int) -> int:
    """`text` as a whole number with low <= number <= high. Raises `UsageError`."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise usage.UsageError(f"--{name} {text}: not a whole number")
    value = int(text[:20])
    if len(text) > 20 or not low <= value <= high:
        raise usage.UsageError(f"--{name} {text}: must be from {low} to {high}")
    return value


def host_and_port(name: str, text: str, *, host: str | None = None, port: int | None = None) -> Address:
    """HOST:PORT, with an IPv6 host in brackets; a lone part stands for the one that has no default."""
    bare = re.fullmatch(_HOST, text)
    if host is not None and text.isascii() and text.isdigit():
        return host, _port(name, text, text)
    if port is not None and bare is not None and not text.isdigit():
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
        if re.fullmatch(r"[0-9][0-9.]*|0x[0-9a-fx.]*", host, re.IGNORECASE):
            return ip_of(name, text, host)  # which the system would complete in ways that nobody expects
        try:
            host.encode("idna")
        except UnicodeError as error:
            raise usage.UsageError(f"--{name} {text}: {host} is not a host name ({_reason(error)})") from None
        return host
    try:
        ip = IPv6Address(six)
    except ValueError:
        raise usage.UsageError(f"--{name} {text}: [{six}] is not an IPv6 address") from None
    return str(ip.ipv4_mapped or ip)


def _reason(error: UnicodeError) -> str:
    """Without the name of the codec."""
    return getattr(error, "reason", None) or str(error.__cause__ or error)


def ip_of(name: str, text: str, part: str | None = None) -> str:
    """`text`, or a part of it, as an IP address. Raises `UsageError`."""
    try:
        return str(ip_address(text if part is None else part))
    except ValueError:
        of = "" if part is None else f"{part} is "
        raise usage.UsageError(f"--{name} {text}: {of}not an IP address") from None


def keyring(options: CommandOptions, *, derived: bool) -> Keyring | None:
    """The keys of `--keyring`. Raises `UsageError`."""
    path: str | None = options["keyring"]
    if path is None:
        return None
    if not path:  # an unset variable of a shell
        raise usage.UsageError("--keyring: no file is named")
    try:
        return Keyring.read(path, derived=derived, owner=None if options.parent is None else options.parent.get("uid"))
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
    except ValueError:  # what no name server is asked about
        raise usage.UsageError(f"--{name} {host}: not a host name") from None


def cannot_listen(what: str, error: BaseException | None) -> StartupError:
    """An error of listening as one line."""
    cause = error.socketError if isinstance(error, CannotListenError) else error
    text = getattr(cause, "strerror", None) or str(cause)
    if isinstance(cause, PermissionError):
        text += " (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
    return StartupError(f"cannot listen on {what}: {text}")


def report_startup_errors_in_one_line() -> None:
    """An error of the start that leaves the process is one line on stderr and in the log, and not a traceback.

    twistd removes its pid file only for an ordinary exception: so not SystemExit.
    """
    previous: Callable[..., Any] = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, StartupError | OSError):
            _log.critical("{error}", error=str(value))
            print(f"twistd: {value}", file=sys.__stderr__)  # sys.stderr is the log by now
        else:
            previous(kind, value, traceback)

    sys.excepthook = hook


def use_monotonic_time(reactor: Any) -> None:
    """Run the reactor's timers on monotonic time: its own is the wall clock, which people and NTP move.

    For a reactor that has no timers yet, so for twistd's alone.
    """
    reactor.seconds = time.monotonic
