"""`rproxy keygen`: a new master key, or an agent's, which is derived from it."""

from __future__ import annotations

import argparse
import os
import secrets
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, NoReturn

from rproxy.config.keyfile import read_keys
from rproxy.tap.printing import demand_output, failed, write_all
from rproxy.wire.keyfile import KeyringError, format_key
from rproxy.wire.seal import KEY_BYTES_MIN, KEY_ID_MAX, Key

DESCRIPTION: Final = """\
Prints a line for a key file: a new master key, or with --agent the key of one agent, derived from the first key of
the proxy's file or from the one that --id names. With --out it makes a new file, which nobody but its owner can read at
any time; one that it is redirected to is made so only when the shell has opened it for all to read."""
_OWNERS: Final = stat.S_IRUSR | stat.S_IWUSR


def add_parser(commands: Any) -> None:
    """Add the subcommand to argparse's `commands`; `run` of the parsed options returns the exit status."""
    keygen = commands.add_parser("keygen", help="make a key", description=DESCRIPTION)
    keygen.add_argument("--agent", metavar="IP", type=_ip, help="the agent's address, as the proxy sees it")
    keygen.add_argument("--keyring", metavar="FILE", help="the proxy's key file; a new key gets an id that it lacks")
    keygen.add_argument("--id", metavar="N", type=int, help="with --agent: the id of the key to derive from")
    keygen.add_argument("--out", metavar="FILE", help="make this file, with mode 600, instead of printing")
    keygen.set_defaults(run=lambda options: _make_key(options, keygen.error))


def _make_key(options: argparse.Namespace, wrong: Callable[[str], NoReturn]) -> int:
    """Returns the exit status; `wrong` ends the process with a message about the arguments."""
    if options.agent and options.keyring is None:
        wrong("--agent needs --keyring FILE, the proxy's key file")
    if options.id is not None and not options.agent:
        wrong("--id is of use only with --agent")
    try:
        known = read_keys(options.keyring, derived=False) if options.keyring is not None else ()
        line = _agents_line(_chosen(known, options.id), options.agent) if options.agent else format_key(new_key(known))
    except KeyringError as error:
        wrong(f"--keyring {options.keyring}: {error}")
    try:
        _write(f"{line}\n".encode(), options.out)
    except OSError as error:
        return failed("keygen", f"{options.out or 'standard output'}: {error.strerror}", 1)
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
    return f"# for the agent at {agent}\n{format_key(Key(key.id, key.derive(agent), is_derived=True))}"


def new_key(known: Sequence[Key]) -> Key:
    """A master key with the lowest id above 0 that `known` lacks. Raises `KeyringError` if there is none."""
    taken = {key.id for key in known}
    free = next((number for number in range(1, KEY_ID_MAX + 1) if number not in taken), None)
    if free is None:
        raise KeyringError("there is no key id left")
    return Key(free, secrets.token_bytes(KEY_BYTES_MIN))


def _write(data: bytes, path: str | None) -> None:
    """Write to a new file, or to standard output. Raises `OSError`, and leaves no partial file then."""
    if path is None:
        demand_output()
        descriptor = sys.stdout.fileno()
        _protect(descriptor)
        write_all(descriptor, data)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNERS)
    try:
        os.fchmod(descriptor, _OWNERS)  # whatever the umask
        write_all(descriptor, data)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _protect(descriptor: int) -> None:
    with suppress(OSError):  # another user's file; the commands that read it will refuse it
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, _OWNERS)
