"""Checks of single values. Each takes the key as the user wrote it, to name it in errors.

A key is ``--probe-interval`` or ``service[1].probe-interval``; a value is a text or a number. All raise `ConfigError`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final

import attrs

from rproxy.config.keyfile import Keyring
from rproxy.config.secret_file import SecretFileError
from rproxy.config.token_file import TokenFile
from rproxy.net.addresses import Address, Network, canonical_network
from rproxy.net.files import open_regular
from rproxy.net.unix_listener import PATH_MAX as SOCKET_PATH_MAX
from rproxy.wire.keyfile import KeyringError

Value = str | float
"""As text, or as a number."""

PORT_MAX: Final = 65535
_HOST: Final = r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]\s]+))"
_NUMBERS: Final = r"[0-9][0-9.]*|0x[0-9a-fx.]*"
"""Hosts that are addresses, or no names in any case."""
_NAME: Final = r"[\w.-]+|\*"
"""Characters of a host's name, before IDNA; alone, * is every address of this host."""
_DIGITS_MAX: Final = 20
"""Longer texts are out of every range, and Python refuses to convert very long ones."""


@attrs.define
class ConfigError(Exception):
    """A value that cannot be used. `str()` is one line: ``KEY VALUE: REASON``."""

    reason: str
    key: str | None = None
    """As the user wrote it; None where the fault is of no single key."""
    value: Value | None = None
    """As the user wrote it; None where it does not matter."""

    def __str__(self) -> str:
        where = " ".join(str(part) for part in (self.key, self.value) if part is not None)
        return f"{where}: {self.reason}" if where else self.reason


def number(key: str, value: Value, low: float, high: float, *, zero: bool = False) -> float:
    """A finite number with low <= number <= high, or 0 if `zero` allows it."""
    text = str(value)
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text, re.ASCII | re.IGNORECASE):
        raise ConfigError("not a number", key, value)
    read = float(text)
    if not low <= read <= high and not (zero and read == 0):
        raise ConfigError(f"must be {'0, or ' if zero else ''}from {low:.10g} to {high:.10g}", key, value)
    return read


def whole(key: str, value: Value, low: int, high: int) -> int:
    """An integer with low <= integer <= high."""
    text = str(value)
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ConfigError("not a whole number", key, value)
    read = int(text[:_DIGITS_MAX])
    if len(text) > _DIGITS_MAX or not low <= read <= high:
        raise ConfigError(f"must be from {low} to {high}", key, value)
    return read


def choice(key: str, value: Value, choices: Sequence[str]) -> str:
    """One of `choices`."""
    for each in choices:
        if value == each:
            return each
    raise ConfigError(f"must be {', '.join(choices[:-1])} or {choices[-1]}", key, value)


def path(key: str, value: str) -> str:
    """A file's absolute path. The empty text, which a shell makes of an unset variable, is none."""
    if not value:
        raise ConfigError("no file is named", key)
    return os.path.abspath(value)


def existing_file(key: str, value: str) -> str:
    """As `path`, of a regular file that this process can read."""
    found = path(key, value)
    try:
        with open_regular(found):
            return found
    except OSError as error:
        raise ConfigError(error.strerror or str(error), key, value) from None


def socket_path(key: str, value: str) -> str:
    """The absolute path of a Unix socket that may not be there yet."""
    found = path(key, value)
    if "\0" in found or len(os.fsencode(found)) > SOCKET_PATH_MAX:
        raise ConfigError(f"the path of a socket has at most {SOCKET_PATH_MAX} bytes, and none of them is 0", key)
    return found


def token_file(key: str, value: str, owner: int | None = None) -> TokenFile:
    """The file of tokens at that path, read. `owner` is as for `read_secrets`."""
    path(key, value)
    try:
        return TokenFile.read(value, owner)
    except SecretFileError as error:
        raise ConfigError(str(error), key, value) from None


def keyring(key: str, value: str, *, derived: bool, owner: int | None = None) -> Keyring:
    """The key file at that path, read. `derived` and `owner` are as for `read_keys`."""
    path(key, value)
    try:
        return Keyring.read(value, derived=derived, owner=owner)
    except KeyringError as error:
        raise ConfigError(str(error), key, value) from None


def ip(key: str, value: str, part: str | None = None) -> str:
    """The value, or a part of it, as an IP address in its canonical form."""
    try:
        return str(ip_address(value if part is None else part))
    except ValueError:
        of = "" if part is None else f"{part} is "
        raise ConfigError(f"{of}not an IP address", key, value) from None


def network(key: str, value: str) -> Network:
    """A network in CIDR notation, or one address. One of IPv4-mapped IPv6 addresses is returned as IPv4."""
    try:
        return canonical_network(value)
    except ValueError as error:
        raise ConfigError(str(error), key, value) from None


def host_and_port(key: str, value: Value, *, host: str | None = None, port: int | None = None) -> Address:
    """HOST:PORT, with an IPv6 host in brackets. Either part may be left out if its default is given."""
    text = str(value)
    bare = re.fullmatch(_HOST, text)
    if host is not None and text.isascii() and text.isdigit():
        return host, _port(key, text, text)
    if port is not None and bare is not None and not text.isdigit():
        return _host(key, text, bare["six"], bare["host"]), port
    match = re.fullmatch(_HOST + r":(?P<port>[0-9]+)", text)
    if match is None:
        raise ConfigError(f"not of the form {_form(host, port)}", key, text)
    return _host(key, text, match["six"], match["host"]), _port(key, text, match["port"])


def _port(key: str, text: str, digits: str) -> int:
    if len(digits) > _DIGITS_MAX or int(digits) > PORT_MAX:
        which = "the port" if len(digits) > _DIGITS_MAX else f"port {digits}"
        raise ConfigError(f"{which} is above {PORT_MAX}", key, text)
    return int(digits)


def _form(host: str | None, port: int | None) -> str:
    return ("[HOST:]PORT" if host is not None else "HOST[:PORT]" if port is not None else "HOST:PORT") + (
        " (an IPv6 address in brackets)"
    )


def _host(key: str, text: str, six: str | None, host: str | None) -> str:
    """The host in canonical form: `six` is what stood in brackets, otherwise `host` is given."""
    if six is not None:
        try:
            address = IPv6Address(six)
        except ValueError:
            raise ConfigError(f"[{six}] is not an IPv6 address", key, text) from None
        return str(address.ipv4_mapped or address)
    assert host is not None
    if re.fullmatch(_NUMBERS, host, re.IGNORECASE):
        return ip(key, text, host)  # getaddrinfo would read 1.2.3 as 1.2.0.3
    try:
        encoded = host.encode("idna").decode()
    except UnicodeError as error:
        raise ConfigError(f"{host} is not a host name ({_idna_reason(error)})", key, text) from None
    if not re.fullmatch(_NAME, host) or (encoded != host and re.fullmatch(_NUMBERS, encoded, re.IGNORECASE)):
        raise ConfigError("its host is not a host name", key, text)
    return host


def host_name(key: str, value: str) -> str:
    """A host's name or IP address, the latter in its canonical form, without a port."""
    if ":" in value:
        return ip(key, value)
    bare = re.fullmatch(_HOST, value)
    if bare is None or bare["host"] is None:
        raise ConfigError("not a host name", key, value)
    return _host(key, value, None, bare["host"])


def _idna_reason(error: UnicodeError) -> str:
    """Without the codec's name."""
    return getattr(error, "reason", None) or str(error.__cause__ or error)


def local_address(key: str, host: str) -> str:
    """A host of this machine as an IP address; a name is looked up now, once. "" and "*" are "": every address."""
    if host in ("", "*"):
        return ""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise ConfigError(str(error.strerror), key, host) from None
    except ValueError:  # the resolver rejects the name
        raise ConfigError("not a host name", key, host) from None
