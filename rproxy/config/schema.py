"""Every key of the configuration that takes a single value: its name, the model's field that it fills, its range.

Options have these names after two dashes. `fields` reads them from any mapping of names to values.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from rproxy.carriers.registry import UnusableCarrier, check_carrier
from rproxy.config.model import (
    AUTO_SCOPE,
    CGROUP_SCOPE,
    COMMAND_CHECK,
    CONNECT_CHECK,
    HOST_SCOPE,
    HTTP_CHECK,
    NO_CHECK,
)
from rproxy.config.validators import (
    PORT_MAX,
    ConfigError,
    Value,
    choice,
    ip,
    number,
    path,
    whole,
)
from rproxy.net.binding import CAN_FREEBIND
from rproxy.pool.limits import Limits
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.sessions.redispatch import Redispatch
from rproxy.wire.pdu import COUNT_MAX, UINT32_MAX, WEIGHT_MAX

Parser = Callable[[str, Any], Any]
"""Gets a key as the user wrote it, and a value; returns the field's. Raises `ConfigError`."""

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


@attrs.frozen
class Key:
    """Which field of its class in `model` a key fills, and how its value is read."""

    field: str
    parse: Parser


def fields(keys: Mapping[str, Key], values: Mapping[str, Any], prefix: str = "--") -> dict[str, Any]:
    """The model's fields for those `values` that `keys` knows and that are not None. Raises `ConfigError`.

    `prefix` and a key's name together are the key as the user wrote it.
    """
    given = ((name, key, values.get(name)) for name, key in keys.items())
    return {key.field: key.parse(prefix + name, value) for name, key, value in given if value is not None}


def _number(low: float, high: float, *, zero: bool = False) -> Parser:
    return lambda key, value: number(key, value, low, high, zero=zero)


def _whole(low: int, high: int) -> Parser:
    return lambda key, value: whole(key, value, low, high)


def _saturation(key: str, value: Value) -> float | None:
    return None if value == "off" else number(key, value, 0.001, 1)


def _freshness(key: str, value: Value) -> float | None:
    return None if value == "off" else number(key, value, _PERIOD_MIN_S, _PERIOD_MAX_S)


def _limits(key: str, value: Value) -> Limits:
    return Limits.for_pool(whole(key, value, 1, _BACKENDS_MAX))


def _carrier(key: str, value: str) -> str:
    try:
        check_carrier(value)
    except UnusableCarrier as error:
        raise ConfigError(str(error), key, value) from None
    return value


def _freebind(key: str, value: Any) -> bool:
    if value and not CAN_FREEBIND:
        raise ConfigError("needs Linux", key)
    return bool(value)


def _state_file(_: str, value: str) -> str | None:
    """With symbolic links resolved, as it is replaced when it is written; "" for none."""
    return os.path.realpath(value) if value else None


def _command(key: str, value: str) -> str:
    if not value.strip():
        raise ConfigError("no command is named", key)
    return value


def _scope(key: str, value: str) -> str:
    if choice(key, value, (HOST_SCOPE, CGROUP_SCOPE, AUTO_SCOPE)) == CGROUP_SCOPE and sys.platform != "linux":
        raise ConfigError("needs Linux", key, value)
    return value


def _report(key: str, value: str) -> dict[str, int]:
    """Figures such as ``cpu=100,tcp=3``."""
    report = {}
    for part in filter(None, value.split(",")):
        name, _, figure = part.partition("=")
        if name not in _REPORT_MAX:
            raise ConfigError(f"not one of {', '.join(_REPORT_MAX)}", key, part)
        report[name] = whole(f"{key} {name}", figure, 0, _REPORT_MAX[name])
    return report


SERVICE: Final = {
    "backend-port": Key("backend_port", _whole(1, PORT_MAX)),
    "policy": Key("policy", lambda _, value: value),
    "saturation": Key("saturation", _saturation),
    "idle-timeout": Key("idle_timeout_s", _number(_PERIOD_MIN_S, _TIMEOUT_MAX_S, zero=True)),
    "half-close-timeout": Key("half_close_timeout_s", _number(_PERIOD_MIN_S, _TIMEOUT_MAX_S, zero=True)),
    "on-down": Key("end_on_down", lambda key, value: choice(key, value, ("end", "keep")) == "end"),
    "wait-for-backend": Key("wait_s", _number(_PERIOD_MIN_S, _PERIOD_MAX_S, zero=True)),
    "redispatch-early": Key(
        "redispatch", lambda key, value: Redispatch(choice(key, value, [each.value for each in Redispatch]))
    ),
    "first-byte": Key("first_byte_s", _number(_FIRST_BYTE_MIN_S, _PERIOD_MAX_S, zero=True)),
}
"""For `model.ServiceConfig`."""

TIMING: Final = {
    "probe-interval": Key("probe_interval_s", _number(_PERIOD_MIN_S, _PERIOD_MAX_S)),
    "probe-timeout": Key("probe_timeout_s", _number(_PERIOD_MIN_S, _PERIOD_MAX_S)),
    "liveness": Key("liveness_s", _number(_PERIOD_MIN_S, _LIVENESS_MAX_S)),
    "freshness": Key("freshness_s", _freshness),
    "probe-budget": Key("probe_budget", _number(1, _BUDGET_MAX)),
}
"""For `Timing`, which is a field of `model.ProxyConfig`."""

PROXY: Final = {
    "demo": Key("demo", _whole(0, _DEMO_MAX)),
    "max-backends": Key("limits", _limits),
    "max-connections": Key("max_connections", _whole(1, SESSIONS_MAX)),
    "state-file": Key("state_file", _state_file),
    "freebind": Key("freebind", _freebind),
    "trace": Key("trace", lambda _, value: bool(value)),
    "carrier": Key("carrier", _carrier),
}
"""For `model.ProxyConfig`."""

AGENT: Final = {
    "interval": Key("interval_s", _number(_INTERVAL_MIN_S, UINT32_MAX / 1000)),
    "port": Key("port", _whole(0, PORT_MAX)),
    "service-port": Key("service_port", _whole(0, PORT_MAX)),
    "weight": Key("weight", _whole(1, WEIGHT_MAX)),
    "report": Key("report", _report),
    "advertise": Key("advertise", ip),
    "drain-file": Key("drain_file", path),
    "load-command": Key("load_command", _command),
    "load-file": Key("load_file", path),
    "scope": Key("scope", _scope),
    "trace": Key("trace", lambda _, value: bool(value)),
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
