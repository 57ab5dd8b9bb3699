"""Pid files: only a proxy or an agent that lives keeps another one from starting.

It holds a lock on its file for as long as it lives. The number in a file that was left behind says nothing: another
program may have it by now, and in a container it is likely to be one's own.
"""

from __future__ import annotations

import fcntl
import os
import stat

from twisted.python import usage


def clear(path: str) -> None:
    """Remove a file that nobody holds. Raises `UsageError` where somebody does, or where it is no file."""
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
    except OSError as error:
        raise usage.UsageError(f"cannot remove the old pid file {path}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def hold(path: str) -> int:
    """Lock a file for the life of this process; its descriptor. Raises `UsageError`, and `OSError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    _lock(descriptor, path)
    os.fchmod(descriptor, 0o644)  # a daemon's umask would keep others from seeing that it is held
    return descriptor


def _open(path: str) -> int:
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_RDWR)
    except PermissionError:
        return os.open(path, flags | os.O_RDONLY)


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number = os.pread(descriptor, 20, 0).decode("ascii", errors="replace").strip()
        raise usage.UsageError(
            f"process {number} runs already with the pid file {path}; for a second one, give twistd another --pidfile"
        ) from None
    except OSError:
        pass  # a file system without locks
