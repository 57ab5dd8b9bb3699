"""HAProxy and nginx in processes of their own, as senders and receivers of PROXY headers."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rproxy.net.addresses import Address
from tests.conftest import need
from tests.integration.addresses import LOOPBACK, address_of
from tests.integration.polling import READY_S, poll
from tests.integration.programs import end

_STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_HAPROXY: Final = """\
global
    maxconn 100
defaults
    timeout connect 5s
    timeout client 30s
    timeout server 30s
"""
_NGINX: Final = """\
{modules}
{user}
worker_processes 1;
daemon off;
pid nginx.pid;
events {{ worker_connections 100; }}
"""


def free_ports(number: int) -> list[int]:
    """Ports of the loopback address on which nothing listens."""
    socks = [socket.socket() for _ in range(number)]
    for sock in socks:
        sock.bind((LOOPBACK, 0))
    ports = [address_of(sock)[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


@contextmanager
def haproxy(folder: Path, config: str, *ready: Address) -> Iterator[None]:
    """HAProxy with these sections; entered once it accepts at all the `ready` addresses."""
    (program,) = need("haproxy")
    path = folder / "haproxy.cfg"
    path.write_text(_HAPROXY + config)
    with _running([program, "-db", "-f", str(path)], folder / "haproxy.err", ready):
        yield


@contextmanager
def nginx(folder: Path, config: str, *ready: Address) -> Iterator[None]:
    """The same of nginx; it is in `folder`."""
    (program,) = need("nginx")
    path = folder / "nginx.conf"
    modules = f"load_module {_STREAM_MODULE};" if _STREAM_MODULE.exists() else ""
    user = "user root;" if os.geteuid() == 0 else ""
    path.write_text(_NGINX.format(modules=modules, user=user) + config)
    with _running([program, "-p", str(folder), "-c", str(path), "-e", "stderr"], folder / "nginx.err", ready):
        yield


@contextmanager
def _running(command: list[str], errors: Path, ready: Sequence[Address]) -> Iterator[None]:
    with errors.open("wb") as output:
        process = subprocess.Popen(command, cwd=errors.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        poll(lambda: _accept(process, ready, errors), READY_S, f"{command[0]} accepts")
        yield
    finally:
        end(process)


def _accept(process: subprocess.Popen[bytes], addresses: Sequence[Address], errors: Path) -> bool:
    assert process.poll() is None, errors.read_text(errors="replace")
    with suppress(OSError):
        for address in addresses:
            socket.create_connection(address, timeout=1.0).close()
        return True
    return False
