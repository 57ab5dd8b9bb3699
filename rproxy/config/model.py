"""The configuration of a proxy and of an agent, as values. All defaults are here.

The command line and a file fill it in; nothing in it depends on which of them. Times are in seconds, unless a name ends
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from rproxy.config.keyfile import Keyring
from rproxy.config.token_file import TokenFile
from rproxy.net.addresses import Address, Network, is_loopback
from rproxy.net.tls_settings import SendTlsConfig as SendTlsConfig
from rproxy.net.tls_settings import TlsConfig as TlsConfig
from rproxy.policies.formula import SATURATION
from rproxy.pool.limits import Limits
from rproxy.sessions.redispatch import Redispatch
from rproxy.sources.agents.prober import JITTER, Timing
from rproxy.wire.pdu import UDP_PORT, WEIGHT_NORMAL

MONITOR_PORT: Final = UDP_PORT
"""The proxy's UDP port for agents."""
AGENT_PORT: Final = UDP_PORT
"""The agent's UDP port; it changes to another one while no proxy probes."""
NO_CHECK: Final = "none"
CONNECT_CHECK: Final = "connect"
AGENT_CHECK: Final = "agent-check:"
"""Followed by a port: HAProxy's protocol of agent checks. Static back-ends only."""
SOURCE_AFFINITY: Final = "source"
CLIENT_SOURCE: Final = "client"
"""Connect from the client's own address."""
HTTP_CHECK: Final = "http:"
"""Followed by a path."""
COMMAND_CHECK: Final = "command:"
"""Followed by a shell command."""
HOST_SCOPE: Final = "host"
CGROUP_SCOPE: Final = "cgroup"
AUTO_SCOPE: Final = "auto"
"""The agent's cgroup where it has a limit, else the host."""
LOOPBACK: Final = "127.0.0.1"
ACCESS_STDOUT: Final = "-"
ACCESS_JOURNAL: Final = "journal"
"""Access logs that are no files."""
ACCESS_TEXT: Final = "text"
ACCESS_JSON: Final = "json"
ACCESS_HAPROXY: Final = "haproxy"
"""Their formats."""
DEMO_ADMIN_PORT: Final = 8404
"""Of the operators' listener in a demo."""
UNIX: Final = "unix:"
"""Begins the address of the operators' listener where that is the path of a Unix socket."""
_OPTION: Final = "--"


@attrs.frozen
class BackendConfig:
    """A static back-end: one that needs no agent."""

    address: Address
    """The host may be a name: then every address of it is a back-end."""
    weight: int = WEIGHT_NORMAL
    check: str = CONNECT_CHECK
    """`NO_CHECK`, `CONNECT_CHECK`, or `AGENT_CHECK` with a port."""
    max_connections: int | None = None
    """None for the service's."""
    send_proxy: int | None = None
    """None for the service's."""
    prefix: str = attrs.field(default="", eq=False)
    """As for a service, for example ``service[0].backend[1].``."""


@attrs.frozen
class BackendLimits:
    """For each back-end of a service: its sessions at once, and the clients that wait while all have as many."""

    max_connections: int | None = None
    """None for no limit; a static back-end or an agent may have its own."""
    queue: int = 1000
    """Most clients that wait, for each back-end; 0 turns them away."""
    queue_timeout_s: float = 5.0
    """How long they wait."""


@attrs.frozen
class ServiceConfig:
    """One service: where its clients are accepted, and how they are distributed over its back-ends."""

    name: str = "default"
    listen: tuple[str, ...] = ("80",)
    """As `endpoints.listen_endpoints` reads them."""
    backend_port: int = 80
    """The TCP port of back-ends that register service port 0."""
    policy: str = "expected-delay"
    policy_options: Mapping[str, Any] = attrs.Factory(dict)
    """The policy's own options by name, texts or numbers. Those of the command line are not checked yet."""
    shadow: str | None = None
    """A policy that is compared with `policy` on the same clients, without effect; None for none."""
    shadow_options: Mapping[str, Any] = attrs.Factory(dict)
    """Its own options, as `policy_options`."""
    saturation: float | None = SATURATION
    """For the policy `report`: the share of CPU, memory or lost probes from which a back-end is saturated, 0..1; None
    turns this off.
    """
    idle_timeout_s: float = 3600.0
    """Time without a byte after which a session ends; 0 for never."""
    half_close_timeout_s: float = 30.0
    """The same, of a session of which one side has ended its stream; 0 for never."""
    end_on_down: bool = True
    """Whether stalled sessions end when their back-end goes down because it no longer answers probes."""
    wait_s: float = 5.0
    """How long a client waits while no back-end is eligible; 0 for not at all."""
    redispatch: Redispatch = Redispatch.ALL
    first_byte_s: float = 0.0
    """A back-end goes down if none of its new sessions gets a byte for this long; 0 turns this off."""
    allow: tuple[Network, ...] = ()
    """Networks of the agents whose back-ends are this service's (`from` in a file); empty for any."""
    takes_agents: bool = True
    """Whether agents register for it at all."""
    service_port: int | None = None
    """The service port that agents register for it; None for any. See `backend_port` for those that register 0."""
    backends: tuple[BackendConfig, ...] = ()
    """Its static back-ends."""
    each: BackendLimits = BackendLimits()
    max_connections: int | None = None
    """Its sessions at once; None for as many as the process may have."""
    clients: tuple[Network, ...] = ()
    """Networks of the clients that it takes; empty for any."""
    deny: tuple[Network, ...] = ()
    """Networks of clients that it does not take, even if they are of `clients`."""
    max_connections_per_client: int | None = None
    """Sessions at once of one IPv4 address, or of one IPv6 network of 64 bits."""
    connections_per_second_per_client: float | None = None
    affinity: str | None = None
    """`SOURCE_AFFINITY`: a client address keeps its back-end; None for none."""
    proxy_protocol_from: tuple[Network, ...] = ()
    """Networks whose connections begin with a PROXY header; no others are taken then. Empty for no headers."""
    send_proxy: int = 0
    """Version of the PROXY header that back-ends get, 1 or 2; 0 for none."""
    source: tuple[str, ...] = ()
    """IP addresses to connect to back-ends from, taken in turn, or `CLIENT_SOURCE` alone; empty: routing decides."""
    tls: TlsConfig | None = None
    """For all listeners but those of `listen_tls`; None for plain TCP."""
    listen_tls: Mapping[str, TlsConfig] = attrs.Factory(dict)
    """For single listeners, by their text in `listen`."""
    inherited: Mapping[str, int] = attrs.field(factory=dict, eq=False)
    """Descriptors of sockets that the service manager has passed for single listeners, by their text in `listen`."""
    send_tls: SendTlsConfig | None = None
    """None for plain TCP to back-ends."""
    prefix: str = attrs.field(default=_OPTION, eq=False)
    """What its keys begin with in messages to the user: `--`, or, for example, `service[1].`."""
    options: frozenset[str] = attrs.field(default=frozenset(), eq=False)
    """Keys that were given as options instead."""

    def key(self, name: str) -> str:
        """A key of this service as the user wrote it."""
        return (_OPTION if name in self.options else self.prefix) + name


@attrs.frozen
class ProxyConfig:
    """A proxy process: its services, and what they share."""

    services: tuple[ServiceConfig, ...] = (ServiceConfig(),)
    monitors: tuple[Address, ...] = (("", MONITOR_PORT),)
    """Where agents register, over UDP, at least one. An empty host is every address of both families."""
    timing: Timing = Timing()
    allow: tuple[Network, ...] = ()
    """Networks that agents may register from; empty for any."""
    keyring: Keyring | None = None
    """None for unsealed PDUs."""
    limits: Limits = Limits()
    max_connections: int | None = None
    """Sessions of all services at once; None for as many as open files allow."""
    drain_timeout_s: float = 30.0
    """How long sessions may go on after a stop has begun; 0 for not at all."""
    reuse_port: bool = False
    """Whether another process may listen on the same ports (SO_REUSEPORT), as one that replaces this one."""
    file: str | None = None
    """The absolute path of the file that it was read from; None for the command line alone."""
    state_file: str | None = None
    """An absolute path; keeps the registered back-ends over a restart."""
    demo: int = 0
    """How many embedded back-ends to start."""
    admin: Address | None = None
    """Address of the operators' HTTP listener; None for none, or for `admin_path`."""
    admin_path: str | None = None
    """An absolute path, where that listener is a Unix socket."""
    admin_is_default: bool = False
    """Whether nobody has asked for it: then it need not be possible to open it."""
    admin_token_file: TokenFile | None = None
    """None where nobody has a token: then nothing can be changed but by the Unix socket."""
    admin_names: tuple[str, ...] = ()
    """Host names that operators' requests may carry, besides addresses and localhost."""
    access_log: str | None = None
    """Where a line is written for each session: an absolute path, `ACCESS_STDOUT` or `ACCESS_JOURNAL`."""
    access_log_format: str = ACCESS_TEXT
    freebind: bool = False
    """Whether to bind addresses that this host does not have yet (IP_FREEBIND)."""
    trace: bool = False
    """Whether to log every PDU, choice and session."""
    carrier: str = "auto"
    """`splice`, `portable`, or `auto`."""
    prefix: str = attrs.field(default=_OPTION, eq=False)
    """As for a service: `--`, or `proxy.`."""
    options: frozenset[str] = attrs.field(default=frozenset(), eq=False)
    """Keys that were given as options instead."""

    @property
    def has_operators(self) -> bool:
        """Whether there is an operators' listener, and so anything to be counted for it."""
        return self.admin is not None or self.admin_path is not None

    @property
    def takes_agents(self) -> bool:
        """Whether agents register for any of its services; otherwise no port is opened for them."""
        return any(service.takes_agents for service in self.services)

    @property
    def is_open(self) -> bool:
        """Whether other hosts can register without a key."""
        on_loopback = all(host and is_loopback(host) for host, _ in self.monitors)
        return self.takes_agents and self.keyring is None and not on_loopback

    @property
    def lets_any_host_register(self) -> bool:
        """Whether every host there is can register a back-end for one of its services."""
        return self.is_open and any(
            service.takes_agents and all(map(_has_any_host, (self.allow, service.allow))) for service in self.services
        )

    @property
    def reads_openly(self) -> bool:
        """Whether everybody who can connect to the operators' listener may read: only users of this host can."""
        return self.admin is None or (bool(self.admin[0]) and is_loopback(self.admin[0]))

    def key(self, name: str) -> str:
        """A key of the process as the user wrote it."""
        return (_OPTION if name in self.options else self.prefix) + name


@attrs.frozen
class AgentConfig:
    """An agent process."""

    proxies: tuple[Address, ...]
    interval_s: float = 20.0
    """Time between two registrations."""
    port: int | None = None
    """The UDP port to answer probes on; None for `AGENT_PORT`, or any while no probes arrive there."""
    service_port: int = 0
    """The service's TCP port; 0 for the one that the proxy assumes."""
    weight: int = WEIGHT_NORMAL
    max_connections: int | None = None
    """Most sessions of each proxy at once; None for what the proxy has configured."""
    report: Mapping[str, int] = attrs.Factory(dict)
    """Figures to report instead of the measured ones, by name: cpu and memory in percent, tcp in connections."""
    keyring: Keyring | None = None
    """None for unsealed PDUs."""
    advertise: str | None = None
    """This host's address as the proxies see it; None for the source address of the route to each."""
    drain_file: str | None = None
    """An absolute path; while the file exists, the agent asks for no new clients."""
    drain_wait_s: float = 0.0
    """How long a stop may wait for the proxies to have no session on the service; 0 for not at all."""
    check: str = NO_CHECK
    """How the service is checked, as `schema.service_check` returns it."""
    load_command: str | None = None
    """A shell command whose last line is the service's load, in percent."""
    load_file: str | None = None
    """The absolute path of a file whose last line is that. At most one of the two is set; with neither, the load is how
    full the accept queue of `service_port` is."""
    scope: str = AUTO_SCOPE
    """What CPU and memory are reported of."""
    trace: bool = False
    """Whether to log every PDU."""


def _has_any_host(networks: Sequence[Network]) -> bool:
    return not networks or any(network.prefixlen == 0 for network in networks)


def liveness_least_s(timing: Timing) -> float:
    """The shortest liveness timeout within which there is always a probe and its answer."""
    return round(timing.probe_interval_s * (1 + JITTER) + timing.probe_timeout_s, 6)
