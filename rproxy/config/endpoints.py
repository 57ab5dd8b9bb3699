"""Endpoints that accept clients: this program's TCP ports, and those that Twisted's endpoint strings describe."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Final

from twisted.internet.endpoints import AdoptedStreamServerEndpoint, UNIXServerEndpoint, serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from rproxy.config.endpoint_errors import check_folder, check_no_type, explained
from rproxy.config.validators import PORT_MAX, ConfigError, host_and_port, local_address
from rproxy.net.addresses import Address
from rproxy.net.binding import ANY_IPV4, ANY_IPV6, Binding, bindings, wider_hosts
from rproxy.net.endpoints import ignore_offered_protocols, innermost
from rproxy.net.tcp_port import BACKLOG, BindingReactor, TcpEndpoint

_FAMILIES: Final = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
"""The families of sockets that Twisted can accept from."""
_BUILT_IN: Final = frozenset({"tcp", "tcp4", "tcp6", "ssl", "unix"})
_WITH_BACKLOG: Final = re.compile(r"(haproxy:)*(tcp|tcp4|tcp6|ssl|tls|unix):")
_BACKLOG: Final = re.compile(r"(?<!\\):backlog=")
NONE_INHERITED: Final[Mapping[str, int]] = {}


def listen_endpoints(
    reactor: Any,
    texts: Sequence[str],
    *,
    key: str = "--listen",
    freebind: bool = False,
    reuse_port: bool = False,
    inherited: Mapping[str, int] = NONE_INHERITED,
) -> list[tuple[str, IStreamServerEndpoint]]:
    """The endpoints that `texts` name, each with its text: PORT, HOST:PORT, or a Twisted server endpoint string.

    Of several that would accept the same clients, only the widest is returned; one text may stand for two sockets.
    `inherited` has the descriptors of those that are listened on already, by text. Raises `ConfigError` for a text of
    `key`.
    """
    own = {text: _address(key, text) for text in texts if text not in inherited and not _is_string(key, text)}
    named = Counter(own[text] for text in texts if text in own)
    endpoints: list[tuple[str, IStreamServerEndpoint]] = []
    twisteds = BindingReactor(reactor, freebind=freebind, reuse_port=reuse_port) if freebind or reuse_port else reactor
    for text in texts:
        if text in inherited:
            endpoints.append((text, adopted(reactor, inherited[text])))
            continue
        if text not in own:
            endpoints.append((text, _from_string(twisteds, key, text)))
            continue
        address = own[text]
        if named[address] > 1 and address[1]:
            raise ConfigError("this port is given twice", key, text)
        endpoints += [
            (text, TcpEndpoint(reactor, address[1], binding))
            for binding in _bindings(address, named, freebind=freebind, reuse_port=reuse_port)
        ]
    return endpoints


def listener_address(key: str, text: str) -> Address | None:
    """The host, empty for every address, and port of a listener; None for one of Twisted's endpoint strings.

    Raises `ConfigError` for what `listen_endpoints` would, as far as that is known without a reactor.
    """
    if not _is_string(key, text):
        return _address(key, text)
    if _prefix(text) in _BUILT_IN:
        _from_string(None, key, text)
    return None


def adopted(reactor: Any, descriptor: int) -> IStreamServerEndpoint:
    """The endpoint of an inherited socket. Raises `ValueError` or `OSError` if it is none that clients connect to."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        endpoint: IStreamServerEndpoint = AdoptedStreamServerEndpoint(reactor, descriptor, sock.family)
    _check_listening(endpoint)
    return endpoint


def _bindings(address: Address, named: Counter[Address], *, freebind: bool, reuse_port: bool) -> Iterator[Binding]:
    """The sockets of one port, without those whose clients another of the `named` addresses accepts."""
    host, port = address
    if port and any((wider, port) in named for wider in wider_hosts(host)):
        return
    if host == ANY_IPV6 and port and (ANY_IPV4, port) in named:
        yield Binding(host, ipv6_only=True, reuse_port=reuse_port)
        return
    yield from bindings(host, freebind=freebind, reuse_port=reuse_port)


def endpoint_type(key: str, text: str) -> str:
    """The type with which an endpoint string begins; empty for PORT and HOST:PORT. Raises `ConfigError`."""
    return _prefix(text) if _is_string(key, text) else ""


def _is_string(key: str, text: str) -> bool:
    """Whether `text` begins with a type of Twisted's endpoint strings, plugins' included.

    Raises `ConfigError` if it begins with an unknown type.
    """
    prefix = _prefix(text)
    if prefix == text:
        return False
    types = _types()
    if prefix not in types:
        check_no_type(key, text, prefix, types)
    return prefix in types


@cache
def _types() -> frozenset[str]:
    """The types of endpoint strings. Twisted looks through the folders of its plugins for them."""
    return _BUILT_IN | {parser.prefix for parser in getPlugins(IStreamServerEndpointStringParser)}


def _prefix(text: str) -> str:
    return text.partition(":")[0]


def _from_string(reactor: Any, key: str, text: str) -> IStreamServerEndpoint:
    ignore_offered_protocols()
    try:
        check_folder(text)
        endpoint = _parsed(reactor, text)
        _check_place(endpoint)
        _check_listening(endpoint)
        return endpoint
    except Exception as error:
        raise ConfigError(explained(_prefix(text), error), key, text) from None


def _parsed(reactor: Any, text: str) -> IStreamServerEndpoint:
    """The endpoint, with a backlog of `BACKLOG` unless `text` has one. Raises what Twisted's parser raises."""
    if _WITH_BACKLOG.match(text) and not _BACKLOG.search(text):
        with suppress(TypeError):  # the backlog is given by position, or the text is wrong
            long: IStreamServerEndpoint = serverFromString(reactor, f"{text}:backlog={BACKLOG}")
            return long
    as_is: IStreamServerEndpoint = serverFromString(reactor, text)
    return as_is


def _check_place(endpoint: Any) -> None:
    """Check what Twisted's parser does not, and the kernel would reject. Raises `ValueError`."""
    endpoint = innermost(endpoint)
    port, path = getattr(endpoint, "_port", 0), getattr(endpoint, "_address", "")
    if isinstance(port, int) and not 0 <= port <= PORT_MAX:
        raise ValueError(f"port {port} is {'below 0' if port < 0 else f'above {PORT_MAX}'}")
    if isinstance(endpoint, UNIXServerEndpoint) and not path:
        raise ValueError("unix: lacks its path")


def _check_listening(endpoint: Any) -> None:
    """Check an inherited socket's kind and state, which Twisted does not. Raises `ValueError`, `OSError`."""
    endpoint = innermost(endpoint)
    if not isinstance(endpoint, AdoptedStreamServerEndpoint):
        return
    with socket.socket(fileno=os.dup(endpoint.fileno)) as sock:
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"the inherited socket is of the kind {_name(sock.type)}, and SOCK_STREAM is needed")
        if sock.family != endpoint.addressFamily:
            raise ValueError(f"the inherited socket is {_name(sock.family)}, not {_name(endpoint.addressFamily)}")
        if sock.family not in _FAMILIES:
            raise ValueError(f"sockets of {_name(sock.family)} cannot be listened on")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("the inherited socket does not listen")


def _name(constant: object) -> str:
    return str(getattr(constant, "name", constant))


def _address(key: str, text: str) -> Address:
    host, port = host_and_port(key, text, host="")
    return local_address(key, host), port
