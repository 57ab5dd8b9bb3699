"""Pid files: a lock on the file keeps a second proxy or agent from starting with it.

The process id in the file is not used. After a crash another program may have it; in a container it is often that of
the new process.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from twisted.python import usage

from rproxy.config.command_options import CommandOptions
from rproxy.net.files import open_nonblocking
from rproxy.tap.pidfile_names import OLD, OLDER_MAX, REPORT

_TWISTD_DEFAULT: Final = "twistd.pid"
_NEW: Final = ".new"


class Held(usage.UsageError):
    """Another process holds the file."""


def own_pidfile(options: CommandOptions, *, takes_over: bool = False) -> None:
    """Choose twistd's pid file, after the options are parsed, and check that it can be written. Raises `UsageError`.

    Unless it was chosen, it is the command's own, so that a proxy and an agent can start in one folder, or none if
    twistd stays in the foreground. If a process holds it whose ports this one `takes_over`, twistd gets another one,
    which is to replace that later (`options.replaced_pidfile`).
    """
    twistd = options.parent
    if twistd is None:
        return
    if twistd.get("pidfile") == _TWISTD_DEFAULT and not _is_given("--pidfile"):
        twistd["pidfile"] = "" if in_foreground(twistd) else f"{options.name}.pid"
    pidfile = twistd.get("pidfile")
    if not pidfile:
        return
    path = os.path.join(twistd.get("chroot") or "/", os.path.abspath(pidfile).lstrip("/"))
    if not os.access(os.path.dirname(path), os.W_OK):
        raise usage.UsageError(f"cannot write {pidfile} here: start elsewhere, or use twistd --pidfile FILE")
    try:
        clear(path)
    except Held:
        if not takes_over:
            raise
        clear(path + _NEW)
        options.replaced_pidfile, twistd["pidfile"] = os.path.abspath(pidfile), pidfile + _NEW


def take_over(path: str, final: str) -> None:
    """Rename the file `path` to `final`, and the one there, which is another process', to `final` with ``.old``.

    A file of that name whose process goes on gets another ``.old``. Raises `OSError`.
    """
    with suppress(FileNotFoundError):  # the other process has ended
        _put_aside(final, OLDER_MAX)
    os.replace(path, final)


def _put_aside(path: str, older_max: int) -> None:
    """Rename `path` to `path`.old; if a running process holds that name, its file first, up to `older_max` deep."""
    old = path + OLD
    with suppress(usage.UsageError):  # if it is no file, it cannot be replaced either
        try:
            clear(old)
        except Held:
            if older_max > 1:
                _put_aside(old, older_max - 1)
    os.replace(path, old)
    with suppress(OSError):
        os.replace(path + REPORT, old + REPORT)


def in_foreground(twistd: Mapping[str, Any]) -> bool:
    """Whether twistd's options keep it from becoming a daemon."""
    return bool(twistd.get("nodaemon") or twistd.get("debug"))


def _is_given(option: str) -> bool:
    """Whether it is on the command line, in full: twistd keeps only the value, which may be the default."""
    return any(word.partition("=")[0] == option for word in sys.argv)


def clear(path: str) -> None:
    """Remove the file of a process that has ended. Raises `UsageError` if a process holds it, or if it is no file."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise usage.UsageError(f"cannot write the pid file {path}: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise usage.UsageError(f"the pid file {path} is no regular file")
        _lock(descriptor, path)
        os.unlink(path)
        with suppress(OSError):
            os.unlink(path + REPORT)
    except OSError as error:
        raise usage.UsageError(f"cannot remove the old pid file {path}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def hold(path: str) -> int:
    """Lock a file until this process ends, and return its descriptor. Raises `UsageError` if it is held, `OSError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    _lock(descriptor, path)
    os.fchmod(descriptor, 0o644)  # despite a daemon's umask: others must be able to open it to test the lock
    return descriptor


def _open(path: str) -> int:
    try:
        return open_nonblocking(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return open_nonblocking(path, os.O_RDONLY | os.O_CLOEXEC)


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number = os.pread(descriptor, 20, 0).decode("ascii", errors="replace").strip()
        raise Held(
            f"process {number} runs already with the pid file {path}; for a second one, give twistd another --pidfile"
        ) from None
    except OSError:
        pass  # the file system has no locks
