"""What is wrong with an endpoint that `--listen` names, in the words of who wrote it."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Set
from contextlib import suppress
from typing import Any, Final

from twisted.internet import endpoints
from twisted.python import usage

_WORDS: Final = frozenset({"fd", "http", "https", "le", "onion", "quic", "sctp", "tls", "txsni", "udp", "ws", "wss"})
"""What nobody means as a host: other versions of Twisted, or plugins, have a type of that name."""
_SAID_SO: Final = (
    (r"unexpected keyword argument '(.+)'", "{0}: takes no {1}="),
    (r"missing .* argument: '(.+)'", "{0}: lacks its {1}"),
    (r"multiple values for argument '(.+)'", "{0}: has two of {1}"),
    (r"takes .* positional arguments? but", "{0}: has too many parts between colons"),
    (r"invalid literal for int\(\) with base \d+: '(.*)'", "{1!r} is not a number"),
)
"""What Python says of the call of a parser, and what it means."""
_FILES: Final = "ssl:443:privateKey=FILE:certKey=FILE"


def explained(prefix: str, error: Exception) -> str:
    """What a parser of endpoints has raised, without the names of its functions."""
    if isinstance(error, IndexError):
        return "so many sockets were not inherited (LISTEN_FDS, and a name for each in LISTEN_FDNAMES)"
    if isinstance(error, KeyError):
        return f"no inherited socket is called {error} (LISTEN_FDNAMES)"
    if error.args and isinstance(error.args[0], list):  # OpenSSL's
        return "there is no usable certificate or key in its files; they are of the PEM format, without a passphrase"
    if isinstance(error, OSError):
        return f"{error.filename or 'cannot be used'}: {error.strerror}"
    for pattern, told in _SAID_SO:
        if found := re.search(pattern, str(error)):
            return told.format(prefix, *found.groups())
    return str(error) or error.__class__.__name__


def remove_abandoned(endpoint: Any) -> None:
    """Of a Unix socket at which nobody listens any more, what a killed process has left.

    Twisted believes the number in its lock file, which another process may have by now; in a container it is likely
    to be our own.
    """
    while hasattr(endpoint, "_wrappedEndpoint"):
        endpoint = endpoint._wrappedEndpoint
    if not isinstance(endpoint, endpoints.UNIXServerEndpoint):
        return
    path = endpoint._address
    with socket.socket(socket.AF_UNIX) as sock, suppress(OSError):
        sock.setblocking(False)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            os.unlink(f"{path}.lock")


def check_no_type(text: str, prefix: str, types: Set[str]) -> None:
    """Raises `UsageError` for what looks like a host, but is meant as a type of endpoint that there is not."""
    if prefix.lower() in types | _WORDS:
        raise usage.UsageError(
            f"--listen {text}: {prefix} is taken for a type of endpoint, and these there are: "
            f"{', '.join(sorted(types))}; TLS is {_FILES}, and a host of that name is given by its address"
        )


def check_folder(text: str) -> None:
    """Twisted's tls: looks for its folder only when a client comes. Raises `ValueError` where there is none."""
    prefix, folder, *_ = [*text.split(":"), ""]
    if prefix == "tls" and "=" not in folder and not os.path.isdir(folder):
        raise ValueError(
            f"{folder or 'nothing'} is taken for a folder of certificates and keys (tls:FOLDER:PORT), and is none; "
            f"TLS with files is {_FILES}"
        )
