"""`rproxy check`: what is wrong with a configuration file, or else what a proxy would do with it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from rproxy.config.assembly import combined
from rproxy.config.endpoints import listen_endpoints, listener_address
from rproxy.config.file_errors import FileErrors
from rproxy.config.given import OptionValues
from rproxy.config.model import CLIENT_SOURCE, ProxyConfig, ServiceConfig
from rproxy.config.tls import client_key, client_tls, server_key, server_tls, unusable
from rproxy.config.toml_file import read_file
from rproxy.config.validators import ConfigError
from rproxy.net.addresses import written
from rproxy.tap.plan import described
from rproxy.tap.startup import raise_descriptor_limit, sessions_max

if TYPE_CHECKING:
    from rproxy.net.tls_client import ClientTls
    from rproxy.net.tls_server import ServerTls

_LOOKUPS_MAX: Final = 16
"""Names that are looked up at the same time."""
_INHERITED: Final = "systemd"
"""A listener whose sockets only the service manager passes."""


def check(name: str, owner: int | None = None) -> str:
    """What a proxy would do with the file of that name, in lines.

    `owner` is the id of a user to whom its key file may belong besides root and the effective user. Raises
    `FileErrors` with everything that is wrong.
    """
    config, errors = combined(OptionValues(), read_file(os.path.abspath(name), name, owner))
    found = _looked_up({each.address[0] for service in config.services for each in service.backends})
    errors += [error for service in config.services for error in _wrong(service, found)]
    if errors:
        raise FileErrors(name, errors)
    addresses = {host: got for host, got in found.items() if not isinstance(got, OSError)}
    lines = [*described(config, addresses), *(f"note: {note}" for note in _notes(config))]
    return "".join(f"{line}\n" for line in lines)


def _looked_up(hosts: Iterable[str]) -> Mapping[str, Sequence[str] | OSError]:
    """The addresses of every host, or why it has none."""
    names = sorted(hosts)
    with ThreadPoolExecutor(_LOOKUPS_MAX) as threads:
        return dict(zip(names, threads.map(_look_up, names), strict=True))


def _look_up(host: str) -> Sequence[str] | OSError:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _wrong(service: ServiceConfig, found: Mapping[str, Sequence[str] | OSError]) -> Iterator[ConfigError]:
    """What shows only when the values are used."""
    for index, text in enumerate(service.listen):
        try:
            if _INHERITED not in text.split(":"):
                listen_endpoints(None, [text], key=f"{service.key('listen')}[{index}]")
        except ConfigError as error:
            yield error
    yield from _wrong_tls(service)
    for backend in service.backends:
        got = found[backend.address[0]]
        if isinstance(got, OSError):
            yield ConfigError(got.strerror or str(got), f"{backend.prefix}address", written(backend.address))


def _wrong_tls(service: ServiceConfig) -> Iterator[ConfigError]:
    """All that is wrong with the files, or else with what is made of them."""
    firsts: list[ConfigError] = []
    for make in _tls(service).values():
        try:
            make()
        except ConfigError as error:
            firsts.append(error)
    if firsts:
        yield from {str(error): error for error in (*unusable(service), *firsts)}.values()


def _tls(service: ServiceConfig) -> Mapping[str, Callable[[], ServerTls | ClientTls | None]]:
    """What makes the TLS of each key that has some. May raise `ConfigError`."""
    makers: dict[str, Callable[[], ServerTls | ClientTls | None]] = {
        server_key(service, text): partial(server_tls, service, text) for text in service.listen
    }
    return {**makers, client_key(service): partial(client_tls, service)}


def _notes(config: ProxyConfig) -> Iterator[str]:
    """What is as the file says, but not on this host, or not now."""
    if not config.freebind:
        for key, host in _own_hosts(config):
            if host and not _is_here(host):
                yield f"{key} {host}: this host has no such address now"
    for service in config.services:
        yield from _untimely(service)
    try:
        sessions_max(config, raise_descriptor_limit())
    except ConfigError as error:
        yield str(error)


def _untimely(service: ServiceConfig) -> Iterator[str]:
    """The certificates that are not valid now."""
    now = datetime.now(UTC)
    for key, make in _tls(service).items():
        tls = make()
        for identity in () if tls is None else tls.identities:
            reason = identity.untimely(now)
            if reason is not None:
                yield f"{key}.certificate {identity.path}: {reason}"


def _own_hosts(config: ProxyConfig) -> Iterator[tuple[str, str]]:
    """The addresses of this host that the configuration names, each with its key."""
    if config.takes_agents:
        yield from ((config.key("monitor"), host) for host, _ in config.monitors)
    if config.admin is not None:
        yield config.key("admin"), config.admin[0]
    for service in config.services:
        for text in service.listen:
            address = listener_address(service.key("listen"), text)
            if address is not None:
                yield service.key("listen"), address[0]
        yield from ((service.key("source"), host) for host in service.source if host != CLIENT_SOURCE)


def _is_here(host: str) -> bool:
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
