"""`twistd rproxy`: the one place that wires the proxy."""

from __future__ import annotations

import gc
import math
import secrets
import signal
from random import Random, random
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorCore, IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from rproxy.carriers.carrier import Resources
from rproxy.carriers.registry import make_carrier
from rproxy.net.addresses import unmapped, written
from rproxy.net.binding import ANY_IPV4, ANY_IPV6, Binding
from rproxy.net.own_listeners import OwnListeners
from rproxy.net.udp_port import listen_udp, udp_ports
from rproxy.observe.documents import Document, Folder
from rproxy.observe.http_server import BACKLOG, CONNECTIONS_MAX, AdminSite
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.observe.snapshots import Snapshots
from rproxy.observe.status_json import CONTENT_TYPE, Status
from rproxy.pool.backend import Backend
from rproxy.pool.events import EligibilityChanged, Transitioned
from rproxy.pool.pool import Pool
from rproxy.sessions.capacity import Capacity, pipes_for, raise_descriptor_limit, sessions_for
from rproxy.sessions.dead_peers import DeadPeers
from rproxy.sessions.down_timeout import DownTimeout
from rproxy.sessions.idle_timeout import IdleTimeout
from rproxy.sessions.loop_detector import LoopDetector
from rproxy.sessions.service import ServiceTerms
from rproxy.sources.agents.monitor import Monitor
from rproxy.sources.agents.monitor import Settings as MonitorSettings
from rproxy.sources.saved.keeper import Keeper, in_thread
from rproxy.sources.saved.state_file import StateFile
from rproxy.sources.slow_start import SlowStart
from rproxy.tap.demo import Demo
from rproxy.tap.endpoints import remove_abandoned
from rproxy.tap.keys import at_signal, envelope, rotate
from rproxy.tap.listening import TcpPort, listen_endpoints, listen_tcp
from rproxy.tap.options import StartupError, cannot_listen, fail, use_monotonic_time
from rproxy.tap.policies import Complaints, make_policy
from rproxy.tap.process import ProcessService, process_of
from rproxy.tap.service import serve_pool
from rproxy.tap.settings import LOOPBACK, Options, Settings
from rproxy.timing.wheel import Wheel
from rproxy.timing.work_queue import WorkQueue

__all__ = ["Options", "ProxyService", "makeService"]

DRAIN_S: Final = 1.0
"""How long sessions may go on after the proxy was told to stop."""
OPERATORS_SHARE: Final = 32
"""The part of all descriptors that is for operators."""
OPERATORS_MIN: Final = 4
OPERATORS_RESERVED: Final = 16
"""Of those that are for no session in any case."""


class ProxyService(ProcessService):
    """A whole proxy. Binds in `privilegedStartService`, where twistd has not shed its privileges yet."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings, *, descriptors: int = 1024) -> None:
        """`descriptors` is how many the process may have open. Raises `UsageError`."""
        self._reactor = reactor
        self._settings = settings
        policy = make_policy(settings.policy, settings.saturation, Random())
        pool = Pool(
            policy, Complaints(reactor.seconds), settings.backend_port, settings.timing.probe_timeout_s, settings.limits
        )
        self._own = OwnListeners(reactor.seconds)
        self._deadlines = Wheel(reactor)
        publisher = Publisher()
        self.monitor = Monitor(
            pool,
            reactor,
            publisher,
            lambda: secrets.randbits(64),
            random,
            envelope(settings.keyring),
            MonitorSettings(settings.timing, tuple(settings.allow), self._own.leads_here, settings.trace),
        )
        self._served = serve_pool(
            pool,
            reactor,
            _terms(settings),
            saturation=settings.saturation,
            trace=settings.trace,
            publish=publisher,
            may_self_connect=self._own.may_self_connect,
        )
        self.service = self._served.service
        self.capacity = Capacity(_sessions_max(settings, descriptors), reactor.seconds)
        self._status = Status([self._served.view], self.monitor.counters, self.capacity)
        self.carrier = make_carrier(
            settings.carrier, Resources(reactor, self._deadlines, self.capacity, pipes_for(descriptors))
        )
        self._loop_detector = LoopDetector(reactor, self.carrier.slices, self.capacity, self._bar)
        self._watches = self._watch()
        self._down_timeout = DownTimeout(reactor, self.carrier.slices, lambda: pool.panicking)
        self._pool_log = PoolLog(reactor, settings.limits.confirmed, trace=settings.trace)
        self._slow_start = SlowStart(reactor, pool)
        publisher.subscribe(self.monitor.observers())
        publisher.subscribe(self._slow_start.observers())
        publisher.subscribe(self._pool_log.observers())
        if settings.end_on_down:
            publisher.subscribe({Transitioned: self._down_timeout.transitioned})
        publisher.subscribe({EligibilityChanged: self.service.wait_queue.eligibility_changed})
        self._endpoints = listen_endpoints(reactor, settings.listen, freebind=settings.freebind)
        self._turns = WorkQueue(reactor)
        self._admin = self._admin_site(descriptors)
        self._demo = Demo(reactor, settings.demo, keyring=settings.keyring, trace=settings.trace)
        self._keeper: Keeper | None = None
        self._bound = False
        self._stopping = False
        self.hurried = False
        """Whether a stop is to end sessions at once."""
        self._monitor_port: IListeningPort | None = None
        self._ports: list[IListeningPort] = []
        """TCP listeners: for clients, and for operators."""

    def _bar(self, backend: Backend) -> None:
        """A back-end leads back to us by way of another proxy."""
        self._own.bar((backend.address, backend.port))
        self.monitor.exclude(backend)

    def _watch(self) -> list[IdleTimeout | DeadPeers]:
        """What ends sessions that have stopped."""
        settings, slices = self._settings, self.carrier.slices
        watches: list[IdleTimeout | DeadPeers] = [DeadPeers(self._reactor, slices)]
        idle_s, half_closed_s = settings.idle_timeout_s, settings.half_close_timeout_s
        if idle_s:
            watches.append(IdleTimeout(self._reactor, slices, idle_s, half_closed=False))
        if half_closed_s:
            watches.append(IdleTimeout(self._reactor, slices, half_closed_s, half_closed=True, reader_s=idle_s))
        return watches

    def startService(self) -> None:
        if not self._bound:
            self._bind()
        super().startService()
        for watch in self._watches:
            watch.start()
        self.service.start()
        self._demo.register()
        if self._settings.state_file is not None:
            self._keeper = self._keep(self._settings.state_file)
            self._keeper.load()
            self._reactor.callWhenRunning(self._keeper.start)
        allow = self._settings.allow
        if self._settings.is_open and (not allow or any(network.prefixlen == 0 for network in allow)):
            self.log.warn("any host may register as a back-end; --keyring FILE limits that")

    def rotate_keys(self) -> None:
        """Use the keys that the key file holds now."""
        rotate(self._settings.keyring, self.monitor, *self._demo.agents)

    def _bind(self) -> None:
        """Open every port or none. Raises `StartupError`."""
        self._bound = True
        try:
            self._listen_for_agents()
            for text, endpoint in self._endpoints:
                self._listen_for_clients(text, endpoint)
            self._listen_for_operators()
            self._open_demo()
        except StartupError:
            self._close_ports()
            self._finish()
            raise

    def _listen_for_agents(self) -> None:
        host, port = self._settings.monitor
        try:
            self._monitor_port = listen_udp(self._reactor, port, self.monitor, host, freebind=self._settings.freebind)
        except Exception as error:
            raise cannot_listen(f"--monitor {written((host, port)) if host else port} (UDP)", error) from error
        for each in udp_ports(self._monitor_port):
            if hasattr(each, "fileno"):
                self._watch_socket(each)
            self.log.info("listening for agents on UDP {address}", address=_where(each))

    def _watch_socket(self, port: Any) -> None:
        descriptor = port.fileno()
        self.carrier.watch(descriptor)
        port.watch = lambda watched: (self.carrier.watch if watched else self.carrier.unwatch)(descriptor)

    def _listen_for_clients(self, text: str, endpoint: IStreamServerEndpoint) -> None:
        failures: list[Failure] = []
        remove_abandoned(endpoint)
        listening = self.carrier.serve(endpoint, self.service, text)
        listening.addCallbacks(self._opened, failures.append)
        if failures:
            raise cannot_listen(f"--listen {text}", failures[0].value) from failures[0].value
        if not listening.called:
            listening.addCallback(lambda _: self._stop_if_failed(text, failures))

    def _opened(self, port: IListeningPort) -> None:
        if self._stopping:
            port.stopListening()
            return
        self._add(port)
        self.log.info("listening for clients on {address}", address=_where(port))

    def _add(self, port: IListeningPort) -> None:
        self._ports.append(port)
        address: Any = port.getHost()
        if hasattr(address, "port"):
            ipv6_only = isinstance(port, TcpPort) and port.binding.ipv6_only
            self._own.add(address.host, address.port, ipv6_only=ipv6_only)

    def _stop_if_failed(self, text: str, failures: list[Failure]) -> None:
        """An endpoint that fails only later must not leave a proxy without its listener."""
        if failures:
            self.log.critical("{error}", error=cannot_listen(f"--listen {text}", failures[0].value))
            IReactorCore(self._reactor).stop()

    def _listen_for_operators(self) -> None:
        if self._settings.admin is None:
            return
        address = host, port = self._settings.admin
        try:
            binding = Binding(host, freebind=self._settings.freebind)
            listening = listen_tcp(self._reactor, port, self._admin, binding, BACKLOG)
        except Exception as error:
            raise cannot_listen(f"--admin {written(address)}", error) from error
        self._add(listening)
        self.log.info("status at http://{address}/status.json", address=_where(listening))

    def _admin_site(self, descriptors: int) -> AdminSite:
        shown = Snapshots(self._status.rendered, self._turns, self._reactor.seconds)
        root = Folder()
        root.putChild(b"status.json", Document(CONTENT_TYPE, shown, self._turns))
        return AdminSite(root, self._reactor, self._turns, self._settings.admin_names, _operators_max(descriptors))

    def _keep(self, path: str) -> Keeper:
        return Keeper(
            StateFile(path),
            self.service.pool,
            self.monitor,
            self._reactor,
            self._turns,
            in_thread(self._reactor),
            lambda: self._demo.addresses,
        )

    def _open_demo(self) -> None:
        if not self._settings.demo:
            return
        assert self._monitor_port is not None
        address: Any = self._monitor_port.getHost()
        host = LOOPBACK if address.host in (ANY_IPV4, ANY_IPV6) else address.host
        self._demo.open((host, address.port))

    def status(self) -> dict[str, Any]:
        """What `/status.json` shows."""
        return self._status.document()

    def stopService(self) -> Deferred[None]:
        """Accept nobody any more, let sessions end for a moment, then end them."""
        super().stopService()
        self._stopping = True
        stopping = [self._close_ports()] if self._keeper is None else [self._close_ports(), self._keeper.stop()]
        closed: Deferred[Any] = DeferredList(stopping)
        self.service.stop_waiting()
        drained = closed.addCallback(lambda _: self._drain())
        drained.addCallback(lambda _: self._finish())
        return drained

    def _close_ports(self) -> Deferred[Any]:
        ports, self._ports = self._ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports])

    def _drain(self) -> Deferred[Any]:
        deadline = self._reactor.seconds() + DRAIN_S
        loop = LoopingCall(lambda: self._stop_draining(loop, deadline))
        loop.clock = self._reactor
        return loop.start(0.05)

    def _stop_draining(self, loop: LoopingCall, deadline: float) -> None:
        if not self.capacity.sessions or self.hurried or self._reactor.seconds() >= deadline:
            loop.stop()

    def _finish(self) -> Deferred[Any]:
        for watch in self._watches:
            watch.stop()
        self._down_timeout.stop()
        self._loop_detector.stop()
        self._admin.stop()
        self._turns.stop()
        self.carrier.abort()
        self._served.stop()
        self._deadlines.stop()
        stopping = [self._demo.stop()]
        if self._monitor_port is not None:
            stopping.append(maybeDeferred(self._monitor_port.stopListening))
        self._slow_start.stop()
        self._pool_log.stop()
        return DeferredList(stopping)


def _terms(settings: Settings) -> ServiceTerms:
    return ServiceTerms(
        wait_s=settings.wait_s,
        redispatch=settings.redispatch,
        first_byte_s=settings.first_byte_s,
        reader_timeout_s=settings.idle_timeout_s or math.inf,
    )


def _where(port: IListeningPort) -> str:
    address: Any = port.getHost()
    if hasattr(address, "port"):
        where = written((unmapped(address.host), address.port))
        binding = getattr(port, "binding", None)
        return f"{where} (IPv4, too)" if binding is not None and binding.is_dual else where
    name = address.name
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _operators_max(descriptors: int) -> int:
    """How many connections of operators a process of so many descriptors may have."""
    return min(max(descriptors // OPERATORS_SHARE, OPERATORS_MIN), CONNECTIONS_MAX)


def _sessions_max(settings: Settings, descriptors: int) -> int:
    operators = max(_operators_max(descriptors) - OPERATORS_RESERVED, 0) if settings.admin else 0
    fit = sessions_for(descriptors - operators)
    if fit < 1:
        raise usage.UsageError(f"{descriptors} open files are too few for any session (ulimit -n)")
    if settings.max_connections is None:
        return fit
    if settings.max_connections > fit:
        raise usage.UsageError(
            f"--max-connections {settings.max_connections}: {descriptors} open files are enough for {fit} (ulimit -n)"
        )
    return settings.max_connections


def _quieten_collector() -> None:
    """What there is now is never looked at again, and what comes seldom: only portable sessions leave circles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _hurry_at_second_signal(service: ProxyService) -> None:
    """For a process that is stopping: Twisted itself would log an error, and wait all the same."""

    def hurry(*_: object) -> None:
        service.hurried = True

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, hurry)


def makeService(options: Options) -> ProxyService:
    """twistd's entry point."""
    process = process_of(options)
    from twisted.internet import reactor  # not before: a daemon's parent would have it, too

    use_monotonic_time(reactor)
    try:
        service = ProxyService(reactor, options.settings, descriptors=raise_descriptor_limit())
    except usage.UsageError as error:
        fail(f"twistd {options.command}: {error}")
    service.process = process
    if process is not None:
        process.run_on(reactor)
    _quieten_collector()
    at_signal(reactor, service.rotate_keys)
    reactor.addSystemEventTrigger("before", "shutdown", _hurry_at_second_signal, service)
    return service
