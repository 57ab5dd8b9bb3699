"""The command `rproxy`, also `python -m rproxy`: keys, files, reload, manual, units, metrics, a study of policies."""

from __future__ import annotations

import argparse
import errno
import os
import pwd
import pydoc
import secrets
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final, NoReturn

from rproxy.config.command_options import version
from rproxy.config.file_errors import FileErrors
from rproxy.config.keyfile import read_keys
from rproxy.config.toml_file import starting_file
from rproxy.study import command as study
from rproxy.tap import docs, prometheus, systemd
from rproxy.tap.check import check
from rproxy.tap.reload_report import reload
from rproxy.wire.keyfile import KeyringError, format_key
from rproxy.wire.seal import KEY_BYTES_MIN, KEY_ID_MAX, Key

DESCRIPTION: Final = """\
Makes keys for a proxy and its agents, checks a proxy's configuration file, shows their manual and their systemd units,
and compares ways of choosing a back-end. The proxy and the agents themselves are twistd commands."""
KEYGEN: Final = """\
Prints a line for a key file: a new master key, or with --agent the key of one agent, derived from the first key of
the proxy's file or from the one that --id names. With --out it makes a new file, which nobody but its owner can read at
any time; one that it is redirected to is made so only when the shell has opened it for all to read."""
CHECK: Final = """\
Prints what 'twistd rproxy --config FILE' would do, or everything that is wrong with the file, with status 1. Keys and
certificates are read and names are looked up, but nothing is opened."""
CONFIG: Final = """\
Prints a configuration file to start with, which works as it is. 'rproxy docs configuration' lists all keys."""
DOCS: Final = "Shows a page of the manual, through a pager on a terminal. Without a topic it lists them."
SYSTEMD: Final = """\
Prints a systemd unit for this installation, which belongs into /etc/systemd/system. Without a name it prints all."""
PROMETHEUS: Final = """\
Prints a file for Prometheus, or for Grafana. Without a name it lists them; 'rproxy docs metrics' tells more."""
RELOAD: Final = """\
Has a running proxy read its --config file again, and its keys and certificates, as SIGHUP does; and says what became of
it. The exit status is 1 if the file was not used: then everything is as it was. It is 1, too, if certificates could not
be used: those before them stay in use."""
PIDFILE: Final = "rproxy.pid"
RELOAD_S: Final = 10.0
"""How long a proxy may take to answer."""
_OWNERS: Final = stat.S_IRUSR | stat.S_IWUSR


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(f"{message}; the proxy itself is 'twistd rproxy', its agent 'twistd rproxy-agent'")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 when the output cannot be written, or 2 when the arguments are wrong."""
    parser = _Parser("rproxy", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser)
    keygen = commands.add_parser("keygen", help="make a key", description=KEYGEN)
    keygen.add_argument("--agent", metavar="IP", type=_ip, help="the agent's address, as the proxy sees it")
    keygen.add_argument("--keyring", metavar="FILE", help="the proxy's key file; a new key gets an id that it lacks")
    keygen.add_argument("--id", metavar="N", type=int, help="with --agent: the id of the key to derive from")
    keygen.add_argument("--out", metavar="FILE", help="make this file, with mode 600, instead of printing")
    keygen.set_defaults(run=lambda options: _make_key(options, keygen.error))
    checked = commands.add_parser("check", help="check a configuration file", description=CHECK)
    checked.add_argument("file", metavar="FILE", help="as for 'twistd rproxy --config FILE'")
    checked.add_argument("--uid", metavar="USER", type=_user, help="as for twistd: whose the key file may be, too")
    checked.set_defaults(run=lambda options: _check(options.file, options.uid))
    starting = commands.add_parser("config", help="print a configuration file", description=CONFIG)
    starting.set_defaults(run=lambda _: _print("config", starting_file()))
    manual = commands.add_parser("docs", help="show the manual", description=DOCS)
    manual.add_argument("topic", metavar="TOPIC", nargs="?", help="one of those that 'rproxy docs' lists")
    manual.set_defaults(run=lambda options: _show_docs(options.topic))
    unit = commands.add_parser("systemd", help="show the systemd units", description=SYSTEMD)
    unit.add_argument("name", metavar="NAME", nargs="?", help=f"one of {', '.join(systemd.NAMES)}")
    unit.set_defaults(run=lambda options: _show_units(options.name))
    scraped = commands.add_parser("prometheus", help="show files for Prometheus and Grafana", description=PROMETHEUS)
    scraped.add_argument("name", metavar="NAME", nargs="?", help=f"one of {', '.join(prometheus.FILES)}")
    scraped.set_defaults(run=lambda options: _show_prometheus(options.name))
    again = commands.add_parser("reload", help="have a running proxy read its files again", description=RELOAD)
    again.add_argument("--pidfile", metavar="FILE", default=PIDFILE, help=f"the proxy's pid file (default {PIDFILE})")
    again.set_defaults(run=lambda options: _reload(options.pidfile))
    study.add_parser(commands)
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status


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
        return _failed("keygen", f"{options.out or 'standard output'}: {error.strerror}", 1)
    return 0


def _check(name: str, owner: int | None) -> int:
    """Returns the exit status."""
    if not name:
        return _failed("check", "no file is named", 1)
    try:
        plan = check(name, owner)
    except FileErrors as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 1
    return _print("check", plan)


def _print(command: str, text: str) -> int:
    """Returns the exit status."""
    try:
        _demand_output()
        _write_all(sys.stdout.fileno(), text.encode(errors="surrogateescape"))  # files may have any names
    except BrokenPipeError:  # the reader has seen enough
        pass
    except OSError as error:
        return _failed(command, f"standard output: {error.strerror}", 1)
    return 0


def _reload(pidfile: str) -> int:
    """Returns the exit status."""
    outcome = reload(pidfile, RELOAD_S)
    if not outcome.worked:
        return _failed("reload", outcome.text, 1)
    print(f"rproxy reload: {outcome.text}")
    return 0


def _show_docs(topic: str | None) -> int:
    """Returns the exit status."""
    pages = docs.pages()
    if topic is not None and topic not in pages:
        return _failed("docs", docs.unknown(topic, pages), 2)
    try:
        _show(docs.contents(pages) if topic is None else pages[topic])
    except BrokenPipeError:  # the reader has seen enough
        pass
    except OSError as error:
        return _failed("docs", f"standard output: {error.strerror}", 1)
    return 0


def _show_units(name: str | None) -> int:
    """Returns the exit status."""
    if name is not None and name not in systemd.NAMES:
        return _failed("systemd", f"there is no unit {name!r}, but {', '.join(systemd.NAMES)}", 2)
    try:
        _show(systemd.all_units() if name is None else systemd.unit(name))
    except BrokenPipeError:  # the reader has seen enough
        pass
    except OSError as error:
        return _failed("systemd", f"standard output: {error.strerror}", 1)
    return 0


def _show_prometheus(name: str | None) -> int:
    """Returns the exit status."""
    if name is not None and name not in prometheus.FILES:
        return _failed("prometheus", f"there is no {name!r}, but {', '.join(prometheus.FILES)}", 2)
    return _print("prometheus", prometheus.contents() if name is None else prometheus.text_of(name))


def _show(text: str) -> None:
    """Print through a pager on a terminal, as UTF-8 otherwise. Raises `OSError`."""
    _demand_output()
    if sys.stdout.isatty():
        pydoc.pager(text)
    else:
        _write_all(sys.stdout.fileno(), text.encode())


def _failed(command: str, what: str, status: int) -> int:
    print(f"rproxy {command}: error: {what}", file=sys.stderr)
    return status


def _demand_output() -> None:
    """Raises `OSError` if there is no standard output."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")


def _ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address") from None


def _user(text: str) -> int:
    """The id of a user, who is named or given by number."""
    try:
        return int(text) if text.isascii() and text.isdigit() else pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no user") from None


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
        _demand_output()
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
    with suppress(OSError):  # another user's file; the commands that read it will refuse it
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, _OWNERS)
