"""What belongs to the process rather than to what it serves: daemon, user, log and pid file."""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorDaemonize
from twisted.logger import ILogObserver, Logger
from twisted.python import usage

from rproxy.tap import pidfile
from rproxy.tap.logs import Observer, RotatingFile, open_file, rotate_at_signal, standard_output
from rproxy.tap.options import (
    CommandOptions,
    StartupError,
    fail,
    in_foreground,
    report_startup_errors_in_one_line,
)

DAEMON_UMASK: Final = 0o077
_log = Logger()


class Process:
    """One twistd's. `config` is what twistd was told; what is done here is taken off it."""

    def __init__(self, config: MutableMapping[str, Any], name: str) -> None:
        """`name` is that of the log file where none was asked for. Raises `UsageError`."""
        self._config = config
        self._is_daemon = not in_foreground(config)
        folder = config.get("rundir") or "."
        if not config.get("chroot") and not os.path.isdir(folder):
            raise usage.UsageError(f"--rundir {folder}: there is no such folder")
        elsewhere = config.get("syslog") or config.get("logger")
        self._out = None if elsewhere else self._open_log(f"{name}.log")
        self.observer = None if self._out is None else Observer(self._out)
        self._pid_file: int | None = None
        self._starting: int | None = None
        """What the parent of a daemon reads, until it has started."""

    def _open_log(self, default: str) -> Any:
        path = self._config.get("logfile")
        if path == "-" and self._is_daemon:
            raise usage.UsageError("--logfile -: a daemon has no standard output; -n keeps it in the foreground")
        if path == "-" or (not path and not self._is_daemon):
            return standard_output()
        try:
            return open_file(path or default)
        except OSError as error:
            raise usage.UsageError(f"cannot write the log {path or default}: {error.strerror}") from None

    def go_to_background(self) -> None:
        """Let the parent wait until the daemon has started: until then it says what is wrong as one with -n does."""
        if not self._is_daemon:
            return
        reactor = sys.modules.get("twisted.internet.reactor")
        keeps_descriptors = not IReactorDaemonize.providedBy(reactor)
        if not keeps_descriptors:
            reactor.beforeDaemonize()  # type: ignore[union-attr]
        started, self._starting = os.pipe()
        if os.fork():
            os.close(self._starting)
            os._exit(0 if os.read(started, 1) else 1)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(started)
        if not keeps_descriptors:
            reactor.afterDaemonize()  # type: ignore[union-attr]
        self._config["nodaemon"] = True
        if self._config.get("umask") is None:
            self._config["umask"] = DAEMON_UMASK

    def run_on(self, reactor: Any) -> None:
        """What is to be done when the reactor has started, and when it has ended."""
        reactor.callWhenRunning(self._started)
        reactor.addSystemEventTrigger("after", "shutdown", self._remove_pid_file)
        rotate_at_signal(reactor, self._out if isinstance(self._out, RotatingFile) else None)

    def _started(self) -> None:
        if self._starting is None:
            return
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
            if stream is not None:  # else its number is another file's
                os.dup2(null, stream.fileno())
        os.close(null)
        os.write(self._starting, b"1")
        os.close(self._starting)
        self._config["nodaemon"] = False  # for twistd's own report of a crash

    def hold_pid_file(self) -> None:
        """When twistd has written it. Raises `StartupError`."""
        path = self._config.get("pidfile")
        try:
            self._pid_file = pidfile.hold(path) if path else None
        except usage.UsageError as error:
            self._config["pidfile"] = ""  # it is the other one's, to be removed by that one
            raise StartupError(str(error)) from None

    def shed_privileges(self) -> None:
        """Become the user that --uid and --gid name, also one without a name. Raises `StartupError`."""
        uid, gid = self._config.get("uid"), self._config.get("gid")
        self._config["uid"] = self._config["gid"] = None
        if uid is None and gid is None:
            return
        effective = self._config.get("euid")
        groups, gid = _groups(uid, gid)
        set_gid, set_uid = (os.setegid, os.seteuid) if effective else (os.setgid, os.setuid)
        try:
            self._give_files(uid, gid)
            if uid not in (None, os.geteuid()):
                os.setgroups(groups)
            set_gid(gid)
            if uid not in (None, os.geteuid()):
                set_uid(uid)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            wanted = f"group {gid}" if uid is None else f"user {uid} of group {gid}"
            raise StartupError(f"cannot become {wanted} (--uid, --gid): {why}") from None
        _log.info("running as user {uid} of group {gid}", uid=os.geteuid(), gid=os.getegid())

    def _give_files(self, uid: int | None, gid: int) -> None:
        files = [(self._config.get("pidfile"), self._pid_file)]
        if isinstance(self._out, RotatingFile):
            files.append((self._out.path, self._out.descriptor))
        for path, descriptor in files:
            if path and descriptor is not None and _is_at(path, descriptor):
                with suppress(PermissionError):  # a file of somebody else's that all may write
                    os.fchown(descriptor, -1 if uid is None else uid, gid)

    def _remove_pid_file(self) -> None:
        """twistd can do it, too, unless the folder is root's, and this process no longer: then it is emptied."""
        path = self._config.get("pidfile")
        if not path or self._pid_file is None:
            return
        if not os.access(os.path.dirname(path), os.W_OK):
            os.ftruncate(self._pid_file, 0)
            self._config["pidfile"] = ""


def _groups(uid: int | None, gid: int | None) -> tuple[list[int], int]:
    """Those of a user, and the one that is his own: where he has no name, the one of his number."""
    try:
        user = None if uid is None else pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        user = None
    if gid is None:
        assert uid is not None
        gid = user.pw_gid if user else uid
    return (os.getgrouplist(user.pw_name, gid) if user else [gid]), gid


def _is_at(path: str, descriptor: int) -> bool:
    """Whether it is that file, and no link leads to it: only then may root give it away."""
    with suppress(OSError):
        there = os.lstat(path)
        return stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and os.path.samestat(there, os.fstat(descriptor))
    return False


class ProcessService(Service):
    """A service that twistd runs, or that is part of another one: then it has no process."""

    process: Process | None = None

    def setServiceParent(self, parent: Any) -> None:
        if self.process is not None and self.process.observer is not None:
            parent.setComponent(ILogObserver, self.process.observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Open the ports, and shed the privileges that it takes."""
        if self.process is None:
            self._bind()
            return
        self.process.hold_pid_file()
        self._bind()
        self.process.shed_privileges()

    def _bind(self) -> None:
        raise NotImplementedError


def process_of(options: CommandOptions) -> Process | None:
    """What twistd's process is, from here on in the background if it is to be; None where there is no twistd."""
    report_startup_errors_in_one_line()
    if options.parent is None:
        return None
    try:
        process = Process(options.parent, options.name)
    except usage.UsageError as error:
        fail(f"twistd {options.command}: {error}")
    process.go_to_background()
    return process
