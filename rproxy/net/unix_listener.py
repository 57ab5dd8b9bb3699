"""A listening Unix socket that only its own user, and root, can connect to."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

from twisted.internet import tcp, unix
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

PATH_MAX: Final = 98
"""Most bytes of a path: 107 (unix(7)) without a dot and a process id, which the name begins with."""
_UMASK: Final = 0o177
"""Leaves reading and writing for the owner."""


class UnixPort(unix.Port):
    """A port of Twisted's at `path`, which appears there when it listens.

    It replaces a socket on which nobody listens any more and, if it `takes_over`, any other one. When it is closed, the
    path is removed, unless another process has replaced it meanwhile.
    """

    def __init__(self, path: str, factory: Any, backlog: int, reactor: Any, *, takes_over: bool = False) -> None:
        super().__init__(os.fsencode(path), factory, backlog, reactor=reactor)
        self.path = path
        self._factory = factory
        self._takes_over = takes_over
        self._status: os.stat_result | None = None
        """Of the path, once it is this socket's."""

    def startListening(self) -> None:
        """Raises `CannotListenError`."""
        try:
            sock = self._opened()
        except OSError as error:
            raise CannotListenError(None, self.path, error) from None
        self._factory.doStart()
        self.connected = True
        self.socket: Any = sock
        self.fileno: Any = sock.fileno
        self.numberAccepts = 100
        self.startReading()

    def _opened(self) -> socket.socket:
        """A listening socket at the path. Raises `OSError`."""
        _check_replaceable(self.path, even_in_use=self._takes_over)
        temporary = f"{self.path}.{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            before = os.umask(_UMASK)
            try:
                sock.bind(temporary)
            finally:
                os.umask(before)
            sock.listen(self.backlog)
            self._status = os.lstat(temporary)
            os.rename(temporary, self.path)
        except OSError:
            sock.close()
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return sock

    def give(self, uid: int, gid: int) -> None:
        """Have the path belong to another user and group, -1 for the present one, if it is still this socket's."""
        flags = getattr(os, "O_PATH", None)
        if flags is None:  # elsewhere than on Linux there is no safe way
            return
        with suppress(OSError):
            descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if self._is_own(os.fstat(descriptor)):
                    os.chown(f"/proc/self/fd/{descriptor}", uid, gid)
            finally:
                os.close(descriptor)

    def _is_own(self, status: os.stat_result) -> bool:
        return self._status is not None and os.path.samestat(self._status, status)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        with suppress(OSError):
            if self._is_own(os.lstat(self.path)):
                os.unlink(self.path)
        tcp.Port.connectionLost(self, reason)


def _check_replaceable(path: str, *, even_in_use: bool) -> None:
    """Raises `OSError` if something is there that must stay."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(errno.EEXIST, "it is there, and no socket")
    if even_in_use:
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            return
        except BlockingIOError:  # its queue is full
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
