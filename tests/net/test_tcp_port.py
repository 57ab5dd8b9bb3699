"""TCP ports, bound to one family or to both."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.protocol import Factory

from rproxy.net.binding import Binding
from rproxy.net.tcp_port import BACKLOG, listen_tcp

DUAL, SIX = Binding("::"), Binding("::", ipv6_only=True)


def test_a_dual_socket_is_one_whatever_the_system_says_and_takes_both() -> None:
    from twisted.internet import reactor

    port: Any = listen_tcp(reactor, 0, Factory(), DUAL)
    assert port.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    six_only: Any = listen_tcp(reactor, 0, Factory(), SIX)
    assert six_only.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    for each in (port, six_only):
        each.stopListening()
    assert BACKLOG == 4096
