"""The tables of a configuration file: the keys of options, and those that only a file has."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from random import Random
from typing import Any, Final

from rproxy.config.endpoints import listener_address
from rproxy.config.kinds import NETWORK, Key, Kind, Table, address, choice, file, flag, networks, number, text, whole
from rproxy.config.model import (
    AGENT_CHECK,
    CLIENT_SOURCE,
    CONNECT_CHECK,
    NO_CHECK,
    SOURCE_AFFINITY,
    BackendConfig,
    BackendLimits,
    SendTlsConfig,
    TlsConfig,
)
from rproxy.config.schema import NONE, PROXY, SERVICE, TIMING
from rproxy.config.validators import (
    PORT_MAX,
    ConfigError,
    Value,
    existing_file,
    host_and_port,
    host_name,
    ip,
    keyring,
    token_file,
)
from rproxy.config.validators import whole as whole_number
from rproxy.net.addresses import Address, written
from rproxy.net.tls_settings import TLS_VERSIONS
from rproxy.policies.own_options import PolicyError
from rproxy.policies.registry import make_policy
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.wire.pdu import WEIGHT_MAX

_NAME_MAX: Final = 64
_ALPN_MAX: Final = 255
"""RFC 7301, 3.1: a protocol's name has a length of one byte."""
_RATE_MIN: Final = 0.01
_RATE_MAX: Final = 1_000_000
_QUEUE_MAX: Final = 1_000_000
_QUEUE_TIMEOUT_MIN_S: Final = 0.01
_QUEUE_TIMEOUT_MAX_S: Final = 3600


def _name(key: str, value: str) -> str:
    if not value.strip() or not value.isprintable() or len(value) > _NAME_MAX:
        raise ConfigError(f"must be 1 to {_NAME_MAX} printable characters", key, value)
    if value in (".", ".."):  # browsers and curl take them out of the path of a URL
        raise ConfigError("must be another name, since a path may not have this one", key, value)
    return value


def _listener(key: str, value: Value) -> tuple[str, None]:
    listener_address(key, str(value))
    return str(value), None


def _listeners(given: list[tuple[str, TlsConfig | None]]) -> dict[str, Any]:
    texts = [listener for listener, _ in given]
    if not texts:
        raise ConfigError("names no address")
    places: set[Address | str] = set()
    for index, each in enumerate(texts):
        address = listener_address("", each)
        place = address if address is not None and address[1] else each
        if place in places:
            raise ConfigError("this port is given twice", f"[{index}]", each)
        places.add(place)
    return {"listen": tuple(texts), "listen_tls": {listener: tls for listener, tls in given if tls is not None}}


def _policy(key: str, value: str | dict[str, Any]) -> dict[str, Any]:
    name, options = _name_and_options(key, value)
    return {"policy": name, "policy_options": options}


def _shadow(key: str, value: str | dict[str, Any]) -> dict[str, Any]:
    if value == NONE:
        return {"shadow": None, "shadow_options": {}}
    name, options = _name_and_options(key, value)
    return {"shadow": name, "shadow_options": options}


def _name_and_options(key: str, value: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Of a policy that can be made."""
    options = dict(value) if isinstance(value, dict) else {"name": value}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError('must have a name, as in { name = "report", saturation = 0.9 }', key)
    try:
        make_policy(name, options, Random())
    except PolicyError as error:
        raise ConfigError(str(error), key, name) from None
    return name, options


def _check(key: str, value: str) -> str:
    if value in (CONNECT_CHECK, NO_CHECK):
        return value
    if not value.startswith(AGENT_CHECK):
        raise ConfigError(f"must be {_CHECKS}", key, value)
    return f"{AGENT_CHECK}{whole_number(key, value.removeprefix(AGENT_CHECK), 1, PORT_MAX)}"


def _backend_address(key: str, value: str) -> Address:
    host, port = host_and_port(key, value)
    if not port:
        raise ConfigError("port 0 is none to connect to", key, value)
    return host, port


def _source(key: str, value: str) -> str:
    if value == CLIENT_SOURCE:
        return value
    address = ip_address(ip(key, value))
    if address.is_unspecified or address.is_multicast:
        raise ConfigError("not an address to connect from", key, value)
    return str(address)


def _sources(given: list[str]) -> tuple[str, ...]:
    if CLIENT_SOURCE in given and len(given) > 1:
        raise ConfigError(f'"{CLIENT_SOURCE}" stands alone')
    return tuple(dict.fromkeys(given))


def _protocol(key: str, value: str) -> str:
    if not value or len(value) > _ALPN_MAX or not all("!" <= character <= "~" for character in value):
        raise ConfigError("not the name of a protocol, such as h2 or http/1.1", key, value)
    return value


def _tls(given: dict[str, Any]) -> TlsConfig:
    certificates = given.pop("certificate")
    keys = given.pop("key", certificates)
    if not certificates:
        raise ConfigError("names no file", "certificate")
    if len(keys) != len(certificates):
        raise ConfigError("must be as many files as those of certificate", "key")
    return TlsConfig(tuple(zip(certificates, keys, strict=True)), **given)


def _send_tls(given: dict[str, Any]) -> SendTlsConfig:
    if "key" in given and "certificate" not in given:
        raise ConfigError("is of use only with certificate", "key")
    return SendTlsConfig(**{"key": given.get("certificate"), **given})


def _backend(given: dict[str, Any]) -> BackendConfig:
    return BackendConfig(**given)


def _backends(given: list[BackendConfig]) -> tuple[BackendConfig, ...]:
    addresses: set[Address] = set()
    for index, backend in enumerate(given):
        host, port = backend.address
        if (host.lower(), port) in addresses:
            raise ConfigError("this back-end is given twice", f"[{index}].address", written(backend.address))
        addresses.add((host.lower(), port))
    return tuple(given)


_CHECKS: Final = f'"{CONNECT_CHECK}", "{NO_CHECK}" or "{AGENT_CHECK}PORT"'
_CONNECTIONS: Final = whole(1, SESSIONS_MAX)
_SEND_PROXY: Final = whole(0, 2)
_EXISTING: Final = file(existing_file)
_ALPN: Final = Key("alpn", text(_protocol, "the name of a protocol"), tuple)

TLS: Final = {
    "certificate": Key("certificate", _EXISTING, tuple),
    "key": Key("key", _EXISTING, tuple),
    "alpn": _ALPN,
    "min-version": Key("min_version", choice(*TLS_VERSIONS)),
    "client-ca": Key("client_ca", _EXISTING),
}
"""For `model.TlsConfig`: `tls` of a service or of one of its listeners."""

SEND_TLS: Final = {
    "verify": Key("verify", flag()),
    "ca": Key("ca", _EXISTING),
    "server-name": Key("server_name", text(host_name, "a host's name or IP address")),
    "certificate": Key("certificate", _EXISTING),
    "key": Key("key", _EXISTING),
    "alpn": _ALPN,
}
"""For `model.SendTlsConfig`: `send-tls`."""

LIMITS: Final = {
    "max-connections": Key("max_connections", _CONNECTIONS),
    "queue": Key("queue", whole(0, _QUEUE_MAX)),
    "queue-timeout": Key("queue_timeout_s", number(_QUEUE_TIMEOUT_MIN_S, _QUEUE_TIMEOUT_MAX_S, zero=True)),
}
"""For `model.BackendLimits`: `[service.backends]`."""

BACKEND: Final = {
    "address": Key("address", text(_backend_address, "HOST:PORT")),
    "weight": Key("weight", whole(1, WEIGHT_MAX)),
    "check": Key("check", text(_check, _CHECKS)),
    "max-connections": Key("max_connections", _CONNECTIONS),
    "send-proxy": Key("send_proxy", _SEND_PROXY),
}
"""For `model.BackendConfig`: `[[service.backend]]`."""

_TLS_TABLE: Final = Table(TLS, _tls, required=["certificate"], expected="a table with certificate")
_LISTENER: Final = {
    "address": Key("address", address(lambda key, value: _listener(key, value)[0], "PORT, HOST:PORT or an endpoint")),
    "tls": Key("tls", _TLS_TABLE),
}

SERVICE_TABLE: Final[Mapping[str, Key]] = {
    "name": Key("name", text(_name, "a name")),
    "listen": Key(
        "",
        Table(
            _LISTENER,
            lambda given: (given["address"], given.get("tls")),
            required=["address"],
            short=address(_listener, "PORT, HOST:PORT, a Twisted server endpoint string or a table with address"),
        ),
        _listeners,
    ),
    **SERVICE,
    "policy": Key("", Kind(_policy, 'the name of a policy, or a table such as { name = "report" }', (str, dict))),
    "shadow": Key(
        "", Kind(_shadow, 'the name of a policy, a table such as { name = "report" }, or "none"', (str, dict))
    ),
    "from": Key("allow", NETWORK, networks),
    "max-connections": Key("max_connections", _CONNECTIONS),
    "clients": Key("clients", NETWORK, networks),
    "deny": Key("deny", NETWORK, tuple),
    "max-connections-per-client": Key("max_connections_per_client", _CONNECTIONS),
    "connections-per-second-per-client": Key("connections_per_second_per_client", number(_RATE_MIN, _RATE_MAX)),
    "affinity": Key("affinity", choice(NONE, SOURCE_AFFINITY).to(lambda chosen: None if chosen == NONE else chosen)),
    "proxy-protocol-from": Key("proxy_protocol_from", NETWORK, networks),
    "send-proxy": Key("send_proxy", _SEND_PROXY),
    "source": Key("source", text(_source, f'an IP address of this host, or "{CLIENT_SOURCE}"'), _sources),
    "tls": Key("tls", _TLS_TABLE),
    "send-tls": Key(
        "send_tls",
        Table(
            SEND_TLS,
            _send_tls,
            short=Kind(lambda _, wanted: SendTlsConfig() if wanted else None, "true or false, or a table", (bool,)),
        ),
    ),
    "backends": Key("each", Table(LIMITS, lambda given: BackendLimits(**given))),
    "backend": Key("backends", Table(BACKEND, _backend, required=["address"]), _backends),
}
"""For `model.ServiceConfig`: `[[service]]`."""


def proxy_table(owner: int | None) -> Mapping[str, Key]:
    """For `model.ProxyConfig` and its `Timing`: `[proxy]`. `owner` is as for `keyfile.read_keys`."""
    return {**PROXY, **TIMING, **secrets_keys(owner)}


def secrets_keys(owner: int | None) -> Mapping[str, Key]:
    """The files of secrets of a proxy."""
    return {"keyring": keyring_key(owner), "admin-token-file": _token_file_key(owner)}


def _token_file_key(owner: int | None) -> Key:
    return Key("admin_token_file", file(lambda key, value: token_file(key, value, owner)))


def keyring_key(owner: int | None) -> Key:
    """The key file of a proxy."""
    return Key("keyring", file(lambda key, value: keyring(key, value, derived=False, owner=owner)))
