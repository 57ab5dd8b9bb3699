"""The options of `twistd rproxy`, and what they come to."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import ClassVar, Final

import attrs
from twisted.python import usage

from rproxy.carriers.registry import UnusableCarrier, check_carrier
from rproxy.net.addresses import Address, is_loopback
from rproxy.net.binding import CAN_FREEBIND
from rproxy.policies.formula import SATURATION
from rproxy.policies.registry import POLICIES
from rproxy.pool.limits import Limits
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.sessions.redispatch import Redispatch
from rproxy.sources.agents.monitor import Network
from rproxy.sources.agents.prober import JITTER, Timing
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

LOOPBACK: Final = "127.0.0.1"
TIME_MIN_S: Final = 0.01
"""Of what is done again and again."""
TIMEOUT_MAX_S: Final = 30 * 86400
WAIT_MAX_S: Final = 3600
FIRST_BYTE_MIN_S: Final = 0.1
BACKENDS_MAX: Final = 100_000
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
STATE_FILE: Final = "rproxy.state"
"""In systemd's StateDirectory."""


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
    state_file: str | None = None
    """Where back-ends are kept for the next start."""
    demo: int = 0
    admin: Address | None = None
    freebind: bool = False
    """Whether our ports may have addresses that this host has not yet."""
    admin_names: tuple[str, ...] = ()
    """What operators' browsers may call it by, besides addresses and localhost."""
    trace: bool = False
    carrier: str = "auto"
    max_connections: int | None = None
    """None for as many as the descriptors allow."""
    idle_timeout_s: float = 3600.0
    half_close_timeout_s: float = 30.0
    """0 for none, both."""
    end_on_down: bool = True
    """Whether sessions that have stopped end when their back-end goes down by silence."""
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

    optParameters: ClassVar[list[list[str | None]]] = [
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
        ["on-down", None, "end", "what becomes of silent sessions when their back-end falls silent: end or keep"],
        ["max-connections", None, None, "most sessions at once (default: what the limit of open files allows)"],
        [
            "state-file",
            None,
            None,
            "file that keeps the back-ends over a restart (default: in $STATE_DIRECTORY, if set)",
        ],
        ["wait-for-backend", None, "5", "seconds that a client waits where no back-end is up, or 0 for not at all"],
        ["redispatch-early", None, "all", "whose back-end may end at once and be replaced: all, unsent or off"],
        ["first-byte", None, "0", "seconds without a byte to any new session that take a back-end down, or 0 for off"],
        ["demo", None, "0", "start this many embedded back-ends with their agents"],
        ["admin", "a", None, "HOST:PORT of the operators' HTTP listener (GET /status.json)"],
    ]
    optFlags = [
        ["freebind", None, "listen, also for agents and operators, on addresses that this host has not yet (Linux)"],
        ["trace", None, "log every PDU, every choice with the scores, and every session"],
    ]

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
            self._allow.append(_unmapped(ip_network(text)))
        except ValueError as error:
            raise usage.UsageError(f"--allow {text}: {error}") from None

    def postOptions(self) -> None:
        settings = self._settings()
        if settings.is_open and not settings.allow:
            raise usage.UsageError(
                "who may register? give --keyring FILE, which 'rproxy keygen' makes, or --allow NETWORK, where "
                "0.0.0.0/0 and ::/0 stand for any host at all"
            )
        self.settings = settings
        self.own_pidfile()

    def _settings(self) -> Settings:
        demo = whole("demo", self["demo"], 0, 100)
        monitor_host = LOOPBACK if demo else ""
        monitor_text = str(MONITOR_PORT) if self["monitor"] is None else self["monitor"]
        host, port = host_and_port("monitor", monitor_text, host=monitor_host)
        host = local_address("monitor", host)
        admin = None if self["admin"] is None else host_and_port("admin", self["admin"])
        return Settings(
            listen=tuple(self._listen or ["80"]),
            monitor=(host, port),
            keyring=keyring(self, derived=False),
            limits=Limits.for_pool(whole("max-backends", self["max-backends"], 1, BACKENDS_MAX)),
            backend_port=whole("backend-port", self["backend-port"], 1, PORT_MAX),
            timing=self._timing(),
            policy=self["policy"],
            saturation=self._saturation(),
            allow=tuple(self._allow),
            state_file=self._state_file(),
            demo=demo,
            admin=admin and (local_address("admin", admin[0]), admin[1]),
            admin_names=() if admin is None else (admin[0],),
            freebind=self._freebind(),
            trace=bool(self["trace"]),
            carrier=self._carrier(),
            max_connections=self._max_connections(),
            idle_timeout_s=number("idle-timeout", self["idle-timeout"], TIME_MIN_S, TIMEOUT_MAX_S, zero=True),
            half_close_timeout_s=number(
                "half-close-timeout", self["half-close-timeout"], TIME_MIN_S, TIMEOUT_MAX_S, zero=True
            ),
            end_on_down=self._end_on_down(),
            wait_s=number("wait-for-backend", self["wait-for-backend"], TIME_MIN_S, WAIT_MAX_S, zero=True),
            redispatch=self._redispatch(),
            first_byte_s=number("first-byte", self["first-byte"], FIRST_BYTE_MIN_S, WAIT_MAX_S, zero=True),
        )

    def _redispatch(self) -> Redispatch:
        text = self["redispatch-early"]
        try:
            return Redispatch(text)
        except ValueError:
            raise usage.UsageError(f"--redispatch-early {text}: must be all, unsent or off") from None

    def _carrier(self) -> str:
        carrier: str = self["carrier"]
        try:
            check_carrier(carrier)
        except UnusableCarrier as error:
            raise usage.UsageError(f"--carrier {carrier}: {error}") from error
        return carrier

    def _freebind(self) -> bool:
        if self["freebind"] and not CAN_FREEBIND:
            raise usage.UsageError("--freebind: needs Linux")
        return bool(self["freebind"])

    def _end_on_down(self) -> bool:
        if self["on-down"] not in ("end", "keep"):
            raise usage.UsageError(f"--on-down {self['on-down']}: must be end or keep")
        return bool(self["on-down"] == "end")

    def _max_connections(self) -> int | None:
        text = self["max-connections"]
        return None if text is None else whole("max-connections", text, 1, SESSIONS_MAX)

    def _timing(self) -> Timing:
        timing = Timing(
            probe_interval_s=number("probe-interval", self["probe-interval"], TIME_MIN_S, 3600),
            probe_timeout_s=number("probe-timeout", self["probe-timeout"], TIME_MIN_S, 3600),
            liveness_s=number("liveness", self["liveness"], TIME_MIN_S, 86400),
        )
        least_s = round(timing.probe_interval_s * (1 + JITTER) + timing.probe_timeout_s, 6)
        if timing.liveness_s < least_s:
            raise usage.UsageError(self._too_short(timing, least_s))
        return timing

    def _too_short(self, timing: Timing, least_s: float) -> str:
        """Of --liveness, in terms of what was asked for."""
        why = "--probe-interval with its jitter and --probe-timeout together, or back-ends go down between two probes"
        defaults = {name: default for name, _, default, _ in self.optParameters}
        if self["liveness"] != defaults["liveness"]:
            return f"--liveness {self['liveness']}: must be at least {least_s:.10g}, {why}"
        names = [name for name in ("probe-interval", "probe-timeout") if self[name] != defaults[name]]
        asked = [f"--{name} {self[name]}" for name in names]
        return (
            f"{' and '.join(asked)}: --liveness, {timing.liveness_s:.10g} by default, must be given then, and at least "
            f"{least_s:.10g}: {why}"
        )

    def _state_file(self) -> str | None:
        path = self["state-file"]
        if path is None and (folders := os.environ.get("STATE_DIRECTORY")):
            path = os.path.join(folders.partition(":")[0], STATE_FILE)
        return os.path.realpath(path) if path else None

    def _saturation(self) -> float | None:
        text = self["saturation"]
        return None if text == "off" else number("saturation", text, 0.001, 1)


def _unmapped(network: Network) -> Network:
    """A network of IPv4-mapped IPv6 addresses as what it is, IPv4: addresses are told so everywhere."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None
        return IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
    return network
