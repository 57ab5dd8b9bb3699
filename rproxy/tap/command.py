"""The command `rproxy`, also `python -m rproxy`: makes keys."""

from __future__ import annotations

import argparse
import errno
import os
import secrets
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final, NoReturn

from rproxy.tap.keys import read_keys
from rproxy.tap.options import version
from rproxy.wire.seal import KEY_BYTES_MIN, KEY_ID_MAX, Key, KeyringError

DESCRIPTION: Final = "Makes keys for a proxy and its agents. The proxy and the agents themselves are twistd commands."
KEYGEN: Final = """\
Prints a line for a key file: a new master key, or with --agent the key of one agent, derived from the first key of
the proxy's file or from the one that --id names. With --out it makes a new file, which nobody but its owner can read at
any time; one that it is redirected to is made so only when the shell has opened it for all to read."""
_OWNERS: Final = stat.S_IRUSR | stat.S_IWUSR


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(f"{message}; the proxy itself is 'twistd rproxy', its agent 'twistd rproxy-agent'")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 when the key cannot be written, or 2 when the arguments are wrong."""
    parser = _Parser("rproxy", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser)
    keygen = commands.add_parser("keygen", help="make a key", description=KEYGEN)
    keygen.add_argument("--agent", metavar="IP", type=_ip, help="the agent's address, as the proxy sees it")
    keygen.add_argument("--keyring", metavar="FILE", help="the proxy's key file; a new key gets an id that it lacks")
    keygen.add_argument("--id", metavar="N", type=int, help="with --agent: the id of the key to derive from")
    keygen.add_argument("--out", metavar="FILE", help="make this file, with mode 600, instead of printing")
    options = parser.parse_args(arguments)
    if options.agent and options.keyring is None:
        keygen.error("--agent needs --keyring FILE, the proxy's key file")
    if options.id is not None and not options.agent:
        keygen.error("--id is of use only with --agent")
    try:
        known = read_keys(options.keyring, derived=False) if options.keyring is not None else ()
        line = _agents_line(_chosen(known, options.id), options.agent) if options.agent else new_key(known).written()
    except KeyringError as error:
        keygen.error(f"--keyring {options.keyring}: {error}")
    try:
        _write(f"{line}\n".encode(), options.out)
    except OSError as error:
        print(f"rproxy keygen: error: {options.out or 'standard output'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address") from None


def _chosen(known: Sequence[Key], number: int | None) -> Key:
    """The first key, or the one with that id. Raises `KeyringError` if there is none."""
    if number is None:
        return known[0]
    for key in known:
        if key.id == number:
            return key
    raise KeyringError(f"there is no key with the id {number} in it")


def _agents_line(key: Key, agent: str) -> str:
    return f"# for the agent at {agent}\n{Key(key.id, key.derive(agent), is_derived=True).written()}"


def new_key(known: Sequence[Key]) -> Key:
    """A master key with the lowest id above 0 that `known` lacks. Raises `KeyringError` if there is none."""
    taken = {key.id for key in known}
    free = next((number for number in range(1, KEY_ID_MAX + 1) if number not in taken), None)
    if free is None:
        raise KeyringError("there is no key id left")
    return Key(free, secrets.token_bytes(KEY_BYTES_MIN))


def _write(data: bytes, path: str | None) -> None:
    """Into a new file, or else to standard output. Raises `OSError`; no part of a file is left then."""
    if path is None:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        descriptor = sys.stdout.fileno()
        _protect(descriptor)
        _write_all(descriptor, data)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNERS)
    try:
        os.fchmod(descriptor, _OWNERS)  # whatever the umask
        _write_all(descriptor, data)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _protect(descriptor: int) -> None:
    with suppress(OSError):  # somebody else's file: whoever starts with it is told
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, _OWNERS)
