"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket

from rproxy.net.peer_credentials import peer_uid


def test_the_kernel_tells_the_user_of_a_unix_sockets_peer() -> None:
    first, second = socket.socketpair(socket.AF_UNIX)
    with first, second:
        assert peer_uid(first) == os.geteuid()
    assert peer_uid(first) is None  # it is closed


def test_of_other_sockets_nobody_knows() -> None:
    with socket.socket(socket.AF_INET) as sock:
        assert peer_uid(sock) is None
