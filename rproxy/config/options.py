"""The options of `twistd rproxy` and `twistd rproxy-agent`. They fill in the model."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Final

from twisted.python import usage

from rproxy.config.assembly import assembled
from rproxy.config.command_options import CommandOptions
from rproxy.config.file_errors import located
from rproxy.config.file_schema import secrets_keys
from rproxy.config.given import OptionValues
from rproxy.config.kinds import Kind, fields, parsed
from rproxy.config.model import AGENT_PORT, MONITOR_PORT, AgentConfig, ProxyConfig, ServiceConfig
from rproxy.config.schema import AGENT, PROXY, SERVICE, TIMING, service_check
from rproxy.config.toml_file import read_file
from rproxy.config.validators import PORT_MAX, ConfigError, host_and_port, keyring
from rproxy.net.addresses import Address
from rproxy.policies.registry import POLICIES

STATE_FILE: Final = "rproxy.state"
"""Its name in $STATE_DIRECTORY, which systemd sets for a unit with StateDirectory=."""

_PROXY: Final = ProxyConfig()
_SERVICE: Final = ServiceConfig()
_AGENT: Final = AgentConfig(())


def _default(value: float | str | None) -> str | None:
    """A default of the model as `--help` shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _option(name: str, default: float | str | None, meaning: str, *, short: str | None = None) -> list[str | None]:
    """A parameter that is None unless it is given, so that a file can give it; `--help` shows the model's default."""
    return [name, short, None, f"{meaning} [default: {_default(default)}]"]


class ProxyOptions(CommandOptions):
    """The command line of `twistd rproxy`. After parsing, `config` has the result."""

    command = "rproxy"
    synopsis = "[options]"
    longdesc = "Accepts TCP clients and hands each to the least loaded of the back-ends that registered themselves."

    optParameters: ClassVar[list[list[str | None]]] = [
        ["config", "c", None, "file of one or more services (rproxy config prints one); options win over it"],
        ["keyring", "k", None, "file of keys (rproxy keygen): only agents that have theirs may register"],
        _option("max-backends", _PROXY.limits.confirmed, "most back-ends at once"),
        _option("backend-port", _SERVICE.backend_port, "port of back-ends that register service port 0"),
        _option("probe-interval", _PROXY.timing.probe_interval_s, "seconds between probes of a back-end"),
        _option("probe-timeout", _PROXY.timing.probe_timeout_s, "seconds until a probe counts as lost"),
        _option("liveness", _PROXY.timing.liveness_s, "seconds of silence that take a back-end down"),
        _option(
            "freshness",
            _PROXY.timing.freshness_s,
            "seconds that reports may be old while clients come, or 'off' for the probe interval",
        ),
        _option("probe-budget", _PROXY.timing.probe_budget, "most probes a second that --freshness may cause"),
        _option("policy", _SERVICE.policy, "how to choose: " + ", ".join(POLICIES), short="p"),
        ["shadow", None, None, "policy to compare with that one on the same clients, without effect; none for none"],
        _option("saturation", _SERVICE.saturation, "share of CPU, memory or loss that rules a back-end out, or 'off'"),
        _option("carrier", _PROXY.carrier, "what moves the bytes: splice (Linux, plain sockets), portable, or auto"),
        _option("idle-timeout", _SERVICE.idle_timeout_s, "seconds without a byte that end a session, or 0 for never"),
        _option("half-close-timeout", _SERVICE.half_close_timeout_s, "the same where one side has ended its stream"),
        _option(
            "on-down",
            "end" if _SERVICE.end_on_down else "keep",
            "what becomes of silent sessions when their back-end falls silent: end or keep",
        ),
        ["max-connections", None, None, "most sessions at once (default: what the limit of open files allows)"],
        [
            "state-file",
            None,
            None,
            "file that keeps the back-ends over a restart (default: in $STATE_DIRECTORY, if set)",
        ],
        _option(
            "wait-for-backend",
            _SERVICE.wait_s,
            "seconds that a client waits where no back-end is up, or 0 for not at all",
        ),
        _option(
            "redispatch-early",
            _SERVICE.redispatch.value,
            "whose back-end may end at once and be replaced: all, unsent or off",
        ),
        _option(
            "first-byte",
            _SERVICE.first_byte_s,
            "seconds without a byte to any new session that take a back-end down, or 0 for off",
        ),
        _option("drain-timeout", _PROXY.drain_timeout_s, "seconds that sessions may go on after a stop has begun"),
        _option("demo", _PROXY.demo, "start this many embedded back-ends with their agents"),
        ["access-log", None, None, "file that gets a line for each session; - is standard output, or journal"],
        _option("access-log-format", _PROXY.access_log_format, "format of these lines: text, json or haproxy"),
        ["admin", "a", None, "HOST:PORT or unix:PATH of the operators' HTTP listener (with --demo: 127.0.0.1:8404)"],
        ["admin-token-file", None, None, "file of tokens: who has one may change something there, and read from afar"],
    ]
    optFlags = [
        ["freebind", None, "listen, also for agents and operators, on addresses that this host has not yet (Linux)"],
        ["reuse-port", None, "let another process listen on the same ports, such as the one that replaces this one"],
        ["trace", None, "log every PDU, every choice with the scores, and every session"],
    ]

    def __init__(self) -> None:
        super().__init__()
        self._repeated: dict[str, list[Any]] = {}
        """Options that may be repeated, by name."""
        self._policy_options: dict[str, str] = {}
        self._shadow_options: dict[str, str] = {}
        self._folder = os.getcwd()
        """What relative paths are relative to, whatever the process changes to."""
        self.config = _PROXY

    def opt_listen(self, text: str) -> None:
        """PORT, HOST:PORT or a Twisted server endpoint string, for clients; repeatable (default 80)"""
        self._repeated.setdefault("listen", []).append(text)

    opt_l = opt_listen

    def opt_monitor(self, text: str) -> None:
        """[HOST:]PORT where agents register, UDP; repeatable (default 5555)"""
        self._repeat("monitor", text)

    opt_m = opt_monitor

    def opt_allow(self, text: str) -> None:
        """network (CIDR) that agents may register from; repeatable; without --keyring, it must be given"""
        self._repeat("allow", text)

    def _repeat(self, name: str, text: str) -> None:
        self._repeated.setdefault(name, []).extend(parsed({name: PROXY[name]}, {name: text}).values())

    def opt_policy_option(self, text: str) -> None:
        """NAME=VALUE, an option of the policy; repeatable (see 'rproxy docs choosing')"""
        self._set_policy_option("--policy-option", self._policy_options, text)

    def opt_shadow_option(self, text: str) -> None:
        """NAME=VALUE, an option of the policy that --shadow names; repeatable"""
        self._set_policy_option("--shadow-option", self._shadow_options, text)

    def _set_policy_option(self, key: str, options: dict[str, str], text: str) -> None:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError("must be NAME=VALUE", key, text)
        if name in options:
            raise ConfigError("given twice", key, name)
        options[name] = value

    def postOptions(self) -> None:
        self.config = self._read()

    def read_again(self) -> ProxyConfig:
        """What the same options and the file as it is now say. Raises `ConfigError` with one line."""
        return self._read(self._folder)

    def told(self, error: ConfigError) -> str:
        """A mistake that shows only when the result is used, in one line; of a file's key with the file's name."""
        return located(self["config"], error)

    def _read(self, folder: str = "") -> ProxyConfig:
        """What options and file say; relative paths of options are relative to `folder`."""
        options = self._options(folder)
        if self["config"] is None:
            return assembled(options)
        if not self["config"]:
            raise ConfigError("no file is named", "--config")
        file = os.path.abspath(os.path.join(self._folder, self["config"]))
        return assembled(options, read_file(file, self["config"], self.uid))

    def _options(self, folder: str) -> OptionValues:
        texts = {name: value for name, value in self.items() if isinstance(value, str) or value}
        keys = {**PROXY, **TIMING, **secrets_keys(self.uid)}
        kinds = {name: kind for name, key in keys.items() if isinstance(kind := key.kind, Kind)}
        given = {**texts, **{name: kind.located(texts[name], folder) for name, kind in kinds.items() if name in texts}}
        proxy = parsed(keys, given)
        proxy |= {name: tuple(values) for name, values in self._repeated.items()}
        service = parsed(SERVICE, given)
        if "listen" in proxy:
            service["listen"] = {"listen": proxy.pop("listen"), "listen_tls": {}}
        own = self._policy_options, self._shadow_options
        return OptionValues(proxy, service, *own, _environment(), texts)


def _environment() -> dict[str, Any]:
    """The values that depend on the environment, unless they are given."""
    folders = os.environ.get("STATE_DIRECTORY")
    return parsed(PROXY, {"state-file": os.path.join(folders.partition(":")[0], STATE_FILE)}) if folders else {}


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
        ["drain-wait", None, _default(_AGENT.drain_wait_s), "seconds that a stop may wait for sessions to end"],
        ["check", None, None, "how to see that the service is well: connect, http:/path, command:CMD or none"],
        [
            "load-command",
            None,
            None,
            "command whose last line is the service's load, 0 to 100 (default: the fill of its accept queue)",
        ],
        ["load-file", None, None, "file whose last line is the service's load, instead of a command"],
        ["weight", "w", _default(_AGENT.weight), "share of clients relative to 100"],
        ["max-connections", None, None, "most sessions of each proxy at once (default: what the proxy has configured)"],
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
