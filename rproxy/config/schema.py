"""Every key of the configuration that is an option, too: its name, the model's field that it fills, its range.

Options have these names after two dashes, and so have keys of a file. Those that only a file has are in `file_schema`.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from rproxy.carriers.registry import UnusableCarrier, check_carrier
from rproxy.config.kinds import (
    NETWORK,
    Key,
    address,
    address_or_path,
    choice,
    file,
    flag,
    networks,
    number,
    number_or_off,
    text,
    whole,
)
from rproxy.config.model import (
    ACCESS_HAPROXY,
    ACCESS_JOURNAL,
    ACCESS_JSON,
    ACCESS_STDOUT,
    ACCESS_TEXT,
    AUTO_SCOPE,
    CGROUP_SCOPE,
    COMMAND_CHECK,
    CONNECT_CHECK,
    HOST_SCOPE,
    HTTP_CHECK,
    NO_CHECK,
    UNIX,
)
from rproxy.config.validators import PORT_MAX, ConfigError, Value, host_and_port, ip, local_address, socket_path
from rproxy.config.validators import choice as one_of
from rproxy.config.validators import whole as whole_number
from rproxy.net.addresses import Address
from rproxy.net.binding import CAN_FREEBIND, CAN_HAND_OVER
from rproxy.pool.limits import Limits
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.sessions.redispatch import Redispatch
from rproxy.wire.pdu import COUNT_MAX, UINT32_MAX, WEIGHT_MAX

NONE: Final = "none"
"""Stands for nothing, where a key has a word for everything else."""
_PERIOD_MIN_S: Final = 0.01
_PERIOD_MAX_S: Final = 3600
_LIVENESS_MAX_S: Final = 86400
_TIMEOUT_MAX_S: Final = 30 * 86400
_FIRST_BYTE_MIN_S: Final = 0.1
_INTERVAL_MIN_S: Final = 0.001
"""The wire counts whole milliseconds."""
_BACKENDS_MAX: Final = 100_000
_BUDGET_MAX: Final = 100_000
_DEMO_MAX: Final = 100
_REPORT_MAX: Final = {"cpu": 100, "memory": 100, "tcp": COUNT_MAX}
_CHECK_PATH_MAX: Final = 2000
ACCESS_WORDS: Final = (ACCESS_STDOUT, ACCESS_JOURNAL)


def _carrier(key: str, value: str) -> str:
    try:
        check_carrier(value)
    except UnusableCarrier as error:
        raise ConfigError(str(error), key, value) from None
    return value


def _policy(_: str, value: str) -> dict[str, Any]:
    """The policy, and none of the options that a file gives another one."""
    return {"policy": value, "policy_options": {}}


def _shadow(_: str, value: str) -> dict[str, Any]:
    """As `_policy`."""
    return {"shadow": None if value == NONE else value, "shadow_options": {}}


def _needs_freebind(key: str) -> None:
    if not CAN_FREEBIND:
        raise ConfigError("needs Linux", key)


def _needs_reuse_port(key: str) -> None:
    if not CAN_HAND_OVER:
        raise ConfigError("needs Linux", key)


def _monitor(key: str, value: Value) -> Address:
    host, port = host_and_port(key, value, host="")
    return local_address(key, host), port


def _monitors(given: list[Address]) -> tuple[Address, ...]:
    if not given:
        raise ConfigError("names no port")
    return tuple(dict.fromkeys(given))


def _admin(key: str, value: Value) -> dict[str, Any]:
    """Its address, and the name that operators use for it; or its path."""
    text = str(value)
    if text.startswith(UNIX):
        return {"admin": None, "admin_names": (), "admin_path": socket_path(key, text.removeprefix(UNIX))}
    host, port = host_and_port(key, value)
    return {"admin": (local_address(key, host), port), "admin_names": (host,), "admin_path": None}


def _state_file(_: str, value: str) -> str | None:
    """With symbolic links resolved, as it is replaced when it is written; "" for none."""
    return os.path.realpath(value) if value else None


def _access_log(_: str, value: str) -> str | None:
    """ "" for none."""
    return value if value in ACCESS_WORDS else os.path.abspath(value) if value else None


def _command(key: str, value: str) -> str:
    if not value.strip():
        raise ConfigError("no command is named", key)
    return value


def _scope(key: str, value: str) -> str:
    if one_of(key, value, (HOST_SCOPE, CGROUP_SCOPE, AUTO_SCOPE)) == CGROUP_SCOPE and sys.platform != "linux":
        raise ConfigError("needs Linux", key, value)
    return value


def _report(key: str, value: str) -> dict[str, int]:
    """Figures such as ``cpu=100,tcp=3``."""
    report = {}
    for part in filter(None, value.split(",")):
        name, _, figure = part.partition("=")
        if name not in _REPORT_MAX:
            raise ConfigError(f"not one of {', '.join(_REPORT_MAX)}", key, part)
        report[name] = whole_number(f"{key} {name}", figure, 0, _REPORT_MAX[name])
    return report


SERVICE: Final = {
    "backend-port": Key("backend_port", whole(1, PORT_MAX)),
    "policy": Key("", text(_policy, "the name of a policy")),
    "shadow": Key("", text(_shadow, "the name of a policy, or none")),
    "saturation": Key("saturation", number_or_off(0.001, 1)),
    "idle-timeout": Key("idle_timeout_s", number(_PERIOD_MIN_S, _TIMEOUT_MAX_S, zero=True)),
    "half-close-timeout": Key("half_close_timeout_s", number(_PERIOD_MIN_S, _TIMEOUT_MAX_S, zero=True)),
    "on-down": Key("end_on_down", choice("end", "keep").to(lambda chosen: chosen == "end")),
    "wait-for-backend": Key("wait_s", number(_PERIOD_MIN_S, _PERIOD_MAX_S, zero=True)),
    "redispatch-early": Key("redispatch", choice(*Redispatch).to(Redispatch)),
    "first-byte": Key("first_byte_s", number(_FIRST_BYTE_MIN_S, _PERIOD_MAX_S, zero=True)),
}
"""For `model.ServiceConfig`."""

TIMING: Final = {
    "probe-interval": Key("probe_interval_s", number(_PERIOD_MIN_S, _PERIOD_MAX_S)),
    "probe-timeout": Key("probe_timeout_s", number(_PERIOD_MIN_S, _PERIOD_MAX_S)),
    "liveness": Key("liveness_s", number(_PERIOD_MIN_S, _LIVENESS_MAX_S)),
    "freshness": Key("freshness_s", number_or_off(_PERIOD_MIN_S, _PERIOD_MAX_S)),
    "probe-budget": Key("probe_budget", number(1, _BUDGET_MAX)),
}
"""For `Timing`, which is a field of `model.ProxyConfig`."""

PROXY: Final = {
    "monitor": Key("monitors", address(_monitor, "[HOST:]PORT"), _monitors),
    "allow": Key("allow", NETWORK, networks),
    "max-backends": Key("limits", whole(1, _BACKENDS_MAX).to(Limits.for_pool)),
    "max-connections": Key("max_connections", whole(1, SESSIONS_MAX)),
    "state-file": Key("state_file", file(_state_file)),
    "admin": Key("", address_or_path(_admin, "HOST:PORT or unix:PATH", UNIX)),
    "access-log": Key("access_log", file(_access_log, *ACCESS_WORDS)),
    "access-log-format": Key("access_log_format", choice(ACCESS_TEXT, ACCESS_JSON, ACCESS_HAPROXY)),
    "demo": Key("demo", whole(0, _DEMO_MAX)),
    "drain-timeout": Key("drain_timeout_s", number(_PERIOD_MIN_S, _TIMEOUT_MAX_S, zero=True)),
    "reuse-port": Key("reuse_port", flag(_needs_reuse_port)),
    "freebind": Key("freebind", flag(_needs_freebind)),
    "trace": Key("trace", flag()),
    "carrier": Key("carrier", text(_carrier, '"auto", "splice" or "portable"')),
}
"""For `model.ProxyConfig`."""

AGENT: Final = {
    "interval": Key("interval_s", number(_INTERVAL_MIN_S, UINT32_MAX / 1000)),
    "port": Key("port", whole(0, PORT_MAX)),
    "service-port": Key("service_port", whole(0, PORT_MAX)),
    "weight": Key("weight", whole(1, WEIGHT_MAX)),
    "max-connections": Key("max_connections", whole(1, UINT32_MAX)),
    "report": Key("report", text(_report, "figures such as cpu=100,tcp=3")),
    "advertise": Key("advertise", text(ip, "an IP address")),
    "drain-file": Key("drain_file", file()),
    "drain-wait": Key("drain_wait_s", number(_PERIOD_MIN_S, _TIMEOUT_MAX_S, zero=True)),
    "load-command": Key("load_command", text(_command, "a command")),
    "load-file": Key("load_file", file()),
    "scope": Key("scope", text(_scope, "host, cgroup or auto")),
    "trace": Key("trace", flag()),
}
"""For `model.AgentConfig`."""


def service_check(key: str, value: str | None, service_port: int) -> str:
    """The agent's check of its service: `value`, or by default what `service_port` allows. Raises `ConfigError`."""
    if value is None:
        return CONNECT_CHECK if service_port else NO_CHECK
    if value == CONNECT_CHECK or value.startswith(HTTP_CHECK):
        if value != CONNECT_CHECK:
            _check_path(key, value)
        if not service_port:
            raise ConfigError("needs --service-port, which is where to connect to", key, value)
    elif value.startswith(COMMAND_CHECK):
        if not value.removeprefix(COMMAND_CHECK).strip():
            raise ConfigError("no command is named", key, value)
    elif value != NO_CHECK:
        raise ConfigError("not one of connect, http:/path, command:CMD and none", key, value)
    return value


def _check_path(key: str, value: str) -> None:
    http_path = value.removeprefix(HTTP_CHECK)
    if not http_path.startswith("/") or http_path.startswith("//"):
        raise ConfigError("not of the form http:/path (the host is this one)", key, value)
    if not all("!" <= character <= "~" for character in http_path):
        raise ConfigError("a path has only visible ASCII characters, others as %XX", key, repr(value))
    if len(http_path) > _CHECK_PATH_MAX:
        raise ConfigError(f"the path is longer than {_CHECK_PATH_MAX} characters", key, "http:/…")
