"""Unix sockets left behind by a killed process."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import Any

from twisted.internet import endpoints

from rproxy.net.endpoints import innermost


def remove_abandoned(endpoint: Any) -> None:
    """Remove the socket of a Unix endpoint, and its lock file, if no process listens on it.

    Twisted goes by the process id in the lock file. Another process may have that id by now; in a container it is
    often our own.
    """
    endpoint = innermost(endpoint)
    if not isinstance(endpoint, endpoints.UNIXServerEndpoint):
        return
    path = endpoint._address
    with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
        sock.setblocking(False)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            os.unlink(f"{path}.lock")
