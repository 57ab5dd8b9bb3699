"""Real twistd processes and, in threads of the test, the agents, servers and clients around them."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import attrs

from rproxy.agent.sampler import Load
from rproxy.net.addresses import Address
from rproxy.wire.pdu import MalformedPdu, Pdu, ProbeRequest, ProbeResponse, Register, Unregister, decode, encode

PROJECT: Final = Path(__file__).parents[2]
LOOPBACK: Final = "127.0.0.1"
REACTORS: Final = ("epoll", "asyncio")
UVLOOP: Final = "uvloop"
"""Not Twisted's name: its asyncio reactor, on uvloop's event loop."""
READY_S: Final = 20.0
"""How long a process may take to start on a busy machine. Nothing that is tested for is this slow."""
STOP_S: Final = 5.0
PROMPT_S: Final = 1.0
"""The time for what happens at once: everything that waits for no timer."""
RESTING: Final = 0.1
"""Share of a core that a process may use which only waits."""
MB: Final = 1_000_000
SMALL_BUFFER: Final = 16384
"""Bytes; a socket's that makes a slow reader."""
SOCKET_S: Final = 10.0
"""No socket of a test waits longer: a hang is a failure, not the end of the run."""
REGISTER_S: Final = 1.0
IDLE: Final = Load(cpu=0, memory=0, tcp=0)
BUSY: Final = Load(cpu=0, memory=0, tcp=1000)
"""Chosen after anything that is idle, however long the round trips."""

_RUN_TWISTD: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job's is ignored
    "; from twisted.scripts.twistd import run; run()"
)
_INSTALL_UVLOOP: Final = "import uvloop; uvloop.install(); "
_PRINT_BODY: Final = (
    "import sys; from tests.integration.processes import get; sys.stdout.buffer.write(get(sys.argv[1]))"
)
_RESET: Final = struct.pack("ii", 1, 0)
_NAME: Final = struct.Struct("!I")
_names = count(1)

T = TypeVar("T")


def poll(until: Callable[[], T | None], within_s: float, what: str, every_s: float = 0.01) -> T:
    """The first true answer of `until`."""
    deadline = time.monotonic() + within_s
    while not (answer := until()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)
    return answer


def environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}


def twistd(*arguments: str, reactor: str, prefix: Sequence[str] = (), daemon: bool = False) -> list[str]:
    """The command line of twistd, the one of this Python; `prefix` is one that ends by running it in its own place."""
    code, name = (_INSTALL_UVLOOP + _RUN_TWISTD, "asyncio") if reactor == UVLOOP else (_RUN_TWISTD, reactor)
    options = [f"--reactor={name}"] if daemon else ["-n", f"--reactor={name}"]
    return [*prefix, sys.executable, "-c", code, *options, *arguments]


def shell(command: str) -> list[str]:
    """A wrapper that runs `command`, such as `ulimit -n 80`, before it becomes what it wraps."""
    return ["sh", "-c", f'{command} && exec "$@"', "sh"]


def run_twistd(
    folder: Path, *arguments: str, reactor: str = "epoll", prefix: Sequence[str] = (), daemon: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a twistd that is not expected to last."""
    return subprocess.run(
        twistd(*arguments, reactor=reactor, prefix=prefix, daemon=daemon),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=READY_S,
    )


class Twistd:
    """A twistd command that runs in `folder`, where its log and what it says on stderr are files.

    `prefix` says where it runs, for whoever asks it something, too; `wrapper` how, for itself alone: with the
    descriptors `pass_fds`, for one.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        reactor: str = "epoll",
        prefix: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.prefix = tuple(prefix)
        name = f"{next(_names)}"
        self._log = folder / f"{name}.log"
        self._errors = folder / f"{name}.err"
        with self._log.open("wb") as log, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                twistd(*arguments, reactor=reactor, prefix=[*prefix, *wrapper]),
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=pass_fds,
                stdout=log,
                stderr=errors,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    def logged(self, pattern: str, within_s: float = READY_S) -> str:
        """The group of the first line of the log that matches."""

        def find() -> re.Match[str] | None:
            ended = not self.running
            found = re.search(pattern, self.log)
            assert found or not ended, f"it has ended:\n{self.log}{self.errors}"
            return found

        return poll(find, within_s, f"{pattern!r} in the log", every_s=0.02)[1]

    def send_signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def wait(self, within_s: float = STOP_S) -> int:
        """Its exit status, negative for a signal. Raises `TimeoutExpired`."""
        return self._process.wait(within_s)

    def stop(self, signum: signal.Signals = signal.SIGTERM, within_s: float = STOP_S) -> int:
        self.send_signal(signum)
        return self.wait(within_s)

    def close(self) -> None:
        """End it, however it is."""
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        print(f"{self._log.name}:\n{self.log}{self.errors}")

    def descriptors(self, kind: str = "") -> int:
        """How many it has open, of one kind ("socket", "pipe") or of all."""
        opened = 0
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with suppress(FileNotFoundError):  # closed in the meantime
                opened += os.readlink(f"/proc/{self.pid}/fd/{name}").startswith(kind)
        return opened

    def resident(self) -> int:
        """Bytes of memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    def cpu(self) -> float:
        """Seconds of CPU time it has had, its own and the kernel's for it, in steps of 10 ms."""
        _, _, fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")
        user, system = fields.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def share_of_a_core(self, seconds: float = 1.0) -> float:
        """What it uses from now on."""
        before = self.cpu()
        time.sleep(seconds)
        return (self.cpu() - before) / seconds


def get(url: str) -> bytes:
    """The body of an HTTP resource; no proxy of the environment is asked."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=SOCKET_S)
    try:
        connection.request("GET", f"/{path}", headers={"Connection": "close"})
        response = connection.getresponse()
        assert response.status == http.HTTPStatus.OK, response.status
        return response.read()
    finally:
        connection.close()


class Proxy(Twistd):
    """`twistd rproxy`, ready. Its ports are the kernel's choice where `options` do not say otherwise."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        host: str = LOOPBACK,
        **how: Any,
    ) -> None:
        defaults = [] if "--listen" in options else ["--listen", f"{host}:0"]
        defaults += ["--monitor", f"{host}:0", "--admin", f"{host}:0"]
        super().__init__(folder, "rproxy", *defaults, *options, **how)
        try:
            self._status = self.logged(r"status at (http://\S+)")
            self.monitor = _address(self.logged(r"listening for agents on UDP (\S+)"))
            poll(self._answers, READY_S, "the proxy is ready")
            self.idle_sockets = min(self._sockets(10))
        except BaseException:
            self.close()
            raise

    def _sockets(self, times: int) -> Iterator[int]:
        """Looked at several times: the question of `_answers` may still have one open."""
        for _ in range(times):
            yield self.descriptors("socket")
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            self.status()
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    @property
    def listeners(self) -> list[str]:
        """Where it accepts clients, in the order of the options: HOST:PORT, or a path."""
        return re.findall(r"listening for clients on (\S+)", self.log)

    @property
    def address(self) -> Address:
        """The first listener's."""
        return _address(self.listeners[0])

    @property
    def admin(self) -> Address:
        """Where it tells its status."""
        return _address(self._status.removeprefix("http://").partition("/")[0])

    def status(self) -> dict[str, Any]:
        url = self._status
        if self.prefix:
            command = [*self.prefix, sys.executable, "-c", _PRINT_BODY, url]
            body = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, check=True).stdout
        else:
            body = get(url)
        status: dict[str, Any] = json.loads(body)
        return status

    def backends(self) -> dict[Address, dict[str, Any]]:
        """The rows of the table by address."""
        return {(row["address"], row["port"]): row for row in self.status()["backends"]}

    def sessions(self) -> dict[str, int]:
        """How many have ended, by how."""
        ended: dict[str, int] = self.status()["counters"]["sessions"]
        return ended

    def state(self, address: Address) -> str | None:
        state: str | None = self.backends().get(address, {}).get("state")
        return state

    def connections(self) -> int:
        """Sessions on any back-end now, the pending ones included."""
        return sum(row["connections"] for row in self.backends().values())


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class FakeAgent:
    """Registers one service at a proxy's monitor, again until it is probed, and answers every probe with `load`.

    `delay_s` is how long it lets the proxy wait for each answer.
    """

    def __init__(
        self, monitor: Address, service_port: int, load: Load = IDLE, *, interval_s: float = 20.0, delay_s: float = 0.0
    ) -> None:
        self.load = load
        self.draining = False
        self._delay_s = delay_s
        self.probes = 0
        self._monitor = monitor
        self._registration = Register(service_port, round(interval_s * 1000), random.getrandbits(64))
        self._socket = socket.socket(family(monitor[0]), socket.SOCK_DGRAM)
        self._socket.bind((monitor[0], 0))
        self._socket.settimeout(REGISTER_S)
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> Address:
        """Where it is probed."""
        return _name(self._socket)

    @property
    def backend(self) -> Address:
        """The address of what it registers."""
        return self.address[0], self._registration.service_port

    def _run(self) -> None:
        while not self._closed:
            if not self.probes:
                self._register()
            with suppress(TimeoutError, MalformedPdu):
                datagram, source = self._socket.recvfrom(64)
                self._answer(decode(datagram), source)

    def _register(self) -> None:
        self._send(attrs.evolve(self._registration, draining=self.draining), self._monitor)

    def _send(self, pdu: Pdu, address: Any) -> None:
        self._socket.sendto(encode(pdu), address)

    def drain(self, draining: bool = True) -> None:
        """Ask for no new client, or for new clients again."""
        self.draining = draining
        self._register()

    def _answer(self, pdu: object, source: Any) -> None:
        if isinstance(pdu, ProbeRequest):
            self.probes += 1
            load = self.load
            answer = ProbeResponse(
                pdu.sequence, pdu.token, load.cpu, load.memory, load.application, load.tcp, self.draining
            )
            if self._delay_s:
                threading.Timer(self._delay_s, self._send_late, (answer, source)).start()
            else:
                self._send(answer, source)

    def _send_late(self, answer: ProbeResponse, source: Any) -> None:
        with suppress(OSError):  # closed in the meantime
            self._send(answer, source)

    def close(self, *, unregister: bool = True) -> None:
        if self._closed:
            return
        self._closed = True
        self._socket.sendto(b"", self.address)  # wakes the thread
        self._thread.join()
        if unregister:
            self._send(Unregister(self._registration.service_port, self._registration.instance), self._monitor)
        self._socket.close()


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _name(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return host, port


class Listener:
    """A port for a back-end; what connects to it is taken by `accept`."""

    def __init__(self, host: str = LOOPBACK, *, port: int = 0, backlog: int = 1024) -> None:
        self._socket = socket.socket(family(host))
        self._socket.bind((host, port))
        self._socket.listen(backlog)
        self._socket.settimeout(SOCKET_S)
        self.accepted: list[socket.socket] = []

    @property
    def address(self) -> Address:
        return _name(self._socket)

    def accept(self) -> socket.socket:
        connection, _ = self._socket.accept()
        connection.settimeout(SOCKET_S)
        self.accepted.append(connection)
        return connection

    def close(self) -> None:
        """It, and every connection it has accepted."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self.accepted:
            hang_up(connection)


class Server(Listener):
    """A back-end that runs `handle` in a thread for every connection, and then closes it."""

    def __init__(self, handle: Callable[[socket.socket], None], host: str = LOOPBACK, *, port: int = 0) -> None:
        super().__init__(host, port=port)
        self._socket.settimeout(None)
        self._handle = handle
        threading.Thread(target=self._accept_all, daemon=True).start()

    def _accept_all(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.accept(),), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._handle(connection)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


class DeafListener(Listener):
    """A port that drops every SYN, because its queue is full, until `hear`."""

    def __init__(self) -> None:
        super().__init__(backlog=0)
        self._fillers: list[socket.socket] = []
        while self._fits():
            pass

    def _fits(self) -> bool:
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(self.address)
        _, connected, _ = select.select([], [filler], [], 0.05)
        if connected:
            self._fillers.append(filler)
        else:
            filler.close()
        return bool(connected)

    def hear(self) -> None:
        """Empty the queue: the next SYN, which TCP sends again a second after the first one, gets in."""
        for filler in self._fillers:
            hang_up(self.accept())
            filler.close()
        self._fillers.clear()

    def close(self) -> None:
        for filler in self._fillers:
            filler.close()
        super().close()


class RefusingPort:
    """A port that stays taken and refuses every connection."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind((LOOPBACK, 0))

    @property
    def address(self) -> Address:
        return _name(self._socket)

    def close(self) -> None:
        self._socket.close()


def ordered(client: socket.socket, server: socket.socket, first: str) -> tuple[socket.socket, socket.socket]:
    """A session's sides, the "client" or the "server" first."""
    return (client, server) if first == "client" else (server, client)


def in_background(call: Callable[..., T], *arguments: Any) -> Future[T]:
    """What a thread makes of `call`: its result, or its exception."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def connect(address: Address | str, *, receive_buffer: int = 0) -> socket.socket:
    """A client at HOST, PORT or at the path of a UNIX socket. A small receive buffer makes a slow reader."""
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else family(address[0]))
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(SOCKET_S)
    client.connect(address)
    return client


def hang_up(sock: socket.socket) -> None:
    """Close, and wake whoever is blocked on it."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def reset(sock: socket.socket) -> None:
    """Close with a RST, which discards what has not been sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


def unsent(sock: socket.socket) -> int:
    """Bytes the peer's kernel has not acknowledged."""
    (held,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))
    return int(held)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer at the end of the stream."""
    return b"".join(_chunks(sock, size))


def receive_all(sock: socket.socket) -> bytes:
    """All to the end of the stream. Raises `ConnectionResetError` at a reset."""
    return b"".join(_chunks(sock, sys.maxsize))


def receive_until_reset(sock: socket.socket) -> bytes:
    """All up to the reset that must end it."""
    received: list[bytes] = []
    try:
        received.extend(_chunks(sock, sys.maxsize))
    except ConnectionResetError:
        return b"".join(received)
    raise AssertionError(f"a clean end after {sum(map(len, received))} bytes, and no reset")


def _chunks(sock: socket.socket, size: int) -> Iterator[bytes]:
    while size and (chunk := sock.recv(min(size, 1 << 18))):
        size -= len(chunk)
        yield chunk


def receive_now(sock: socket.socket, size: int) -> bytes:
    """Up to `size` bytes of those that are there."""
    return sock.recv(size) if is_readable(sock) else b""


def is_readable(sock: socket.socket) -> bool:
    """Whether something has arrived: data, an end or a reset."""
    poller = select.poll()  # which, unlike select, takes any descriptor
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def send_until_blocked(sock: socket.socket, quiet_s: float = 0.2, most: int = 200_000_000) -> int:
    """Send until nothing has been taken for `quiet_s`; how many bytes were. More than `most` is no back-pressure."""
    block, sent = payload(1 << 16), 0
    sock.settimeout(quiet_s)
    with suppress(TimeoutError):
        while True:
            sent += sock.send(block)
            assert sent <= most, f"{sent} bytes have been taken, and nobody reads them"
    sock.settimeout(SOCKET_S)
    return sent


def wait_for_reset(sock: socket.socket, within_s: float) -> float:
    """Without reading: how long it took until the peer's reset arrived, in seconds."""
    started = time.monotonic()
    poller = select.poll()
    poller.register(sock, 0)  # errors are reported unasked
    events = poller.poll(within_s * 1000)
    took_s = time.monotonic() - started
    assert events, f"no reset within {within_s:g} s"
    assert events[0][1] & select.POLLERR, "an end, but no reset"
    return took_s


NOISE: Final = random.Random(1).randbytes(1_000_003)
"""Prime in length, so that no two chunks of a stream made of it are alike."""


def payload(size: int) -> bytes:
    return (NOISE * (size // len(NOISE) + 1))[:size]


def digest(data: bytes) -> tuple[int, str]:
    """Short enough to be shown when it differs."""
    return len(data), hashlib.blake2b(data, digest_size=8).hexdigest()


def failures(log: str) -> list[str]:
    """The lines of a log that tell of an exception."""
    return [line for line in log.splitlines() if "Traceback" in line or "Unhandled" in line or "#error]" in line]


@attrs.define
class Pool:
    """One test's back-ends at a proxy that others use after it, and its clients."""

    proxy: Proxy
    _agents: list[FakeAgent] = attrs.field(init=False, factory=list)
    _linked: Listener | None = attrs.field(init=False, default=None)
    _stack: ExitStack = attrs.field(init=False, factory=ExitStack)
    _logged: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._logged = len(self.proxy.log)

    def register(self, service: Address, load: Load = IDLE) -> FakeAgent:
        """Returns when clients may be sent there."""
        agent = FakeAgent(self.proxy.monitor, service[1], load)
        self._agents.append(agent)
        poll(lambda: self.proxy.state(agent.backend) == "up", READY_S, f"{agent.backend} is up")
        return agent

    def agent_of(self, service: Address) -> FakeAgent:
        return next(agent for agent in self._agents if agent.backend == service)

    def listen(self, load: Load = IDLE) -> Listener:
        return self._use(Listener(), load)

    def serve(self, handle: Callable[[socket.socket], None], load: Load = IDLE) -> Server:
        return self._use(Server(handle), load)

    def drop_syns(self, load: Load = IDLE) -> DeafListener:
        return self._use(DeafListener(), load)

    def refuse(self, load: Load = IDLE) -> RefusingPort:
        return self._use(RefusingPort(), load)

    def _use(self, service: Service, load: Load) -> Service:
        self._stack.callback(service.close)
        self.register(service.address, load)
        return service

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        """A client at the proxy's first listener."""
        return self.keep(connect(self.proxy.address, receive_buffer=receive_buffer))

    def keep(self, client: socket.socket) -> socket.socket:
        self._stack.callback(client.close)
        return client

    def link(self, *, client_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
        """A session that the proxy, too, knows to be connected: the client's socket, and the back-end's."""
        listener = self._linking(IDLE)
        client = self.connect(receive_buffer=client_buffer)
        server = listener.accept()
        self._wait_linked(listener)
        return client, server

    def links(self, number: int, load: Load = IDLE) -> list[tuple[socket.socket, socket.socket]]:
        """As `link`, many at once. `load` is what their back-end reports, unless there is one already."""
        listener = self._linking(load)
        clients = [self.connect() for _ in range(number)]
        for name, client in enumerate(clients):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the test's own bytes do not wait for these
            client.sendall(_NAME.pack(name))
        servers = {}
        for _ in range(number):  # they come in any order
            server = listener.accept()
            (name,) = _NAME.unpack(receive(server, _NAME.size))
            servers[name] = server
        self._wait_linked(listener)
        return [(client, servers[name]) for name, client in enumerate(clients)]

    def _linking(self, load: Load) -> Listener:
        """The back-end of all links."""
        if self._linked is None:
            self._linked = self.listen(load)
        return self._linked

    def _wait_linked(self, listener: Listener) -> None:
        sessions = len(listener.accepted)
        poll(lambda: self.proxy.backends()[listener.address]["total"] == sessions, READY_S, "all are connected")

    def settled(self, within_s: float) -> None:
        """No session is left, and no socket of one."""
        poll(lambda: self.proxy.connections() == 0, within_s, "no session is left")
        poll(lambda: self.proxy.descriptors("socket") <= self.proxy.idle_sockets, within_s, "no socket is left")

    def close(self) -> None:
        """Whatever the test was: all its sessions must be gone soon after, and no exception logged."""
        self._stack.close()
        try:
            self.settled(within_s=3.0)
        finally:
            for agent in self._agents:
                agent.close()
            poll(lambda: not self.proxy.backends(), READY_S, "no back-end is left")
        assert failures(self.proxy.log[self._logged :]) == []

    def abandon(self) -> None:
        """As `close`, for a proxy that ends with the test."""
        self._stack.close()
        for agent in self._agents:
            agent.close(unregister=False)


Service = TypeVar("Service", Listener, Server, DeafListener, RefusingPort)
