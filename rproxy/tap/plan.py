"""What a proxy with a configuration does, in lines for its operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rproxy.config.endpoints import listener_address
from rproxy.config.kinds import listed
from rproxy.config.model import (
    ACCESS_JOURNAL,
    ACCESS_STDOUT,
    BackendConfig,
    ProxyConfig,
    SendTlsConfig,
    ServiceConfig,
    TlsConfig,
)
from rproxy.net.addresses import Address, Network, written

Addresses = Mapping[str, Sequence[str]]
"""IP addresses by host."""


def described(config: ProxyConfig, addresses: Addresses) -> Iterator[str]:
    """Lines about the process, and about each service. `addresses` are those of the static back-ends' hosts."""
    yield "process"
    yield from (f"  {line}" for line in _process(config))
    first = next((service for service in config.services if service.takes_agents), None)
    for service in config.services:
        yield f"service {service.name}"
        yield from (f"  {line}" for line in _service(service, addresses, takes_none=service is first))


def _process(config: ProxyConfig) -> Iterator[str]:
    if config.takes_agents:
        places = listed([_place(address) for address in config.monitors], "and")
        yield f"agents register at UDP {places}, {_who(config)}"
    else:
        yield "agents: none, and no UDP port"
    if config.demo:
        yield f"{config.demo} embedded back-ends"
    if config.admin is not None:
        yield f"status at http://{written(config.admin)}/"
    if config.admin_path is not None:
        yield f"status at unix:{config.admin_path}"
    if config.has_operators:
        yield _who_may_change(config)
    if config.state_file is not None:
        yield f"back-ends are kept in {config.state_file}"
    if config.access_log is not None:
        place = {ACCESS_STDOUT: "standard output", ACCESS_JOURNAL: "the journal"}.get(config.access_log)
        yield f"a line for each session ({config.access_log_format}) in {place or config.access_log}"
    most = "as many as open files allow" if config.max_connections is None else f"at most {config.max_connections}"
    yield f"sessions: {most}, carried by {config.carrier}"
    yield f"a stop waits up to {config.drain_timeout_s:g} s for sessions to end"


def _who_may_change(config: ProxyConfig) -> str:
    ways = ["its user and root"] if config.admin_path is not None else []
    if config.admin_token_file is not None:
        ways.append(f"who has a token of {config.admin_token_file.path}")
    return f"operators who may change something: {listed(ways, 'and') if ways else 'none without admin-token-file'}"


def _who(config: ProxyConfig) -> str:
    """Who may register for any service."""
    keys = "without keys"
    if config.keyring is not None:
        keys = f"with keys of {config.keyring.path} ({_many(len(config.keyring.keys), 'key')})"
    return keys + (f", from {_networks(config.allow)}" if config.allow else "")


def _place(address: Address) -> str:
    host, port = address
    return written(address) if host else f"{port} of every address"


def _networks(networks: Sequence[Network]) -> str:
    single = (network.prefixlen == network.max_prefixlen for network in networks)
    return listed(
        [str(each.network_address if alone else each) for each, alone in zip(networks, single, strict=True)], "and"
    )


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _service(service: ServiceConfig, addresses: Addresses, *, takes_none: bool) -> Iterator[str]:
    """`takes_none`: whether agents that register no port are its own."""
    for text in service.listen:
        yield f"clients at {_listener(service, text)}"
    yield from _clients(service)
    yield f"agents: {_agents(service, takes_none=takes_none)}"
    for backend in service.backends:
        yield f"back-end {_backend(backend, addresses)}"
    affinity = f", affinity {service.affinity}" if service.affinity else ""
    yield f"policy {_policy(service.policy, service.policy_options)}{affinity}"
    if service.shadow is not None:
        yield f"compared with policy {_policy(service.shadow, service.shadow_options)}"
    yield from _to_backends(service)
    yield from _limits(service)


def _policy(name: str, options: Mapping[str, Any]) -> str:
    given = ", ".join(f"{option}={value}" for option, value in options.items())
    return f"{name} ({given})" if given else name


def _listener(service: ServiceConfig, text: str) -> str:
    address = listener_address(service.key("listen"), text)
    tls = service.listen_tls.get(text, service.tls)
    return (text if address is None else _place(address)) + (f", {_tls(tls)}" if tls is not None else "")


def _tls(tls: TlsConfig) -> str:
    certificates = listed([certificate for certificate, _ in tls.certificates], "and")
    asked = f", clients' certificates of {tls.client_ca}" if tls.client_ca is not None else ""
    return f"TLS {tls.min_version} or higher with {certificates}{asked}"


def _clients(service: ServiceConfig) -> Iterator[str]:
    if service.clients:
        yield f"clients from {_networks(service.clients)} only"
    if service.deny:
        yield f"no clients from {_networks(service.deny)}"
    if service.proxy_protocol_from:
        yield f"PROXY headers from {_networks(service.proxy_protocol_from)}, and no connections without"


def _agents(service: ServiceConfig, *, takes_none: bool) -> str:
    if not service.takes_agents:
        return "none"
    ports = "any port" if service.service_port is None else f"port {service.service_port}"
    if takes_none:
        ports += " or none" + (f", which means {service.backend_port}" if service.service_port is None else "")
    return f"those that register {ports}" + (f", from {_networks(service.allow)}" if service.allow else "")


def _backend(backend: BackendConfig, addresses: Addresses) -> str:
    host, _ = backend.address
    found = [address for address in addresses.get(host, ()) if address != host]
    parts = [
        written(backend.address) + (f" ({', '.join(found)})" if found else ""),
        f"weight {backend.weight}",
        f"check {backend.check}",
    ]
    if backend.max_connections is not None:
        parts.append(f"at most {_many(backend.max_connections, 'session')}")
    if backend.send_proxy is not None:
        parts.append(f"PROXY headers of version {backend.send_proxy}" if backend.send_proxy else "no PROXY headers")
    return ", ".join(parts)


def _to_backends(service: ServiceConfig) -> Iterator[str]:
    if service.send_proxy:
        yield f"back-ends get PROXY headers of version {service.send_proxy}"
    if service.source:
        yield f"connects to back-ends from {listed(service.source, 'and')}"
    if service.send_tls is not None:
        yield f"TLS to back-ends, {_trust(service.send_tls)}"


def _trust(tls: SendTlsConfig) -> str:
    if not tls.verify:
        return "not verified"
    return f"verified by {'the authorities of the system' if tls.ca is None else tls.ca}"


def _limits(service: ServiceConfig) -> Iterator[str]:
    each = service.each
    if service.max_connections is not None:
        yield f"at most {_many(service.max_connections, 'session')}"
    if service.max_connections_per_client is not None:
        yield f"at most {_many(service.max_connections_per_client, 'session')} of a client"
    if service.connections_per_second_per_client is not None:
        yield f"at most {service.connections_per_second_per_client:g} new connections a second of a client"
    if each.max_connections is not None:
        yield f"at most {_many(each.max_connections, 'session')} on a back-end"
    if each.max_connections is not None or any(backend.max_connections is not None for backend in service.backends):
        yield f"up to {each.queue} clients for each full back-end wait up to {each.queue_timeout_s:g} s"
    idle, half = (_seconds(value) for value in (service.idle_timeout_s, service.half_close_timeout_s))
    yield f"idle timeout {idle}, half-close timeout {half}"


def _seconds(value: float) -> str:
    return f"{value:g} s" if value else "none"
