"""The options of `twistd rproxy` and `twistd rproxy-agent`. They fill in the model."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Final

from twisted.python import usage

from rproxy.config.command_options import CommandOptions
from rproxy.config.keyfile import Keyring
from rproxy.config.model import (
    AGENT_PORT,
    MONITOR_PORT,
    AgentConfig,
    ProxyConfig,
    ServiceConfig,
    liveness_least_s,
)
from rproxy.config.schema import AGENT, PROXY, SERVICE, TIMING, fields, service_check
from rproxy.config.validators import (
    PORT_MAX,
    ConfigError,
    host_and_port,
    keyring,
    local_address,
    network,
)
from rproxy.net.addresses import Address, Network
from rproxy.policies.registry import POLICIES
from rproxy.sources.agents.prober import Timing

LOOPBACK: Final = "127.0.0.1"
STATE_FILE: Final = "rproxy.state"
"""Its name in $STATE_DIRECTORY, which systemd sets for a unit with StateDirectory=."""

_PROXY: Final = ProxyConfig()
_SERVICE: Final = ServiceConfig()
_AGENT: Final = AgentConfig(())


def _default(value: float | str | None) -> str | None:
    """A default of the model as `--help` shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


class ProxyOptions(CommandOptions):
    """The command line of `twistd rproxy`. After parsing, `config` has the result."""

    command = "rproxy"
    synopsis = "[options]"
    longdesc = "Accepts TCP clients and hands each to the least loaded of the back-ends that registered themselves."

    optParameters: ClassVar[list[list[str | None]]] = [
        ["monitor", "m", None, f"[HOST:]PORT where agents register, UDP (default {MONITOR_PORT})"],
        ["keyring", "k", None, "file of keys (rproxy keygen): only agents that have theirs may register"],
        ["max-backends", None, _default(_PROXY.limits.confirmed), "most back-ends at once"],
        ["backend-port", None, _default(_SERVICE.backend_port), "port of back-ends that register service port 0"],
        ["probe-interval", None, _default(_PROXY.timing.probe_interval_s), "seconds between probes of a back-end"],
        ["probe-timeout", None, _default(_PROXY.timing.probe_timeout_s), "seconds until a probe counts as lost"],
        ["liveness", None, _default(_PROXY.timing.liveness_s), "seconds of silence that take a back-end down"],
        [
            "freshness",
            None,
            _default(_PROXY.timing.freshness_s),
            "seconds that reports may be old while clients come, or 'off' for the probe interval",
        ],
        ["probe-budget", None, _default(_PROXY.timing.probe_budget), "most probes a second that --freshness may cause"],
        ["policy", "p", _SERVICE.policy, "how to choose: " + ", ".join(POLICIES)],
        [
            "saturation",
            None,
            _default(_SERVICE.saturation),
            "share of CPU, memory or loss that rules a back-end out, or 'off'",
        ],
        [
            "carrier",
            None,
            _PROXY.carrier,
            "what moves the bytes: splice (Linux, plain sockets), portable, or auto",
        ],
        [
            "idle-timeout",
            None,
            _default(_SERVICE.idle_timeout_s),
            "seconds without a byte that end a session, or 0 for never",
        ],
        [
            "half-close-timeout",
            None,
            _default(_SERVICE.half_close_timeout_s),
            "the same where one side has ended its stream",
        ],
        [
            "on-down",
            None,
            "end" if _SERVICE.end_on_down else "keep",
            "what becomes of silent sessions when their back-end falls silent: end or keep",
        ],
        ["max-connections", None, None, "most sessions at once (default: what the limit of open files allows)"],
        [
            "state-file",
            None,
            None,
            "file that keeps the back-ends over a restart (default: in $STATE_DIRECTORY, if set)",
        ],
        [
            "wait-for-backend",
            None,
            _default(_SERVICE.wait_s),
            "seconds that a client waits where no back-end is up, or 0 for not at all",
        ],
        [
            "redispatch-early",
            None,
            _SERVICE.redispatch.value,
            "whose back-end may end at once and be replaced: all, unsent or off",
        ],
        [
            "first-byte",
            None,
            _default(_SERVICE.first_byte_s),
            "seconds without a byte to any new session that take a back-end down, or 0 for off",
        ],
        ["demo", None, _default(_PROXY.demo), "start this many embedded back-ends with their agents"],
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
        self._policy_options: dict[str, str] = {}
        self.config = _PROXY

    def opt_listen(self, text: str) -> None:
        """PORT, HOST:PORT or a Twisted server endpoint string, for clients; repeatable (default 80)"""
        self._listen.append(text)

    opt_l = opt_listen

    def opt_allow(self, text: str) -> None:
        """network (CIDR) that agents may register from; repeatable; without --keyring, it must be given"""
        self._allow.append(network("--allow", text))

    def opt_policy_option(self, text: str) -> None:
        """NAME=VALUE, an option of the policy; repeatable (see 'rproxy docs choosing')"""
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError("must be NAME=VALUE", "--policy-option", text)
        if name in self._policy_options:
            raise ConfigError("given twice", "--policy-option", name)
        self._policy_options[name] = value

    def postOptions(self) -> None:
        config = self._filled()
        if config.is_open and not config.allow:
            raise ConfigError(
                "who may register? give --keyring FILE, which 'rproxy keygen' makes, or --allow NETWORK, where "
                "0.0.0.0/0 and ::/0 stand for any host at all"
            )
        self.config = config

    def _filled(self) -> ProxyConfig:
        once = fields(PROXY, self._with_state_file())
        return ProxyConfig(
            monitor=self._monitor(is_demo=once["demo"] > 0),
            keyring=self._keyring(),
            services=(self._service(),),
            timing=self._timing(),
            allow=tuple(self._allow),
            **self._admin(),
            **once,
        )

    def _service(self) -> ServiceConfig:
        return ServiceConfig(
            listen=tuple(self._listen) or _SERVICE.listen,
            policy_options=dict(self._policy_options),
            **fields(SERVICE, self),
        )

    def _monitor(self, *, is_demo: bool) -> Address:
        """The embedded agents of a demo are on this host, so others need not reach it."""
        default_host = LOOPBACK if is_demo else _PROXY.monitor[0]
        text = str(_PROXY.monitor[1]) if self["monitor"] is None else self["monitor"]
        host, port = host_and_port("--monitor", text, host=default_host)
        return local_address("--monitor", host), port

    def _admin(self) -> dict[str, Any]:
        if self["admin"] is None:
            return {}
        host, port = host_and_port("--admin", self["admin"])
        return {"admin": (local_address("--admin", host), port), "admin_names": (host,)}

    def _keyring(self) -> Keyring | None:
        return None if self["keyring"] is None else keyring("--keyring", self["keyring"], derived=False, owner=self.uid)

    def _with_state_file(self) -> dict[str, Any]:
        """These options, with the state file's default, which depends on the environment."""
        values = dict(self)
        if values["state-file"] is None and (folders := os.environ.get("STATE_DIRECTORY")):
            values["state-file"] = os.path.join(folders.partition(":")[0], STATE_FILE)
        return values

    def _timing(self) -> Timing:
        timing = Timing(**fields(TIMING, self))
        least_s = liveness_least_s(timing)
        if timing.liveness_s < least_s:
            raise usage.UsageError(self._too_short(timing, least_s))
        return timing

    def _too_short(self, timing: Timing, least_s: float) -> str:
        """The message names --liveness if it was given, and otherwise the options that make its default too short."""
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


class AgentOptions(CommandOptions):
    """The command line of `twistd rproxy-agent`. After parsing, `config` has the result."""

    command = "rproxy-agent"
    synopsis = "--proxy HOST[:PORT] [options]"
    longdesc = "Registers this host as a back-end with one or more proxies, and answers their probes of its load."

    optParameters = [
        ["interval", "i", _default(_AGENT.interval_s), "seconds between registrations"],
        [
            "port",
            None,
            None,
            f"UDP port to answer probes on; 0 is any [default: {AGENT_PORT}, or any while none come]",
        ],
        [
            "service-port",
            "s",
            _default(_AGENT.service_port),
            "TCP port of the service; 0 is the proxy's --backend-port",
        ],
        ["keyring", "k", None, "file of keys: this agent's own (rproxy keygen --agent), or the proxy's"],
        ["advertise", None, None, "with --keyring: this host's address as the proxy sees it, where NAT changes it"],
        ["drain-file", None, None, "while this file is there, ask for no new clients; sessions go on"],
        ["check", None, None, "how to see that the service is well: connect, http:/path, command:CMD or none"],
        [
            "load-command",
            None,
            None,
            "command whose last line is the service's load, 0 to 100 (default: the fill of its accept queue)",
        ],
        ["load-file", None, None, "file whose last line is the service's load, instead of a command"],
        ["weight", "w", _default(_AGENT.weight), "share of clients relative to 100"],
        [
            "scope",
            None,
            _AGENT.scope,
            "report CPU and memory of: host, cgroup, or auto (the cgroup's where it has a limit)",
        ],
        ["report", None, None, "report these instead of the host's, for tests: cpu=100,memory=100,tcp=100 or some"],
    ]
    optFlags = [["trace", None, "log every PDU"]]

    def __init__(self) -> None:
        super().__init__()
        self._proxies: list[Address] = []
        self.config = _AGENT

    def opt_proxy(self, text: str) -> None:
        """HOST[:PORT] of a proxy to register with; repeatable (port 5555)"""
        host, port = host_and_port("--proxy", text, port=MONITOR_PORT)
        if port == 0:
            raise ConfigError(f"must be from 1 to {PORT_MAX}", "--proxy", text)
        if "%" in host:
            raise ConfigError("an address that is good on one link only does not tell who answers", "--proxy", text)
        self._proxies.append((host, port))

    opt_p = opt_proxy

    def postOptions(self) -> None:
        if not self._proxies:
            raise usage.UsageError("--proxy HOST is missing: the proxy to register with")
        keys = None if self["keyring"] is None else keyring("--keyring", self["keyring"], derived=True, owner=self.uid)
        if self["advertise"] is not None and keys is None:
            raise usage.UsageError("--advertise is of use only with --keyring")
        if self["load-command"] is not None and self["load-file"] is not None:
            raise usage.UsageError("--load-command and --load-file both say the load of the service: give one of them")
        values = fields(AGENT, self)
        check = service_check("--check", self["check"], values["service_port"])
        proxies = tuple(dict.fromkeys(self._proxies))
        self.config = AgentConfig(proxies=proxies, keyring=keys, check=check, **values)

    @property
    def name(self) -> str:
        """With the service's port, if given: a second agent in the same folder is for another service."""
        port = self.config.service_port
        return f"{self.command}-{port}" if port else self.command
