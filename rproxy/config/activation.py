"""Which listener each socket that the service manager has passed stands for (socket activation)."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from rproxy.config.endpoints import adopted, endpoint_type
from rproxy.config.model import ProxyConfig, ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.net.inherited import InheritedSocket

_COUNT: Final = "LISTEN_FDS"
_NAMES: Final = "LISTEN_FDNAMES"
_EXPLICIT: Final = "systemd"
_PLAIN: Final = frozenset({"", "tcp", "tcp4", "tcp6", "unix"})
"""Types of endpoints that an inherited socket can stand for; "" is that of PORT and HOST:PORT."""


def activated(config: ProxyConfig, sockets: Sequence[InheritedSocket]) -> ProxyConfig:
    """The configuration with `sockets` in the place of its listeners. Raises `ConfigError`.

    A socket whose name is a service's (FileDescriptorName= of a socket unit) is for that service: one for each of its
    listeners, in order. If none is, they are for all listeners of all services, in order. Where a listener is an
    endpoint string ``systemd:…``, that says which sockets are used, and nothing else does.
    """
    if not sockets or any(_is_explicit(service, text) for service in config.services for text in service.listen):
        return config
    by_service = _by_name(config.services, sockets) or _by_order(config.services, sockets)
    services = tuple(
        attrs.evolve(service, inherited=_assigned(service, by_service[service.name]))
        if service.name in by_service
        else service
        for service in config.services
    )
    return attrs.evolve(config, services=services)


def _is_explicit(service: ServiceConfig, text: str) -> bool:
    return _EXPLICIT in text.split(":") and bool(endpoint_type(service.key("listen"), text))


def _by_name(
    services: Sequence[ServiceConfig], sockets: Sequence[InheritedSocket]
) -> Mapping[str, Sequence[InheritedSocket]]:
    """The sockets of each service that has some; empty if no socket has a service's name."""
    listeners = {service.name: service.listen for service in services}
    found: dict[str, list[InheritedSocket]] = defaultdict(list)
    for each in sockets:
        found[each.name].append(each)
    strange = [name for name in found if name not in listeners]
    if len(strange) == len(found):
        if len(found) > 1 and len(services) > 1:
            raise ConfigError(_no_service(strange[0], listeners), _NAMES)
        return {}
    if strange:
        raise ConfigError(_no_service(strange[0], listeners), _NAMES)
    for name, mine in found.items():
        texts = listeners[name]
        if len(mine) != len(texts):
            raise ConfigError(
                f"{len(mine)} socket(s) called {name}, and the service has {len(texts)} listener(s): "
                f"{', '.join(texts)}",
                _NAMES,
            )
    return found


def _no_service(name: str, services: Mapping[str, object]) -> str:
    return f"a socket is called {name!r}, and the services are {', '.join(services)}"


def _by_order(
    services: Sequence[ServiceConfig], sockets: Sequence[InheritedSocket]
) -> Mapping[str, Sequence[InheritedSocket]]:
    texts = [text for service in services for text in service.listen]
    if len(sockets) != len(texts):
        raise ConfigError(
            f"{len(sockets)} socket(s) passed, and there are {len(texts)} listener(s): {', '.join(texts)}", _COUNT
        )
    left = iter(sockets)
    return {service.name: [next(left) for _ in service.listen] for service in services}


def _assigned(service: ServiceConfig, sockets: Sequence[InheritedSocket]) -> Mapping[str, int]:
    assigned: dict[str, int] = {}
    for text, each in zip(service.listen, sockets, strict=True):
        key = service.key("listen")
        if text in assigned:
            raise ConfigError("given twice", key, text)
        kind = endpoint_type(key, text)
        if kind not in _PLAIN:
            raise ConfigError("no socket can be passed for this kind of endpoint", key, text)
        _check(each, text, unix=kind == "unix")
        assigned[text] = each.descriptor
    return assigned


def _check(each: InheritedSocket, text: str, *, unix: bool) -> None:
    """Raises `ConfigError` if it is no listening stream socket, or a Unix socket for a TCP listener or the reverse.

    Its address is whatever the service manager has bound it to.
    """
    try:
        adopted(None, each.descriptor)
        with socket.socket(fileno=os.dup(each.descriptor)) as sock:
            if (sock.family == socket.AF_UNIX) is not unix:
                raise ValueError(f"the inherited socket is {socket.AddressFamily(sock.family).name}")
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        named = f" ({each.name})" if each.name else ""
        raise ConfigError(f"for the listener {text}: {reason}", _COUNT, f"{each.descriptor}{named}") from None
