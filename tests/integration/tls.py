"""Proxies with TLS by a configuration file, and the clients and back-ends around them."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from rproxy.net.addresses import Address
from tests.certificates import Authority, Files
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.polling import READY_S, SOCKET_S, poll
from tests.integration.servers import Server
from tests.integration.sockets import connect

PAGE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"
LISTEN: Final = f'listen = ["{LOOPBACK}:0"]'


def one_page(connection: socket.socket) -> None:
    """A web server of one page that ends."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    connection.sendall(PAGE)


def table(name: str, **values: Any) -> str:
    """A table of TOML; underscores in names stand for dashes."""
    lines = [f"{key.replace('_', '-')} = {_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{name}]", *lines])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return f'"{value}"'


def tls_table(*files: Files, name: str = "service.tls", **values: Any) -> str:
    """The table for TLS with these certificates."""
    certificates, keys = [str(each.certificate) for each in files], [str(each.key) for each in files]
    return table(name, certificate=certificates, key=keys, **values)


def config_file(folder: Path, *tables: str) -> Path:
    """A configuration of one service with these tables."""
    path = folder / "rproxy.toml"
    path.write_text("\n".join(["[[service]]", LISTEN, *tables]) + "\n")
    return path


def client_context(authority: Authority, files: Files | None = None, **settings: Any) -> ssl.SSLContext:
    """Trusts that authority, and has a certificate of its own if there are files. `settings` are its attributes."""
    context = ssl.create_default_context(cafile=str(authority.path))
    if files is not None:
        context.load_cert_chain(*files.pair)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def tls_connect(
    address: Address, context: ssl.SSLContext, name: str | None = LOOPBACK, session: Any = None
) -> ssl.SSLSocket:
    """A client whose handshake is complete."""
    return context.wrap_socket(connect(address), server_hostname=name, session=session)


def common_name(client: ssl.SSLSocket) -> str:
    """Of the server's certificate."""
    certificate: Any = client.getpeercert()
    return str(dict(pair for (pair,) in certificate["subject"])["commonName"])


def tls_server(
    files: Files, handle: Callable[[ssl.SSLSocket], None], *, client_ca: Path | None = None, alpn: str = ""
) -> Server:
    """A back-end on Python's own TLS. Clients without a certificate of `client_ca`, if given, are refused."""
    context = files.server_context(client_ca, alpn)

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
            handle(tls)
            with suppress(OSError):
                tls.unwrap()  # sends close_notify

    return Server(serve)


def run(*command: str, input: bytes = b"", status: int | None = 0) -> bytes:  # noqa: A002 - subprocess's name
    """What a command prints. It must end with that status, unless that is None."""
    done = subprocess.run(command, input=input, capture_output=True, timeout=60, check=False)
    assert status is None or done.returncode == status, (done.stdout + done.stderr).decode(errors="replace")
    return done.stdout if status is not None else done.stdout + done.stderr


def curl(address: Address, authority: Authority, *options: str, name: str = "", status: int = 0) -> bytes:
    """What curl prints of the page; `name` is the host in its URL."""
    need("curl")
    host, port = address
    url = f"https://{name or host}:{port}/"
    where = ["--resolve", f"{name}:{port}:{host}"] if name else []
    return run("curl", "-s", "--noproxy", "*", "--cacert", str(authority.path), *where, *options, url, status=status)


_HAPROXY: Final = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 10s
    timeout server 10s
listen only
    bind {listen}
    server only {server}
"""
_NGINX: Final = """\
worker_processes 1;
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
user root;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
{server}
    }}
}}
"""


@contextmanager
def haproxy(folder: Path, bind: str = "", server: str = "") -> Iterator[Address]:
    """HAProxy on a port of its own; `bind` are options of its listener, `server` is what it passes its clients to."""
    (program,) = need("haproxy")
    port = _free_port()
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(listen=f"{LOOPBACK}:{port} {bind}", server=server))
    with _running([program, "-db", "-f", str(config)], port) as address:
        yield address


@contextmanager
def nginx(folder: Path, listen: str = "", **directives: str) -> Iterator[Address]:
    """nginx on a port of its own; `listen` are options of its listener, `directives` those of its server."""
    (program,) = need("nginx")
    port = _free_port()
    lines = [f"listen {LOOPBACK}:{port} {listen};", *(f"{name} {value};" for name, value in directives.items())]
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, server="\n".join(lines)))
    with _running([program, "-p", str(folder), "-c", str(config), "-e", "stderr"], port) as address:
        yield address


@contextmanager
def _running(command: list[str], port: int) -> Iterator[Address]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        poll(lambda: process.poll() is None and _accepts(port), READY_S, f"{command[0]} accepts")
        yield LOOPBACK, port
    finally:
        process.terminate()
        process.wait(SOCKET_S)


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOOPBACK, port), 1.0):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port
