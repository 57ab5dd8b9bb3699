"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
from typing import Final

_UCRED: Final = struct.Struct("=iII")
"""struct ucred: pid, uid, gid (unix(7))."""


def peer_uid(sock: socket.socket) -> int | None:
    """The user id of the process that has connected to this Unix socket, or made the pair; None for other sockets.

    It is that of the time of the connect. None where the system does not tell (SO_PEERCRED is Linux').
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if sock.family != socket.AF_UNIX or option is None:
        return None
    try:
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))
    except OSError:
        return None
    return int(uid)
