"""The options of `twistd rproxy`, and what they come to."""

from __future__ import annotations

import os
import select
from ipaddress import ip_network
from typing import Any, Final

import attrs
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import getPlugins
from twisted.python import usage

from rproxy.carrying.room import SESSIONS_MAX
from rproxy.carrying.session import Redispatch
from rproxy.monitoring.addresses import is_loopback
from rproxy.monitoring.monitor import Network
from rproxy.monitoring.prober import JITTER, Timing
from rproxy.pool.backend import Address
from rproxy.pool.limits import Limits
from rproxy.scoring.formula import SATURATION
from rproxy.scoring.policies import POLICIES
from rproxy.tap.keys import Keyring
from rproxy.tap.options import (
    MONITOR_PORT,
    PORT_MAX,
    CommandOptions,
    host_and_port,
    keyring,
    local_address,
    number,
    whole,
)

BACKLOG: Final = 4096
LOOPBACK: Final = "127.0.0.1"
CARRIERS: Final = ("auto", "splice", "portable")
TIMEOUT_MAX_S: Final = 30 * 86400
WAIT_MAX_S: Final = 3600
FIRST_BYTE_MIN_S: Final = 0.1
BACKENDS_MAX: Final = 100_000
CAN_SPLICE: Final = hasattr(os, "splice") and hasattr(select, "epoll")
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
    keyring: Keyring | None = None
    """None for plain PDUs."""
    limits: Limits = Limits()
    demo: int = 0
    admin: Address | None = None
    trace: bool = False
    carrier: str = "auto"
    max_connections: int | None = None
    """None for as many as the descriptors allow."""
    idle_timeout_s: float = 3600.0
    half_close_timeout_s: float = 30.0
    """0 for none, both."""
    wait_s: float = 5.0
    """How long a client waits where there is no back-end; 0 for not at all."""
    redispatch: Redispatch = Redispatch.ALL
    first_byte_s: float = 0.0
    """0 for off."""

    @property
    def is_open(self) -> bool:
        """Whether others than this host can register, and need no key for it."""
        return self.keyring is None and not (self.monitor[0] and is_loopback(self.monitor[0]))


class Options(CommandOptions):
    """The command line of `twistd rproxy`."""

    command = "rproxy"
    synopsis = "[options]"
    longdesc = "Accepts TCP clients and hands each to the least loaded of the back-ends that registered themselves."

    optParameters = [
        ["monitor", "m", None, "[HOST:]PORT where agents register, UDP (default 5555)"],
        ["keyring", "k", None, "file of keys (rproxy keygen): only agents that have theirs may register"],
        ["max-backends", None, str(Limits().confirmed), "most back-ends at once"],
        ["backend-port", None, "80", "port of back-ends that register service port 0"],
        ["probe-interval", None, "5", "seconds between probes of a back-end"],
        ["probe-timeout", None, "0.5", "seconds until a probe counts as lost"],
        ["liveness", None, "10", "seconds of silence that take a back-end down"],
        ["policy", "p", "report", "how to choose: " + ", ".join(POLICIES)],
        ["saturation", None, str(SATURATION), "share of CPU, memory or loss that rules a back-end out, or 'off'"],
        ["carrier", None, "auto", "what moves the bytes: splice (Linux, plain sockets), portable, or auto"],
        ["idle-timeout", None, "3600", "seconds without a byte that end a session, or 0 for never"],
        ["half-close-timeout", None, "30", "the same where one side has ended its stream"],
        ["max-connections", None, None, "most sessions at once (default: what the limit of open files allows)"],
        ["wait-for-backend", None, "5", "seconds that a client waits where no back-end is up, or 0 for not at all"],
        ["redispatch-early", None, "all", "whose back-end may end at once and be replaced: all, unsent or off"],
        ["first-byte", None, "0", "seconds without a byte to any new session that take a back-end down, or 0 for off"],
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
        """network (CIDR) that agents may register from; repeatable; without --keyring, it must be given"""
        try:
            self._allow.append(ip_network(text))
        except ValueError as error:
            raise usage.UsageError(f"--allow {text}: {error}") from None

    def postOptions(self) -> None:
        self.own_pidfile()
        settings = self._settings()
        if settings.is_open and not settings.allow:
            raise usage.UsageError(
                "who may register? give --keyring FILE, which 'rproxy keygen' makes, or --allow NETWORK, where "
                "0.0.0.0/0 and ::/0 stand for any host at all"
            )
        self.settings = settings

    def _settings(self) -> Settings:
        demo = whole("demo", self["demo"], 0, 100)
        monitor_host = LOOPBACK if demo else ""
        monitor_text = str(MONITOR_PORT) if self["monitor"] is None else self["monitor"]
        host, port = host_and_port("monitor", monitor_text, host=monitor_host)
        host = local_address("monitor", host)
        return Settings(
            listen=tuple(self._listen or ["80"]),
            monitor=(host, port),
            keyring=keyring(self["keyring"], derived=False),
            limits=Limits.for_pool(whole("max-backends", self["max-backends"], 1, BACKENDS_MAX)),
            backend_port=whole("backend-port", self["backend-port"], 1, PORT_MAX),
            timing=self._timing(),
            policy=self["policy"],
            saturation=self._saturation(),
            allow=tuple(self._allow),
            demo=demo,
            admin=self._admin(),
            trace=bool(self["trace"]),
            carrier=self._carrier(),
            max_connections=self._max_connections(),
            idle_timeout_s=number("idle-timeout", self["idle-timeout"], 0, TIMEOUT_MAX_S, zero=True),
            half_close_timeout_s=number("half-close-timeout", self["half-close-timeout"], 0, TIMEOUT_MAX_S, zero=True),
            wait_s=number("wait-for-backend", self["wait-for-backend"], 0, WAIT_MAX_S, zero=True),
            redispatch=self._redispatch(),
            first_byte_s=number("first-byte", self["first-byte"], FIRST_BYTE_MIN_S, WAIT_MAX_S, zero=True),
        )

    def _redispatch(self) -> Redispatch:
        text = self["redispatch-early"]
        try:
            return Redispatch(text)
        except ValueError:
            raise usage.UsageError(f"--redispatch-early {text}: must be {', '.join(Redispatch)}") from None

    def _carrier(self) -> str:
        carrier: str = self["carrier"]
        if carrier not in CARRIERS:
            raise usage.UsageError(f"--carrier {carrier}: must be {', '.join(CARRIERS[:-1])} or {CARRIERS[-1]}")
        if carrier == "splice" and not CAN_SPLICE:
            raise usage.UsageError("--carrier splice: needs Linux; auto takes what there is")
        return carrier

    def _max_connections(self) -> int | None:
        text = self["max-connections"]
        return None if text is None else whole("max-connections", text, 1, SESSIONS_MAX)

    def _timing(self) -> Timing:
        timing = Timing(
            probe_interval_s=number("probe-interval", self["probe-interval"], 0, 3600),
            probe_timeout_s=number("probe-timeout", self["probe-timeout"], 0, 3600),
            liveness_s=number("liveness", self["liveness"], 0, 86400),
        )
        least_s = round(timing.probe_interval_s * (1 + JITTER) + timing.probe_timeout_s, 6)
        if timing.liveness_s < least_s:
            raise usage.UsageError(
                f"--liveness {timing.liveness_s:g}: must be at least {least_s:g}, --probe-interval with its jitter and "
                "--probe-timeout together, or back-ends go down between two probes"
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
    if isinstance(error, IndexError):
        return "so many sockets were not inherited (LISTEN_FDS, LISTEN_FDNAMES)"
    if isinstance(error, OSError):
        return f"{error.filename or 'cannot be used'}: {error.strerror}"
    return str(error) or error.__class__.__name__
