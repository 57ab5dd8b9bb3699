"""Errors between keys: each value is valid by itself, but not together with others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from rproxy.config.endpoints import listener_address
from rproxy.config.given import FileValues, OptionValues
from rproxy.config.model import ProxyConfig, ServiceConfig, liveness_least_s
from rproxy.config.validators import ConfigError
from rproxy.net.addresses import Address, written
from rproxy.net.binding import wider_hosts

_HEADED: Final = "haproxy:"
"""Begins the listeners of Twisted's that read PROXY headers."""
_WITH_TLS: Final = re.compile(r"(haproxy:)*(ssl|tls):")
"""Begins the listeners of Twisted's that speak TLS."""
_WITH_ONE_SOCKET: Final = re.compile(r"(haproxy:)*(unix|systemd):")
"""Begins the listeners of Twisted's of which two of the same text have one socket."""
_PLAIN: Final = "splice"
"""The carrier that takes plain sockets only."""
_ANY: Final = "where 0.0.0.0/0 and ::/0 stand for any host at all"


def mistakes(config: ProxyConfig, options: OptionValues, file: FileValues) -> Iterator[ConfigError]:
    """All that can be told where tables of the file that have errors are not known."""
    if file.proxy is not None:
        yield from _timing(config, options, file.proxy.keys() | options.proxy.keys())
        yield from unguarded(config)
    if config.demo and not config.takes_agents:
        yield ConfigError("no service takes agents, which the demo's back-ends have", config.key("demo"))
    elif config.demo and all(service.service_port is not None for service in config.services if service.takes_agents):
        yield ConfigError(
            "only a service alone in the file, without backend-port, takes the demo's back-ends, whose ports vary",
            config.key("demo"),
        )
    if options.shadow_options and all(service.shadow is None for service in config.services):
        yield ConfigError("is of use only with a shadow policy, which --shadow names", "--shadow-option")
    if file.services:
        yield from _services(config, options, file)
    elif file.proxy is not None and config.is_open and not config.allow:
        yield _who_may_register(config)


def _timing(config: ProxyConfig, options: OptionValues, given: set[str]) -> Iterator[ConfigError]:
    """The message names the liveness if it was given, and otherwise the keys that make its default too short."""
    timing, key = config.timing, config.key
    least_s = liveness_least_s(timing)
    if timing.liveness_s >= least_s:
        return
    why = (
        f"{key('probe-interval')} with its jitter and {key('probe-timeout')} together, or back-ends go down between "
        "two probes"
    )
    if "liveness" in given:
        yield ConfigError(f"must be at least {least_s:.10g}, {why}", key("liveness"), options.texts.get("liveness"))
        return
    asked = [
        " ".join(filter(None, [key(name), options.texts.get(name)]))
        for name in ("probe-interval", "probe-timeout")
        if name in given
    ]
    yield ConfigError(
        f"{key('liveness')}, {timing.liveness_s:.10g} by default, must be given then, and at least {least_s:.10g}: "
        f"{why}",
        " and ".join(asked),
    )


def _services(config: ProxyConfig, options: OptionValues, file: FileValues) -> Iterator[ConfigError]:
    names: dict[str, int] = {}
    if "listen" in options.service and len(config.services) > 1:
        yield ConfigError("the file has several services, each of which names its own", "--listen")
    for number, (service, given) in enumerate(zip(config.services, file.services, strict=True)):
        if given is None:
            continue
        if "listen" not in given and "listen" not in options.service:
            yield ConfigError("is missing", service.key("listen"))
        if names.setdefault(service.name, number) != number:
            yield ConfigError(f"service[{names[service.name]}] has the same name", service.key("name"), service.name)
        if file.proxy is not None and _admits_any(config, service):
            yield _who_may_register(config, service)
        yield from _proxy_headers(service)
        yield from _tls_twice(service)
        if file.proxy is not None:
            yield from carrier_without_tls(config.carrier, service)
    if "listen" not in options.service:
        pairs = zip(config.services, file.services, strict=True)
        listening = [service for service, given in pairs if given is not None and "listen" in given]
        yield from _shared_listeners(listening)
        if file.proxy is not None:
            yield from _operators_listener(config, listening)


def _proxy_headers(service: ServiceConfig) -> Iterator[ConfigError]:
    """Twisted's listeners read headers only once a back-end is connected, and would read a second one."""
    sent = bool(service.send_proxy) or any(backend.send_proxy for backend in service.backends)
    for key, text in _listeners(service):
        if text.startswith(_HEADED) and (sent or service.proxy_protocol_from):
            reason = f"a listener without {_HEADED}, and proxy-protocol-from, read the headers of such a service"
            yield ConfigError(reason, key, text)


def _tls_twice(service: ServiceConfig) -> Iterator[ConfigError]:
    """Listeners that would speak TLS within TLS."""
    for key, text in _listeners(service):
        if _WITH_TLS.match(text) and (service.tls is not None or text in service.listen_tls):
            yield ConfigError("this endpoint has TLS of its own, and takes no tls", key, text)


def carrier_without_tls(carrier: str, service: ServiceConfig) -> Iterator[ConfigError]:
    """A service with TLS of a process that was given the carrier which does not take it."""
    if carrier == _PLAIN and (service.tls or service.listen_tls or service.send_tls):
        reason = "the splice carrier takes plain sockets only; --carrier auto takes TLS, too"
        yield ConfigError(reason, service.key("send-tls" if service.send_tls else "tls"))


def unguarded(config: ProxyConfig) -> Iterator[ConfigError]:
    """An operators' listener that other hosts can reach, and nobody needs a token for."""
    if config.has_operators and not config.reads_openly and config.admin_token_file is None:
        place = written(config.admin) if config.admin is not None else None
        reason = f"other hosts can reach it: give {config.key('admin-token-file')} FILE, or a loopback address"
        yield ConfigError(reason, config.key("admin"), place)


def _operators_listener(config: ProxyConfig, services: Iterable[ServiceConfig]) -> Iterator[ConfigError]:
    """A listener for clients where that for operators is to be."""
    if config.admin is None or not config.admin[1]:
        return
    host, port = config.admin
    for service in services:
        for key, text in _listeners(service):
            if listener_address(key, text) in [(each, port) for each in (host, *wider_hosts(host))]:
                yield ConfigError(f"{key} accepts clients there", config.key("admin"), written(config.admin))


def _listeners(service: ServiceConfig) -> Iterator[tuple[str, str]]:
    """Every listener with its key."""
    key = service.key("listen")
    for index, text in enumerate(service.listen):
        yield key if "listen" in service.options else f"{key}[{index}]", text


def admitted_unasked(config: ProxyConfig) -> Iterator[ConfigError]:
    """An error for each service that any host's agent could register for, though nobody has said so."""
    for service in config.services:
        if _admits_any(config, service):
            yield _who_may_register(config, service)


def _admits_any(config: ProxyConfig, service: ServiceConfig) -> bool:
    """Whether any host's agent could register for the service, and nobody has said so."""
    return config.is_open and service.takes_agents and not config.allow and not service.allow


def _who_may_register(config: ProxyConfig, service: ServiceConfig | None = None) -> ConfigError:
    if service is not None:
        ways = f"give keyring or allow in [proxy], or from here, {_ANY}"
        return ConfigError(f"who may register? {ways}", service.prefix.rstrip("."))
    if config.file is not None:
        return ConfigError(f"who may register? give keyring, which 'rproxy keygen' makes, or allow, {_ANY}", "proxy")
    return ConfigError(
        f"who may register? give --keyring FILE, which 'rproxy keygen' makes, or --allow NETWORK, {_ANY}"
    )


def _shared_listeners(services: Iterable[ServiceConfig]) -> Iterator[ConfigError]:
    """Listeners of two services for the same clients: only one of them could be opened."""
    owners: dict[Address, tuple[ServiceConfig, str]] = {}
    named: dict[str, tuple[ServiceConfig, str]] = {}
    for service in services:
        for key, text in _listeners(service):
            address = listener_address(key, text)
            if address is not None and address[1]:
                owner, taken = owners.setdefault(address, (service, key))
            elif _WITH_ONE_SOCKET.match(text):
                owner, taken = named.setdefault(text, (service, key))
            else:
                continue
            if owner is not service:
                yield ConfigError(f"{taken} accepts these clients", key, text)
    for (host, port), (service, key) in owners.items():
        for wider in wider_hosts(host):
            owner, taken = owners.get((wider, port), (service, ""))
            if owner is not service:
                yield ConfigError(f"{taken} accepts these clients", key, f"port {port}")
                break
