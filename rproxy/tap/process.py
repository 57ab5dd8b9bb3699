"""The process of either command: daemon, user and group, log and pid file."""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorDaemonize
from twisted.logger import ILogObserver, Logger
from twisted.python import usage

from rproxy.config.command_options import CommandOptions, fail
from rproxy.net.inherited import forget
from rproxy.tap import pidfile
from rproxy.tap.logs import Observer, RotatingFile, open_file, rotate_at_signal, standard_output
from rproxy.tap.notify import Notifier
from rproxy.tap.pidfile_names import name_of
from rproxy.tap.reload_report import ReloadReport
from rproxy.tap.startup import StartupError, report_startup_errors_in_one_line

DAEMON_UMASK: Final = 0o077
_log = Logger()


class Process:
    """twistd's process. `config` has twistd's options; those that are applied here are cleared in it."""

    def __init__(self, config: MutableMapping[str, Any], name: str) -> None:
        """Opens the log, `name`.log unless another was asked for. Raises `UsageError`."""
        self._config = config
        self.is_daemon = not pidfile.in_foreground(config)
        folder = config.get("rundir") or "."
        if not config.get("chroot") and not os.path.isdir(folder):
            raise usage.UsageError(f"--rundir {folder}: there is no such folder")
        elsewhere = config.get("syslog") or config.get("logger")
        self._out = None if elsewhere else self._open_log(f"{name}.log")
        self.observer = None if self._out is None else Observer(self._out)
        self.notifier = Notifier.of_environment()
        forget()  # the sockets that were passed are this process' own
        self.replaced_pidfile = ""
        """See `CommandOptions`."""
        self.files: list[tuple[str, int]] = []
        """Paths and descriptors of further files that are to belong to the user of --uid."""
        self.gives: list[Callable[[int, int], None]] = []
        """Called with the user and group that the process becomes, -1 for the present one, while it may give files."""
        self._pid_file: int | None = None
        self._report: ReloadReport | None = None
        self._starting: int | None = None
        """The pipe on which a daemon's parent waits for the start; None in the foreground."""

    def _open_log(self, default: str) -> Any:
        path = self._config.get("logfile")
        if path == "-" and self.is_daemon:
            raise usage.UsageError("--logfile -: a daemon has no standard output; -n keeps it in the foreground")
        if path == "-" or (not path and not self.is_daemon):
            return standard_output()
        try:
            return open_file(path or default)
        except OSError as error:
            raise usage.UsageError(f"cannot write the log {path or default}: {error.strerror}") from None

    def go_to_background(self) -> None:
        """Become a daemon, unless twistd stays in the foreground. The parent waits until it has started.

        Until then errors go to the parent's stderr, and its exit status reports them.
        """
        if not self.is_daemon:
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

    def run_on(self, reactor: Any, status: Callable[[], str] = str, reopen: Callable[[], None] = lambda: None) -> None:
        """Have `reactor` report the start to the waiting parent and to the service manager, which `status` is for,
        remove the pid file at the end, and rotate the log. `reopen` is called when logs are to be opened again.
        """
        reactor.callWhenRunning(self._started)
        self.notifier.run_on(reactor, status)
        reactor.addSystemEventTrigger("after", "shutdown", self._remove_pid_file)
        rotate_at_signal(reactor, self._out if isinstance(self._out, RotatingFile) else None, reopen)

    def _started(self) -> None:
        if self._starting is None:
            return
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
            if stream is not None:  # None if it was closed: another file may have its descriptor
                os.dup2(null, stream.fileno())
        os.close(null)
        os.write(self._starting, b"1")
        os.close(self._starting)
        self._config["nodaemon"] = False  # twistd looks at it when it reports a crash

    def reload_report(self) -> ReloadReport | None:
        """The file for what becomes of reloads, removed at the end; None without a pid file, or if it cannot be made.

        To be called before privileges are shed.
        """
        path = self._config.get("pidfile")
        try:
            self._report = ReloadReport(path) if path else None
        except OSError as error:
            _log.warn("rproxy reload cannot tell what becomes of it: {path}: {error}", path=path, error=error.strerror)
        return self._report

    def hold_pid_file(self) -> None:
        """Lock the pid file, which twistd has written. Raises `StartupError`."""
        path = self._config.get("pidfile")
        try:
            self._pid_file = pidfile.hold(path) if path else None
        except usage.UsageError as error:
            self._config["pidfile"] = ""  # the file is the other process's: twistd must not remove it
            raise StartupError(str(error)) from None

    def take_over_pid_file(self) -> None:
        """Replace the pid file of a process whose ports this one has taken over. Raises `StartupError`."""
        if not self.replaced_pidfile:
            return
        try:
            pidfile.take_over(self._config["pidfile"], self.replaced_pidfile)
        except OSError as error:
            raise StartupError(f"cannot replace the pid file {self.replaced_pidfile}: {error.strerror}") from None
        self._config["pidfile"] = self.replaced_pidfile

    def shed_privileges(self) -> None:
        """Change to the user and group of --uid and --gid, which need no entry in passwd. Raises `StartupError`."""
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
        files = [(self._config.get("pidfile"), self._pid_file), *self.files]
        if isinstance(self._out, RotatingFile):
            files.append((self._out.path, self._out.descriptor))
        if self._report is not None:
            files.append((self._report.path, self._report.descriptor))
        for path, descriptor in files:
            if path and descriptor is not None and _is_at(path, descriptor):
                with suppress(PermissionError):  # another user's file that all may write
                    os.fchown(descriptor, -1 if uid is None else uid, gid)
        for give in self.gives:
            give(-1 if uid is None else uid, gid)

    def _remove_pid_file(self) -> None:
        """Remove the report of reloads, and empty the pid file if its folder is not writable any more, since privileges
        were shed. Otherwise twistd removes it.
        """
        path = self._config.get("pidfile")
        if self._report is not None:
            self._report.close()
        if not path or self._pid_file is None:
            return
        path = self._config["pidfile"] = name_of(path, self._pid_file)
        if not path or not os.access(os.path.dirname(path), os.W_OK):
            os.ftruncate(self._pid_file, 0)
            self._config["pidfile"] = ""


def _groups(uid: int | None, gid: int | None) -> tuple[list[int], int]:
    """The supplementary groups, and the primary one: `gid`, or else the user's own, or else one equal to `uid`."""
    try:
        user = None if uid is None else pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        user = None
    if gid is None:
        assert uid is not None
        gid = user.pw_gid if user else uid
    return (os.getgrouplist(user.pw_name, gid) if user else [gid]), gid


def _is_at(path: str, descriptor: int) -> bool:
    """Whether `path` is the open file and its only link: only then may root safely change its owner."""
    with suppress(OSError):
        there = os.lstat(path)
        return stat.S_ISREG(there.st_mode) and there.st_nlink == 1 and os.path.samestat(there, os.fstat(descriptor))
    return False


class ProcessService(Service):
    """A service that twistd runs, or, without a `process`, a part of another one."""

    process: Process | None = None

    def setServiceParent(self, parent: Any) -> None:
        if self.process is not None and self.process.observer is not None:
            parent.setComponent(ILogObserver, self.process.observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Open the ports, and then shed the privileges that this takes. Raises `StartupError`."""
        if self.process is None:
            self._bind()
            return
        self.process.hold_pid_file()
        self._bind()
        self.process.take_over_pid_file()
        self._made_pid_file(self.process)
        self.process.shed_privileges()

    def _made_pid_file(self, process: Process) -> None:
        """The pid file has its place, and the process still has its privileges."""

    def _bind(self) -> None:
        """Open the ports, all or none. Raises `StartupError`."""
        raise NotImplementedError


def process_of(options: CommandOptions) -> Process | None:
    """twistd's process, in the background from here on if it is a daemon; None if twistd does not run."""
    report_startup_errors_in_one_line()
    if options.parent is None:
        return None
    try:
        process = Process(options.parent, options.name)
    except usage.UsageError as error:
        fail(f"twistd {options.command}: {error}")
    process.replaced_pidfile = options.replaced_pidfile
    process.go_to_background()
    return process


def reloading(process: Process | None, reload: Callable[[], None]) -> Callable[[], None]:
    """`reload`, during which the service manager knows of it."""
    if process is None:
        return reload

    def told() -> None:
        with process.notifier.reloading():
            reload()

    return told
