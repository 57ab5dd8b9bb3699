"""`twisted.protocols.portforward` from PORT to HOST:PORT, as fast as it can be had: `... PORT HOST PORT`."""

from __future__ import annotations

import sys
from typing import Any, Final

from twisted.internet import epollreactor

LOOPBACK: Final = "127.0.0.1"


def main(port: str, host: str, service_port: str) -> None:
    epollreactor.install()
    from twisted.internet import reactor as installed  # not before
    from twisted.protocols.portforward import ProxyClientFactory, ProxyFactory

    reactor: Any = installed
    ProxyFactory.noisy = ProxyClientFactory.noisy = False
    reactor.listenTCP(int(port), ProxyFactory(host, int(service_port)), backlog=4096, interface=LOOPBACK)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
