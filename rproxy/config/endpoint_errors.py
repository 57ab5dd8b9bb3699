"""Errors in endpoint strings, in terms of the string: Twisted's messages name the Python functions that parse it."""

from __future__ import annotations

import os
import re
from collections.abc import Set
from typing import Final

from rproxy.config.validators import ConfigError

_WORDS: Final = frozenset({"fd", "http", "https", "le", "onion", "quic", "sctp", "tls", "txsni", "udp", "ws", "wss"})
"""Taken for types of endpoints, not for hosts: other versions of Twisted, or plugins, have them."""
_CALL_ERRORS: Final = (
    (r"unexpected keyword argument '(.+)'", "{0}: takes no {1}="),
    (r"missing .* argument: '(.+)'", "{0}: lacks its {1}"),
    (r"multiple values for argument '(.+)'", "{0}: has two of {1}"),
    (r"takes .* positional arguments? but", "{0}: has too many parts between colons"),
    (r"invalid literal for int\(\) with base \d+: '(.*)'", "{1!r} is not a number"),
)
"""Python's messages about a call of the parser's function, and what they mean for the string."""
_FILES: Final = "ssl:443:privateKey=FILE:certKey=FILE"


def explained(prefix: str, error: Exception) -> str:
    """The message for what the parser of strings with this `prefix` raised, without the names of its functions."""
    if isinstance(error, IndexError):
        return "so many sockets were not inherited (LISTEN_FDS)"
    if isinstance(error, KeyError):
        return f"no inherited socket is called {error} (LISTEN_FDNAMES)"
    if error.args and isinstance(error.args[0], list):  # OpenSSL's
        return "there is no usable certificate or key in its files; they are of the PEM format, without a passphrase"
    if isinstance(error, OSError):
        return f"{error.filename or 'cannot be used'}: {error.strerror}"
    for pattern, message in _CALL_ERRORS:
        if found := re.search(pattern, str(error)):
            return message.format(prefix, *found.groups())
    return str(error) or error.__class__.__name__


def check_no_type(key: str, text: str, prefix: str, types: Set[str]) -> None:
    """Raises `ConfigError` if `prefix`, which would be a host, is probably meant as an unknown type of endpoint."""
    if prefix.lower() in types | _WORDS:
        raise ConfigError(
            f"{prefix} is taken for a type of endpoint, and these there are: {', '.join(sorted(types))}; TLS is "
            f"{_FILES}, and a host of that name is given by its address",
            key,
            text,
        )


def check_folder(text: str) -> None:
    """Raises `ValueError` if a tls: endpoint's folder is missing. Twisted looks for it only when a client connects."""
    prefix, folder, *_ = [*text.split(":"), ""]
    if prefix == "tls" and "=" not in folder and not os.path.isdir(folder):
        raise ValueError(
            f"{folder or 'nothing'} is taken for a folder of certificates and keys (tls:FOLDER:PORT), and is none; "
            f"TLS with files is {_FILES}"
        )
