"""Answers HAProxy's agent checks with a weight made of the figures that our agent reports: `... ADDRESS PORT`.

The weight is what CPU use leaves of 100 %, but at least a tenth: a host whose CPU is busy may only be serving, and one
that gets no clients at all looks idle next. leastconn itself counts the connections. Ends with its standard input.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from contextlib import suppress
from typing import Final

from rproxy.agent.sampler import HostSampler, Load
from rproxy.agent.scope import Scope, figures

WEIGHT_MIN: Final = 10
SEND_S: Final = 1.0


def answer(load: Load) -> bytes:
    """A line such as "75%" (HAProxy's configuration manual, agent-check). An unknown CPU use changes no weight."""
    return b"\n" if load.cpu is None else b"%d%%\n" % max(100 - load.cpu, WEIGHT_MIN)


def main(address: str, port: str) -> None:
    sampler = HostSampler(time.monotonic, figures(Scope.AUTO))
    listener = socket.create_server((address, int(port)))
    print(json.dumps("ready"), flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        with suppress(OSError), listener.accept()[0] as connection:
            connection.settimeout(SEND_S)
            connection.sendall(answer(sampler.sample()))


if __name__ == "__main__":
    main(*sys.argv[1:])
