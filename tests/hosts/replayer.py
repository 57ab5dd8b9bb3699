"""Replays old datagrams of agents repeatedly: `python -m tests.hosts.replayer PROXY KEYS RATE ADDRESS …`.

Word for word, as somebody who has heard them: the REGISTERs of several earlier starts of the agent at each address, and
the good-bye of the last one, in its name, from its own port and from others. Says every second how many it has sent.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Final

from rproxy.config.keyfile import read_keys
from rproxy.config.model import AGENT_PORT, MONITOR_PORT
from rproxy.wire.pdu import Pdu, Register, Unregister, encode
from rproxy.wire.seal import Sealed
from tests.hosts.datagrams import Letter, packet

STARTS: Final = 5
PORTS: Final = 50
TICK_S: Final = 0.01


def letters(proxy: str, keys: str, addresses: tuple[str, ...]) -> Iterator[Letter]:
    envelope = Sealed(read_keys(keys, derived=True))

    def letter(pdu: Pdu, address: str, port: int) -> Letter:
        return Letter((address, port), (proxy, MONITOR_PORT), envelope.seal(encode(pdu), address))

    for port in [AGENT_PORT, *range(20_000, 20_000 + PORTS)]:
        for instance in range(1001, 1001 + STARTS):
            for address in addresses:
                yield letter(Register(80, 20_000, instance), address, port)
                if instance == 1000 + STARTS:
                    yield letter(Unregister(80, instance), address, port)


def main(proxy: str, keys: str, rate: str, *addresses: str) -> None:
    packets = cycle([packet(letter) for letter in letters(proxy, keys, addresses)])
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    started, sent, told = time.monotonic(), 0, 0
    while True:
        due = int((time.monotonic() - started) * float(rate))
        while sent < due:
            sender.sendto(next(packets), (proxy, 0))
            sent += 1
        if sent - told >= float(rate):
            told = sent
            print(sent, flush=True)
        time.sleep(TICK_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
