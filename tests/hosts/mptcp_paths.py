"""Prints what `is_closed` says of an MPTCP connection before and after its first path is reset, and what comes then."""

from __future__ import annotations

import socket
import subprocess

from rproxy.net.tcp_state import is_closed
from tests.integration.addresses import LOOPBACK
from tests.integration.polling import poll

_MPTCP = 262
_OTHER = "127.0.0.2"


def run(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=10).stdout


def mptcp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, _MPTCP)


def main() -> None:
    run("ip", "mptcp", "limits", "set", "subflow", "2")
    run("ip", "mptcp", "endpoint", "add", _OTHER, "dev", "lo", "subflow")
    with mptcp() as listener, mptcp() as client:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        client.send(b"x")
        server.recv(1)
        server.send(b"x")
        client.recv(1)
        poll(lambda: _OTHER in run("ss", "-Htn", "state", "established"), 5, "a second path")
        print(is_closed(server), flush=True)
        first = ("sport", "=", f":{client.getsockname()[1]}")
        run("ss", "-HKt", *first)
        poll(lambda: not run("ss", "-Ht", *first), 5, "the first path is gone")
        print(is_closed(server), flush=True)
        client.send(b"goes on")
        print(server.recv(7).decode())


if __name__ == "__main__":
    main()
