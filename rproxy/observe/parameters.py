"""Parsing and checking of the parameters of the operators' API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from rproxy.net.addresses import Network, canonical_ip, canonical_network, written

Parameters = Mapping[str, str]
"""By name; those that are not given are missing."""
_DIGITS_MAX: Final = 18
_PORT_MAX: Final = 65535
_NAMED: Final = 10
"""Most services that an error names."""


class BadParameter(Exception):
    """A value that cannot be used. The text is one line for the operator."""


class Missing(BadParameter):
    """The parameter names a service or back-end that does not exist."""


def service(parameters: Parameters, names: Sequence[str]) -> str | None:
    """The parameter `service`, which must be one of `names`; None if it is not given. Raises `Missing`."""
    wanted = parameters.get("service")
    if wanted is None or wanted in names:
        return wanted
    listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    raise Missing(
        f"no service has that name; there {'are' if len(names) > 1 else 'is'} {listed}"
        if names
        else "there is no service"
    )


def whole(parameters: Parameters, name: str, default: int, low: int, high: int) -> int:
    """The integer `name`, low <= integer <= high. Raises `BadParameter`."""
    text = parameters.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > _DIGITS_MAX or not low <= int(text) <= high:
        raise BadParameter(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def number(parameters: Parameters, name: str, low: float, high: float) -> float:
    """The number `name`, low <= number <= high, which must be given. Raises `BadParameter`."""
    text = parameters.get(name, "")
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{0,15})?", text, re.ASCII) or not low <= float(text) <= high:
        raise BadParameter(f"{name} must be a number from {low:g} to {high:g}")
    return float(text)


def network(parameters: Parameters, name: str) -> Network | None:
    """The network in CIDR notation, or one address; None if it is not given. Raises `BadParameter`."""
    text = parameters.get(name)
    if text is None:
        return None
    try:
        return canonical_network(text, strict=False)
    except ValueError:
        raise BadParameter(f"{name} must be an IP address or a network, such as 10.1.2.0/24") from None


def backend(parameters: Parameters, name: str = "backend") -> str | None:
    """As `canonical`; None if it is not given."""
    text = parameters.get(name)
    return None if text is None else canonical(text)


def canonical(text: str) -> str:
    """The name of a back-end as `Backend.name` has it: address:port, an IPv6 address short and in brackets.

    Raises `BadParameter`.
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = canonical_ip(bare)
    except ValueError:
        address = ""
    if not (
        address and colon and port.isascii() and port.isdigit() and len(port) <= _DIGITS_MAX and int(port) <= _PORT_MAX
    ):
        raise BadParameter("a back-end must be ADDRESS:PORT, an IPv6 address in brackets")
    return written((address, int(port)))
