"""The configuration of a proxy and of an agent, as values. All defaults are here.

Only the command line fills the model in so far; nothing in it depends on that. Times are in seconds, unless a name
ends otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from rproxy.config.keyfile import Keyring
from rproxy.net.addresses import Address, Network, is_loopback
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
HTTP_CHECK: Final = "http:"
"""Followed by a path."""
COMMAND_CHECK: Final = "command:"
"""Followed by a shell command."""
HOST_SCOPE: Final = "host"
CGROUP_SCOPE: Final = "cgroup"
AUTO_SCOPE: Final = "auto"
"""The agent's cgroup where it has a limit, else the host."""
_OPTION: Final = "--"


@attrs.frozen
class ServiceConfig:
    """One service: where its clients are accepted, and how they are distributed over its back-ends."""

    name: str = "default"
    listen: tuple[str, ...] = ("80",)
    """As `endpoints.listen_endpoints` reads them."""
    backend_port: int = 80
    """The TCP port of back-ends that register service port 0."""
    policy: str = "expected-delay"
    policy_options: Mapping[str, str] = attrs.Factory(dict)
    """The policy's own options by name, not checked yet."""
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
    prefix: str = attrs.field(default=_OPTION, eq=False)
    """What its keys begin with in messages to the user: `--`, or, for example, `service[1].`."""

    def key(self, name: str) -> str:
        """A key of this service as the user wrote it."""
        return self.prefix + name


@attrs.frozen
class ProxyConfig:
    """A proxy process: its services, and what they share."""

    services: tuple[ServiceConfig, ...] = (ServiceConfig(),)
    monitor: Address = ("", MONITOR_PORT)
    """Where agents register, over UDP. An empty host is every address of both families."""
    timing: Timing = Timing()
    allow: tuple[Network, ...] = ()
    """Networks that agents may register from; empty for any."""
    keyring: Keyring | None = None
    """None for unsealed PDUs."""
    limits: Limits = Limits()
    max_connections: int | None = None
    """Sessions of all services at once; None for as many as open files allow."""
    state_file: str | None = None
    """An absolute path; keeps the registered back-ends over a restart."""
    demo: int = 0
    """How many embedded back-ends to start."""
    admin: Address | None = None
    """Address of the operators' HTTP listener; None for none."""
    admin_names: tuple[str, ...] = ()
    """Host names that operators' requests may carry, besides addresses and localhost."""
    freebind: bool = False
    """Whether to bind addresses that this host does not have yet (IP_FREEBIND)."""
    trace: bool = False
    """Whether to log every PDU, choice and session."""
    carrier: str = "auto"
    """`splice`, `portable`, or `auto`."""
    prefix: str = attrs.field(default=_OPTION, eq=False)
    """As for a service: `--`, or, for example, `proxy.`."""

    @property
    def is_open(self) -> bool:
        """Whether other hosts can register without a key."""
        return self.keyring is None and not (self.monitor[0] and is_loopback(self.monitor[0]))

    def key(self, name: str) -> str:
        """A key of the process as the user wrote it."""
        return self.prefix + name


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
    report: Mapping[str, int] = attrs.Factory(dict)
    """Figures to report instead of the measured ones, by name: cpu and memory in percent, tcp in connections."""
    keyring: Keyring | None = None
    """None for unsealed PDUs."""
    advertise: str | None = None
    """This host's address as the proxies see it; None for the source address of the route to each."""
    drain_file: str | None = None
    """An absolute path; while the file exists, the agent asks for no new clients."""
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


def liveness_least_s(timing: Timing) -> float:
    """The shortest liveness timeout within which there is always a probe and its answer."""
    return round(timing.probe_interval_s * (1 + JITTER) + timing.probe_timeout_s, 6)
