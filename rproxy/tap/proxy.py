"""`twistd rproxy`: the proxy's options, and the one place that wires it."""

from __future__ import annotations

import secrets
from importlib.metadata import entry_points
from ipaddress import ip_network
from random import Random
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorCore,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.python.failure import Failure

from rproxy.admin.status import admin_site, status
from rproxy.carrying.deadlines import Deadlines
from rproxy.carrying.portable import PortableCarrier
from rproxy.carrying.session import Balancer
from rproxy.monitoring.addresses import is_loopback
from rproxy.monitoring.monitor import Monitor, Network, Timing
from rproxy.pool.backend import Address, written
from rproxy.pool.table import Table
from rproxy.scoring.formula import SATURATION
from rproxy.scoring.policies import POLICIES, PolicyFactory
from rproxy.tap.demo import Demo
from rproxy.tap.options import (
    DATAGRAM_MAX,
    MONITOR_PORT,
    PORT_MAX,
    CommandOptions,
    StartupError,
    cannot_listen,
    fail,
    host_and_port,
    local_address,
    number,
    report_startup_errors_in_one_line,
    use_monotonic_time,
    whole,
)

BACKLOG: Final = 4096
DRAIN_S: Final = 1.0
"""How long sessions may go on after the proxy was told to stop."""
POLICY_ENTRY_POINTS: Final = "rproxy.policies"
ANY: Final = "0.0.0.0"  # noqa: S104 - twistd's own default for listeners
LOOPBACK: Final = "127.0.0.1"
_BUILT_IN_ENDPOINTS: Final = frozenset({"tcp", "tcp4", "tcp6", "ssl", "unix"})


@attrs.frozen
class Settings:
    """Everything a proxy is told. Times in seconds; `saturation` is a fraction, None for off."""

    listen: tuple[str, ...] = ("80",)
    monitor: Address = ("", MONITOR_PORT)
    backend_port: int = 80
    timing: Timing = Timing()
    policy: str = "report"
    saturation: float | None = SATURATION
    allow: tuple[Network, ...] = ()
    demo: int = 0
    admin: Address | None = None
    trace: bool = False


class Options(CommandOptions):
    """The command line of `twistd rproxy`."""

    command = "rproxy"
    synopsis = "[options]"
    longdesc = "Accepts TCP clients and hands each to the least loaded of the back-ends that registered themselves."

    optParameters = [
        ["monitor", "m", None, "[HOST:]PORT where agents register, UDP (default 5555)"],
        ["backend-port", None, "80", "port of back-ends that register service port 0"],
        ["probe-interval", None, "5", "seconds between probes of a back-end"],
        ["probe-timeout", None, "0.5", "seconds until a probe counts as lost"],
        ["liveness", None, "10", "seconds of silence that take a back-end down"],
        ["policy", "p", "report", "how to choose: " + ", ".join(POLICIES)],
        ["saturation", None, str(SATURATION), "share of CPU, memory or loss that rules a back-end out, or 'off'"],
        ["demo", None, "0", "start this many embedded back-ends with their agents"],
        ["admin", "a", None, "HOST:PORT of the operators' HTTP listener (GET /status.json)"],
    ]
    optFlags = [["trace", None, "log every PDU, every choice with the scores, and every session"]]

    def __init__(self) -> None:
        super().__init__()
        self._listen: list[str] = []
        self._allow: list[Network] = []
        self.settings = Settings()

    def opt_listen(self, text: str) -> None:
        """PORT, HOST:PORT or a Twisted server endpoint string, for clients; repeatable (default 80)"""
        self._listen.append(text)

    opt_l = opt_listen

    def opt_allow(self, text: str) -> None:
        """network (CIDR) that agents may register from; repeatable (default: any)"""
        try:
            self._allow.append(ip_network(text))
        except ValueError as error:
            raise usage.UsageError(f"--allow {text}: {error}") from None

    def postOptions(self) -> None:
        self.own_pidfile()
        self.settings = self._settings()

    def _settings(self) -> Settings:
        demo = whole("demo", self["demo"], 0, 100)
        monitor_host = LOOPBACK if demo else ""
        monitor_text = str(MONITOR_PORT) if self["monitor"] is None else self["monitor"]
        host, port = host_and_port("monitor", monitor_text, host=monitor_host)
        return Settings(
            listen=tuple(self._listen or ["80"]),
            monitor=(local_address("monitor", host), port),
            backend_port=whole("backend-port", self["backend-port"], 1, PORT_MAX),
            timing=self._timing(),
            policy=self["policy"],
            saturation=self._saturation(),
            allow=tuple(self._allow),
            demo=demo,
            admin=self._admin(),
            trace=bool(self["trace"]),
        )

    def _timing(self) -> Timing:
        timing = Timing(
            probe_interval_s=number("probe-interval", self["probe-interval"], 0, 3600),
            probe_timeout_s=number("probe-timeout", self["probe-timeout"], 0, 3600),
            liveness_s=number("liveness", self["liveness"], 0, 86400),
        )
        if timing.liveness_s < timing.probe_interval_s + timing.probe_timeout_s:
            raise usage.UsageError(
                f"--liveness {timing.liveness_s:g}: must be at least --probe-interval and --probe-timeout together, "
                "or every back-end goes down between two probes"
            )
        return timing

    def _saturation(self) -> float | None:
        text = self["saturation"]
        return None if text == "off" else number("saturation", text, 0, 1)

    def _admin(self) -> Address | None:
        if self["admin"] is None:
            return None
        host, port = host_and_port("admin", self["admin"])
        return local_address("admin", host), port


def policy_factory(name: str) -> PolicyFactory:
    """The policy of that name: built in, or any installed package's entry point in the group rproxy.policies."""
    factory = POLICIES.get(name)
    if factory is not None:
        return factory
    found = entry_points(group=POLICY_ENTRY_POINTS)
    if name in found.names:
        loaded: PolicyFactory = found[name].load()
        return loaded
    raise usage.UsageError(f"--policy {name}: no such policy; there are {', '.join([*POLICIES, *sorted(found.names)])}")


def listen_endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    """What `--listen` names: PORT, HOST:PORT, or a Twisted server endpoint string."""
    prefix = text.partition(":")[0]
    parsers = {parser.prefix for parser in getPlugins(IStreamServerEndpointStringParser)}
    if prefix != text and prefix in parsers | _BUILT_IN_ENDPOINTS:
        try:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
            return endpoint
        except Exception as error:
            raise usage.UsageError(f"--listen {text}: {_endpoint_error(error)}") from None
    host, port = host_and_port("listen", text, host="")
    host = local_address("listen", host)
    if ":" in host:
        return TCP6ServerEndpoint(reactor, port, BACKLOG, host)
    return TCP4ServerEndpoint(reactor, port, BACKLOG, host)


def _endpoint_error(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'cannot be used'}: {error.strerror}"
    return str(error) or error.__class__.__name__


class ProxyService(Service):
    """A whole proxy. Binds in `privilegedStartService`, where twistd has not shed its privileges yet."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings) -> None:
        self._reactor = reactor
        self._settings = settings
        rng = Random()
        policy = policy_factory(settings.policy)(settings.saturation, rng)
        table = Table(default_port=settings.backend_port, timeout_s=settings.timing.probe_timeout_s)
        self._deadlines = Deadlines(reactor)
        self.balancer = Balancer(table, policy, reactor.seconds, saturation=settings.saturation, trace=settings.trace)
        self.monitor = Monitor(
            table,
            policy,
            reactor,
            lambda: secrets.randbits(64),
            timing=settings.timing,
            allow=settings.allow,
            trace=settings.trace,
        )
        self.carrier = PortableCarrier(reactor, self.balancer, self._deadlines)
        self._endpoints = [(text, listen_endpoint(reactor, text)) for text in settings.listen]
        self._demo = Demo(reactor, settings.demo, trace=settings.trace)
        self._bound = False
        self._monitor_port: IListeningPort | None = None
        self._ports: list[IListeningPort] = []
        """TCP listeners: for clients, and for operators."""

    def privilegedStartService(self) -> None:
        self._bind()

    def startService(self) -> None:
        if not self._bound:
            self._bind()
        super().startService()
        self._demo.register()
        if not self._settings.allow and not is_loopback(self._settings.monitor[0] or ANY):
            self.log.warn("any host may register as a back-end; --allow CIDR limits that")

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
            self._monitor_port = self._reactor.listenUDP(port, self.monitor, host, maxPacketSize=DATAGRAM_MAX)
        except Exception as error:
            raise cannot_listen(f"--monitor {written((host, port)) if host else port} (UDP)", error) from error
        self.log.info("listening for agents on UDP {address}", address=_where(self._monitor_port))

    def _listen_for_clients(self, text: str, endpoint: IStreamServerEndpoint) -> None:
        failures: list[Failure] = []
        listening = self.carrier.serve(endpoint)
        listening.addCallbacks(self._opened, failures.append)
        if failures:
            raise cannot_listen(f"--listen {text}", failures[0].value) from failures[0].value
        if not listening.called:
            listening.addCallback(lambda _: self._stop_if_failed(text, failures))

    def _opened(self, port: IListeningPort) -> None:
        self._ports.append(port)
        self.log.info("listening for clients on {address}", address=_where(port))

    def _stop_if_failed(self, text: str, failures: list[Failure]) -> None:
        """An endpoint that fails only later must not leave a proxy without its listener."""
        if failures:
            self.log.critical("{error}", error=cannot_listen(f"--listen {text}", failures[0].value))
            IReactorCore(self._reactor).stop()

    def _listen_for_operators(self) -> None:
        if self._settings.admin is None:
            return
        host, port = self._settings.admin
        site = admin_site(self.status)
        try:
            listening = self._reactor.listenTCP(port, site, interface=host)
        except Exception as error:
            raise cannot_listen(f"--admin {written((host, port))}", error) from error
        self._ports.append(listening)
        self.log.info("status at http://{address}/status.json", address=_where(listening))

    def _open_demo(self) -> None:
        if not self._settings.demo:
            return
        assert self._monitor_port is not None
        address: Any = self._monitor_port.getHost()
        host = LOOPBACK if address.host in (ANY, "::") else address.host
        self._demo.open((host, address.port))

    def status(self) -> dict[str, Any]:
        """What `/status.json` shows."""
        return status(self.balancer, self.monitor.counters)

    def stopService(self) -> Deferred[None]:
        """Accept nobody any more, let sessions end for a moment, then end them."""
        super().stopService()
        closed = self._close_ports()
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
        if not self.carrier.sessions or self._reactor.seconds() >= deadline:
            loop.stop()

    def _finish(self) -> Deferred[Any]:
        self.carrier.abort()
        self._deadlines.stop()
        stopping = [self._demo.stop()]
        if self._monitor_port is not None:
            stopping.append(maybeDeferred(self._monitor_port.stopListening))
        return DeferredList(stopping)


def _where(port: IListeningPort) -> str:
    address: Any = port.getHost()
    if hasattr(address, "port"):
        return written((address.host, address.port))
    name = address.name
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def makeService(options: Options) -> ProxyService:
    """twistd's entry point."""
    from twisted.internet import reactor

    report_startup_errors_in_one_line()
    use_monotonic_time(reactor)
    try:
        return ProxyService(reactor, options.settings)
    except usage.UsageError as error:
        fail(f"twistd {options.command}: {error}")
