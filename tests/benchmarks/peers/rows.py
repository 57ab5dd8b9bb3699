"""The measurements. Each loads one peer for some seconds and returns its figures by key."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import attrs

from rproxy.net.addresses import Address, written
from tests.benchmarks.peers.pacing import answer_size, request
from tests.benchmarks.peers.programs import LARGE, LARGE_BYTES, PIPES_MAX, SMALL, ProgramFailed, Running, path
from tests.integration.polling import SOCKET_S, poll
from tests.integration.sockets import connect
from tests.integration.twistd import environment

CONNECTIONS: Final = 64
IDLE: Final = 3000
IDLE_BEFORE: Final = 200
"""Connections opened first, so that one-time costs do not count."""
SETTLED_LOOKS: Final = 4
SETTLED_S: Final = 5.0
WARM_UP_S: Final = 0.3
"""Time for TCP windows and the proxies' pipes to grow."""
CHUNK: Final = 1 << 20
PIPELINED: Final = 200
"""Requests pipelined by each stream: more than can be answered in the time."""
GB: Final = 1e9
_MICRO: Final = 1e6

Figures = dict[str, float]


@attrs.frozen
class Load:
    folder: Path
    """Folder of the back-end's files."""
    seconds: float
    rate: float = 0.0
    """Requests/s at which latency is measured."""


@attrs.define
class Usage:
    """Elapsed seconds, and a proxy's CPU time in steps of 10 ms."""

    wall_s: float = 0.0
    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s

    @property
    def busy(self) -> float:
        """Percent of a core."""
        return 100 * self.cpu_s / self.wall_s


def _cpu(pid: int) -> tuple[float, float]:
    """Seconds in user mode and in the kernel."""
    _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    user, system = fields.split()[11:13]
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return int(user) * tick_s, int(system) * tick_s


@contextmanager
def _using(peer: Running) -> Iterator[Usage]:
    """Usage during the block; filled in at its end."""
    usage, pids = Usage(), peer.pids
    before, started = [_cpu(pid) for pid in pids], time.perf_counter()
    yield usage
    usage.wall_s = time.perf_counter() - started
    for (user, system), pid in zip(before, pids, strict=True):
        user_now, system_now = _cpu(pid)
        usage.user_s += user_now - user
        usage.system_s += system_now - system


@attrs.frozen
class Wrk:
    """Results printed by wrk."""

    requests: int
    per_s: float

    @classmethod
    def parse(cls, said: str) -> Wrk:
        """Raises `ProgramFailed` if wrk reported errors."""
        errors = re.search(r"Socket errors: .*|Non-2xx.*", said)
        requests = re.search(r"(\d+) requests in", said)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
        if errors or not requests or not rate or not int(requests[1]):
            raise ProgramFailed(f"wrk: {errors[0] if errors else said.strip()}")
        return cls(int(requests[1]), float(rate[1]))


def _wrk(peer: Running, seconds: float, *options: str) -> Wrk:
    """Run wrk, which takes whole seconds only."""
    host, port = peer.address
    duration = math.ceil(seconds)
    command = [path("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{duration}s", "--timeout", "10s", *options]
    return Wrk.parse(_output([*command, f"http://{host}:{port}/{SMALL}"], duration))


def _output(command: list[str], seconds: float) -> str:
    ended = subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30.0,
    )
    if ended.returncode:
        raise ProgramFailed(f"{Path(command[0]).name}: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return ended.stdout


def connections(peer: Running, load: Load) -> Figures:
    return _wrk_figures(peer, load, "connection", "-H", "Connection: close")


def requests(peer: Running, load: Load) -> Figures:
    return _wrk_figures(peer, load, "request")


def _wrk_figures(peer: Running, load: Load, unit: str, *options: str) -> Figures:
    with _using(peer) as used:
        wrk = _wrk(peer, load.seconds, *options)
    figures = {f"{unit}s_per_s": wrk.per_s}
    if peer.pid is not None:
        figures[f"{unit}_user_us"] = used.user_s / wrk.requests * _MICRO
        figures[f"{unit}_system_us"] = used.system_s / wrk.requests * _MICRO
        figures[f"{unit}_cpu_us"] = used.cpu_s / wrk.requests * _MICRO
        figures[f"{unit}s_busy"] = used.busy
    return figures


def latency(peer: Running, load: Load) -> Figures:
    host, port = peer.address
    module = "tests.benchmarks.peers.pacing"
    command = [sys.executable, "-m", module, host, str(port), SMALL, f"{load.rate}", f"{load.seconds}"]
    figures: Figures = json.loads(_output(command, load.seconds))
    return figures


def download(peer: Running, load: Load) -> Figures:
    """The answers' bytes are dropped in the kernel: a client that copies them is slower than some proxies."""
    buffer = bytearray(CHUNK)
    with connect(peer.address) as client:
        client.sendall(request(LARGE) * PIPELINED)
        return _bulk("download", peer, load, lambda: client.recv_into(buffer, CHUNK, socket.MSG_TRUNC))


def upload(peer: Running, load: Load) -> Figures:
    """Sent from the page cache, for the same reason."""
    with (load.folder / LARGE).open("rb", buffering=0) as file, connect(peer.address) as client:

        def send() -> int:
            return client.sendfile(file, file.tell() % LARGE_BYTES, CHUNK)

        return _bulk("upload", peer, load, send)


def discard(connection: socket.socket) -> None:
    """The back-end of uploads."""
    buffer = bytearray(CHUNK)
    while connection.recv_into(buffer, CHUNK, socket.MSG_TRUNC):
        pass


def _bulk(row: str, peer: Running, load: Load, move: Callable[[], int]) -> Figures:
    _move(move, WARM_UP_S)
    with _using(peer) as used:
        moved = _move(move, load.seconds)
    figures = {f"{row}_mb_per_s": moved / used.wall_s / _MICRO}
    if peer.pid is not None:
        figures[f"{row}_cpu_s_per_gb"] = used.cpu_s / moved * GB
        figures[f"{row}_busy"] = used.busy
    return figures


def _move(move: Callable[[], int], seconds: float) -> int:
    """Bytes in that time."""
    moved, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        size = move()
        if not size:
            raise ProgramFailed(f"the stream ended after {moved} bytes")
        moved += size
    return moved


def tls_connections(peer: Running, load: Load) -> Figures:
    """New connections with a full handshake, one after the other, a request on each."""
    return _tls_connections(peer, load, "new", reused=False)


def tls_resumed(peer: Running, load: Load) -> Figures:
    """The same with the first one's session resumed."""
    return _tls_connections(peer, load, "reuse", reused=True)


def _tls_connections(peer: Running, load: Load, which: str, *, reused: bool) -> Figures:
    if peer.tls is None:
        return {}
    seconds = math.ceil(load.seconds)
    command = [path("openssl"), "s_time", f"-{which}", "-connect", written(peer.tls)]
    with _using(peer) as used:
        said = _output([*command, "-time", str(seconds), "-www", f"/{SMALL}"], seconds)
    found = re.search(r"(\d+) connections in \d+ real seconds", said)
    resumed = sum(len(letters) for letters in re.findall(r"^[*rt]*r[*rt]*$", said, re.MULTILINE))
    if not found or not int(found[1]) or (resumed > 0) is not reused:
        raise ProgramFailed(f"openssl s_time: {said.strip()[-300:]}")
    return {f"tls_{which}_cpu_us": used.cpu_s / int(found[1]) * _MICRO}


def tls_download(peer: Running, load: Load) -> Figures:
    if peer.tls is None:
        return {}
    buffer = bytearray(CHUNK)
    with _tls_client(peer.tls) as client:
        client.sendall(request(LARGE) * PIPELINED)
        return _bulk("tls_download", peer, load, lambda: client.recv_into(buffer, CHUNK))


def tls_upload(peer: Running, load: Load) -> Figures:
    if peer.tls is None:
        return {}
    data = bytes(CHUNK)
    with _tls_client(peer.tls) as client:
        return _bulk("tls_upload", peer, load, lambda: client.send(data))


def _tls_client(address: Address) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connect(address))


def memory(peer: Running, _: Load) -> Figures:
    """Memory per idle connection that has served one request, to prove that it reaches the back-end."""
    if peer.pid is None:
        return {}
    descriptors = _descriptors(peer)
    with ExitStack() as stack:
        _open_idle(peer, IDLE_BEFORE, stack)
        before = _settled_private_kb(peer)
        _open_idle(peer, IDLE, stack)
        after = _settled_private_kb(peer)
    poll(lambda: _descriptors(peer) <= descriptors + 2 * PIPES_MAX, SOCKET_S, "the idle connections are closed")
    return {"idle_kb": (after - before) / IDLE}


def _open_idle(peer: Running, number: int, stack: ExitStack) -> None:
    for _ in range(number):
        answer_size(stack.enter_context(connect(peer.address)), request(SMALL))


def _settled_private_kb(peer: Running) -> int:
    """The private memory in kB once it is stable."""
    seen: list[int] = []

    def look() -> bool:
        seen.append(_private_kb(peer))
        return len(seen) >= SETTLED_LOOKS and len(set(seen[-SETTLED_LOOKS:])) == 1

    poll(look, SETTLED_S, "its memory has settled", every_s=0.05)
    return seen[-1]


def _private_kb(peer: Running) -> int:
    """Memory written to that no other process shares: growth of the heap, and no code that is first needed now."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in peer.pids]
    return sum(int(size) for rollup in rollups for size in re.findall(r"Private_Dirty:\s+(\d+) kB", rollup))


def _descriptors(peer: Running) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in peer.pids)


ROWS: Final[Mapping[str, Callable[[Running, Load], Figures]]] = {
    "memory": memory,
    "connections": connections,
    "requests": requests,
    "latency": latency,
    "download": download,
    "upload": upload,
    "tls-connections": tls_connections,
    "tls-resumed": tls_resumed,
    "tls-download": tls_download,
    "tls-upload": tls_upload,
}
"""Memory comes first, while the process has not done anything else."""
