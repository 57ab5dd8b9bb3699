"""The measured programs and their helpers: configuration, start and stop."""

from __future__ import annotations

import io
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Final

import attrs

from rproxy.net.addresses import Address, written
from tests.certificates import Authority
from tests.conftest import PACKAGES
from tests.integration.addresses import LOOPBACK, parse_address
from tests.integration.fake_agents import FakeAgent
from tests.integration.polling import READY_S, STOP_S, poll
from tests.integration.twistd import Twistd, environment

NEEDED: Final = ("haproxy", "nginx", "openssl", "wrk")
STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
DESCRIPTORS_MAX: Final = 20_000
"""The limit for all programs, so that tables sized by it do not differ between machines."""
CONNECTIONS_MAX: Final = 9000
PIPES_MAX: Final = 256
"""Twice the connections of any load: both directions of each may be spliced."""
SMALL: Final = "small"
LARGE: Final = "large"
LARGE_BYTES: Final = 1 << 30

HAPROXY_DEFAULTS: Final = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 10m
    timeout server 10m
    option tcp-smart-accept
    option tcp-smart-connect
"""
_HAPROXY: Final = """\
global
    nbthread 1
    maxconn {connections}
    maxpipes {pipes}
    tune.pipesize 1048576
{defaults}{options}
listen proxy
    bind {host}:{port} backlog 4096
    bind {host}:{tls_port} backlog 4096 ssl crt {certificate}
    server backend {backend}{server_options}
"""
_RPROXY: Final = """\
[[service]]
listen = ["{host}:0", {{ address = "localhost:0", tls = {{ certificate = "{certificate}" }} }}]
"""
_NGINX: Final = """\
{modules}
{user}
worker_processes 1;
worker_rlimit_nofile {descriptors};
daemon off;
pid {port}.pid;
events {{
    worker_connections {sockets};
    use epoll;
    multi_accept on;
}}
"""
_NGINX_STREAM: Final = """
stream {{
    server {{
        listen {host}:{port} backlog=4096 reuseport;
        proxy_pass {backend};
        proxy_connect_timeout 5s;
        proxy_timeout 10m;
        tcp_nodelay on;
    }}
}}
"""
_NGINX_HTTP: Final = """
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 10m;
    keepalive_requests 1000000000;
    client_header_timeout 10m;
    open_file_cache max=10;
    client_body_temp_path {port}.body;
    proxy_temp_path {port}.proxy;
    fastcgi_temp_path {port}.fastcgi;
    uwsgi_temp_path {port}.uwsgi;
    scgi_temp_path {port}.scgi;
    server {{
        listen {host}:{port} backlog=4096;
        listen {host}:{headed_port} proxy_protocol backlog=4096;
        root {folder};
    }}
}}
"""


class ProgramFailed(Exception):
    """A program did not run, or a measurement failed."""


@attrs.frozen
class Running:
    """A running peer."""

    address: Address
    pid: int | None = None
    """The proxy's process id; None without a proxy."""
    tls: Address | None = None
    """Where it terminates TLS; None if it does not."""

    @property
    def pids(self) -> list[int]:
        """Process ids of the proxy and its workers."""
        return [] if self.pid is None else [self.pid, *_children(self.pid)]


def end_children() -> None:
    """End processes that were started while a signal arrived."""
    for pid in _children(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def missing() -> list[str]:
    """The Debian packages to install."""
    lacking = [PACKAGES.get(program, program) for program in NEEDED if _path(program) is None]
    if not STREAM_MODULE.exists():
        lacking.append("libnginx-mod-stream")
    return sorted({package for packages in lacking for package in packages.split()})


def _path(program: str) -> str | None:
    """The program's path: Debian has servers in sbin, which is only in root's PATH."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))


def path(program: str) -> str:
    found = _path(program)
    if found is None:
        raise ProgramFailed(f"{program} is missing")
    return found


def version(program: str) -> str:
    """The version as the program prints it."""
    said = subprocess.run(
        [path(program), "version" if program == "openssl" else "-v"],
        capture_output=True,
        text=True,
        check=False,
        timeout=READY_S,
    )
    found = re.search(r"\d+\.\d[\w.+/:~-]*", said.stdout + said.stderr)
    return found[0] if found else "unknown"


def raise_descriptor_limit() -> None:
    """Raise the limit for this process and its children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connections_max() -> int:
    """HAProxy does not start when two descriptors for each do not fit beside its pipes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(CONNECTIONS_MAX, (soft - 2 * PIPES_MAX - 200) // 2)


@contextmanager
def http_backend(folder: Path) -> Iterator[Address]:
    """An HTTP server of a small and a large file."""
    (folder / SMALL).write_bytes(b"x" * 100)
    with (folder / LARGE).open("wb") as large:
        large.truncate(LARGE_BYTES)
    _read(folder / LARGE)
    with _nginx(folder, _NGINX_HTTP) as server:
        yield server.address


def _read(path: Path) -> None:
    """Read a file into the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


@contextmanager
def _nginx(folder: Path, purpose: str, modules: str = "", backend: str = "") -> Iterator[Running]:
    port, headed_port = free_pair()
    config = folder / f"{port}.conf"
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    config.write_text(
        (_NGINX + purpose).format(
            modules=modules,
            user="user root;" if os.geteuid() == 0 else "",  # else the worker, as nobody, cannot read the folder
            descriptors=soft,
            sockets=2 * connections_max(),
            folder=folder,
            host=LOOPBACK,
            port=port,
            headed_port=headed_port,
            backend=backend,
        )
    )
    command = [path("nginx"), "-p", str(folder), "-c", str(config), "-e", "stderr"]
    with _program(folder, command, port) as running:
        yield running


def _nginx_stream(folder: Path, backend: Address) -> AbstractContextManager[Running]:
    return _nginx(folder, _NGINX_STREAM, f"load_module {STREAM_MODULE};", written(backend))


@contextmanager
def _haproxy(folder: Path, backend: Address, *options: str, server_options: str = "") -> Iterator[Running]:
    port, tls_port = _free_port(), _free_port()
    config = folder / f"{port}.cfg"
    config.write_text(
        _HAPROXY.format(
            tls_port=tls_port,
            certificate=_certificate(folder),
            defaults=HAPROXY_DEFAULTS,
            connections=connections_max(),
            pipes=PIPES_MAX,
            options="".join(f"    option {option}\n" for option in options),
            host=LOOPBACK,
            port=port,
            backend=written(backend),
            server_options=server_options,
        )
    )
    with _program(folder, [path("haproxy"), "-db", "-f", str(config)], port) as running:
        yield attrs.evolve(running, tls=(LOOPBACK, tls_port))


def _certificate(folder: Path) -> Path:
    """A certificate with its key in one file: of the kind that most sites have now, ECDSA on P-256."""
    files = Authority.root(folder).issue(LOOPBACK)
    both = folder / "certificate.pem"
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    return both


@contextmanager
def _portforward(folder: Path, backend: Address) -> Iterator[Running]:
    port = _free_port()
    module = "tests.benchmarks.peers.portforward"
    command = [sys.executable, "-m", module, str(port), backend[0], str(backend[1])]
    with _program(folder, command, port) as running:
        yield running


@contextmanager
def _direct(_: Path, backend: Address) -> Iterator[Running]:
    yield Running(backend)


class _QuietTwistd(Twistd):
    """One that does not print its log on closing."""

    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            super().close()


@contextmanager
def _rproxy_with_tls(folder: Path, backend: Address) -> Iterator[Running]:
    """The carrier that does TLS is always the portable one."""
    config = folder / "rproxy.toml"
    config.write_text(_RPROXY.format(host=LOOPBACK, certificate=_certificate(folder)))
    with _rproxy(folder, backend, "portable", "--config", str(config)) as running:
        yield running


@contextmanager
def _rproxy(folder: Path, backend: Address, carrier: str, *options: str) -> Iterator[Running]:
    """Without a listener for operators, unless `options` have one."""
    listen = [] if "--config" in options else ["--listen", f"{LOOPBACK}:0"]
    ports = [*listen, "--monitor", f"{LOOPBACK}:0", "--drain-timeout", "1"]
    with _QuietTwistd(folder, "rproxy", *ports, "--carrier", carrier, *options, reactor="epoll") as proxy:
        agent = FakeAgent(parse_address(proxy.logged(r"listening for agents on UDP (\S+)")), backend[1])
        try:
            proxy.logged(rf"({re.escape(written(backend))}).* -> up")
            addresses = re.findall(r"listening for clients on (\S+)", proxy.log)
            address, *tls = map(parse_address, addresses)
            yield Running(address, proxy.pid, *tls)
        finally:
            agent.close(unregister=False)


def _rproxy_with_log(folder: Path, backend: Address, *options: str) -> AbstractContextManager[Running]:
    return _rproxy(folder, backend, "splice", "--access-log", str(folder / "access.log"), *options)


def _rproxy_with_headers(folder: Path, backend: Address) -> AbstractContextManager[Running]:
    config = folder / "rproxy.toml"
    config.write_text(f'[[service]]\nlisten = ["{LOOPBACK}:0"]\nsend-proxy = 2\n')
    return _rproxy(folder, headed(backend), "splice", "--config", str(config))


PEERS: Final[Mapping[str, Callable[[Path, Address], AbstractContextManager[Running]]]] = {
    "splice": lambda folder, backend: _rproxy(folder, backend, "splice"),
    "freshness-off": lambda folder, backend: _rproxy(folder, backend, "splice", "--freshness", "off"),
    "proxy-v2": _rproxy_with_headers,
    "access-log": _rproxy_with_log,
    "operators": lambda folder, backend: _rproxy_with_log(folder, backend, "--admin", f"{LOOPBACK}:0"),
    "portable": _rproxy_with_tls,
    "haproxy": _haproxy,
    "haproxy-splice": lambda folder, backend: _haproxy(folder, backend, "splice-request", "splice-response"),
    "haproxy-proxy-v2": lambda folder, backend: _haproxy(
        folder, headed(backend), "splice-request", "splice-response", server_options=" send-proxy-v2"
    ),
    "nginx": _nginx_stream,
    "portforward": _portforward,
    "direct": _direct,
}
"""Context managers that run a peer for a back-end, with its files in a folder."""


def headed(backend: Address) -> Address:
    """Where a back-end expects PROXY headers: at the next port."""
    return backend[0], backend[1] + 1


def free_pair() -> tuple[int, int]:
    """Two consecutive ports that are free."""
    while True:
        port = _free_port()
        with suppress(OSError), closing(socket.socket()) as sock:
            sock.bind((LOOPBACK, port + 1))
            return port, port + 1


def _free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def _program(folder: Path, command: list[str], port: int) -> Iterator[Running]:
    """Run a program; entered once it accepts connections at `port`."""
    said = folder / f"{port}.err"
    with said.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    running = Running((LOOPBACK, port), process.pid)
    try:
        poll(lambda: _accepts(process, running.address, said), READY_S, f"{command[0]} accepts")
        yield running
    finally:
        _end(process, running)


def _accepts(process: subprocess.Popen[bytes], address: Address, said: Path) -> bool:
    if process.poll() is not None:
        raise ProgramFailed(f"it has ended: {said.read_text(errors='replace').strip()}")
    with suppress(OSError), closing(socket.create_connection(address, timeout=1.0)):
        return True
    return False


def _end(process: subprocess.Popen[bytes], running: Running) -> None:
    """End a program and its workers, which end with it unless it is killed."""
    workers = running.pids[1:]
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        for pid in (process.pid, *workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
