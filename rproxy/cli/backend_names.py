"""Which back-end an operator means by ``10.1.1.2:80``, ``web/10.1.1.2:80``, or by a host alone where that is one."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import attrs

from rproxy.cli.client import Client, Failure
from rproxy.cli.figures import backend_name, printable
from rproxy.cli.grid import Row
from rproxy.net.addresses import canonical_ip, plain, written

PATH: Final = "/api/backends"
NAMED: Final = 6
"""Most back-ends that a message names."""

_ADDRESS: Final = re.compile(
    r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<host>[^:\[][^:]*))(?::(?P<port>[0-9]{1,5}))?|(?P<six>[^:\[\]]*:[^\[\]]*:[^\[\]]*)"
)
"""HOST, HOST:PORT, an IPv6 address in brackets and a port, or an IPv6 address alone."""


@attrs.frozen
class Target:
    """One back-end of one service."""

    service: str
    backend: str
    """address:port."""

    def __str__(self) -> str:
        return f"{self.service}/{self.backend}"


@attrs.frozen
class _Asked:
    """What an operator wrote."""

    text: str
    service: str | None
    host: str
    port: int | None
    """None for any."""

    @property
    def ip(self) -> str:
        """Its host as an IP address in its usual form; empty if it is a name."""
        return _ip(self.host)

    @property
    def name(self) -> str:
        """As a back-end's row has it; empty if it is not whole."""
        return written((self.ip, self.port)) if self.ip and self.port is not None else ""


def find(client: Client, text: str, service: str | None) -> Target:
    """The one back-end that `text` names, of a `service` if that is given. Raises `Failure` if none is, or several are.

    An address with a port may be that of a back-end that is gone: an operator may have drained it before.
    """
    asked = _parse(text, service)
    if asked.name and asked.service is not None:
        return Target(asked.service, asked.name)
    rows = client.rows(PATH, "backends", {"service": asked.service})
    found = matching(asked, rows)
    if len(found) > 1:
        raise Failure(f"{text!r} may be {_listed(list(map(str, found)), 'or')}: name one of them")
    if found:
        return found[0]
    services = {str(row.get("service")) for row in rows}
    if asked.name and len(services) == 1:
        return Target(services.pop(), asked.name)
    raise Failure(unknown(asked, rows))


def find_all(client: Client, text: str, service: str | None) -> list[Target]:
    """All back-ends that `text` names. Raises `Failure` if there are none.

    An address with a port is not looked up; its service is empty if none is named.
    """
    asked = _parse(text, service)
    if asked.name:
        return [Target(asked.service or "", asked.name)]
    rows = client.rows(PATH, "backends", {"service": asked.service})
    found = matching(asked, rows)
    if not found:
        raise Failure(unknown(asked, rows))
    return found


def address_of(client: Client, text: str, service: str | None) -> str:
    """address:port of the back-end that `text` names, whatever services have it. Raises `Failure` if it is not one."""
    targets = find_all(client, text, service)
    names = list(dict.fromkeys(target.backend for target in targets))
    if len(names) > 1:
        raise Failure(f"{text!r} may be {_listed(names, 'or')}: name one of them")
    return names[0]


def matching(asked: _Asked, rows: Sequence[Row]) -> list[Target]:
    """The back-ends that are meant; a name that is no address is looked up."""
    hosts = {asked.ip} if asked.ip else {asked.host}
    found = _of_hosts(hosts, asked.port, rows)
    return found if found or asked.ip else _of_hosts(_looked_up(asked.host), asked.port, rows)


def _of_hosts(hosts: set[str], port: int | None, rows: Sequence[Row]) -> list[Target]:
    return [
        Target(str(row.get("service")), backend_name(row))
        for row in rows
        if (_ip(str(row.get("address"))) or row.get("address")) in hosts and port in (None, row.get("port"))
    ]


def unknown(asked: _Asked, rows: Sequence[Row]) -> str:
    """The message about a back-end that is not there, with those that it may have been meant for."""
    where = "there is no" if asked.service is None else f"service {printable(asked.service)} has no"
    wanted = asked.text.rpartition("/")[2]
    names = list(dict.fromkeys(backend_name(row) for row in rows))
    if near := get_close_matches(wanted, names, 3, 0.7):
        return f"{where} back-end {wanted!r}; do you mean {_listed(near, 'or')}?"
    return f"{where} back-end {wanted!r}" + (f", but {_listed(names)}" if names else "")


def _listed(names: Sequence[str], last: str = "and") -> str:
    shown = [*names[:NAMED], f"{len(names) - NAMED} more"] if len(names) > NAMED else list(names)
    return f" {last} ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _parse(text: str, service: str | None) -> _Asked:
    """Raises `Failure`."""
    named, slash, address = text.rpartition("/")
    if slash and service not in (None, named):
        raise Failure(f"{text!r} is of service {named!r}, but --service is {service!r}")
    match = _ADDRESS.fullmatch(address)
    port = match["port"] if match is not None else None
    if match is None or (slash and not named) or (port is not None and int(port) >= 1 << 16):
        raise Failure(f"{text!r} names no back-end: give ADDRESS:PORT, ADDRESS or SERVICE/ADDRESS:PORT")
    host = match["bracketed"] or match["six"] or match["host"]
    return _Asked(text, named if slash else service, host, None if port is None else int(port))


def _ip(host: str) -> str:
    """Its usual form; empty for what is no IP address."""
    try:
        return canonical_ip(host)
    except ValueError:
        return ""


def _looked_up(name: str) -> set[str]:
    """The addresses of a host; none if it is unknown here."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {plain(address)[0] for *_, address in found}
