"""The command `rproxy`, also `python -m rproxy`: for operators, and keys, files, manual, units, metrics, a study.

What takes long to import is imported by the commands that need it: those of operators are called often.
"""

from __future__ import annotations

import argparse
import pwd
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from rproxy.cli.parsers import add_parsers
from rproxy.study import parser as study
from rproxy.tap import docs, keygen, prometheus, systemd
from rproxy.tap.printing import failed, print_text, show
from rproxy.tap.reload_report import reload

DESCRIPTION: Final = """\
Shows and changes what a running proxy does, makes keys for a proxy and its agents, checks a proxy's configuration file,
shows their manual and their systemd units, and compares ways of choosing a back-end. The proxy and the agents
themselves are twistd commands."""
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


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from rproxy.config.command_options import version

        print(version())
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(f"{message}; the proxy itself is 'twistd rproxy', its agent 'twistd rproxy-agent'")


class _Command(argparse.ArgumentParser):
    """One of its commands: wrong arguments are answered by the command, with its own usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            near = get_close_matches(rest[0].partition("=")[0], self._option_string_actions, 1)
            self.error(f"unrecognized arguments: {' '.join(rest)}{f'; do you mean {near[0]}?' if near else ''}")
        return known, rest


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 when the output cannot be written, or 2 when the arguments are wrong."""
    parser = _Parser("rproxy", description=DESCRIPTION)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)
    add_parsers(parser, commands)
    keygen.add_parser(commands)
    checked = commands.add_parser("check", help="check a configuration file", description=CHECK)
    checked.add_argument("file", metavar="FILE", help="as for 'twistd rproxy --config FILE'")
    checked.add_argument("--uid", metavar="USER", type=_user, help="as for twistd: whose the key file may be, too")
    checked.set_defaults(run=lambda options: _check(options.file, options.uid))
    starting = commands.add_parser("config", help="print a configuration file", description=CONFIG)
    starting.set_defaults(run=lambda _: _show_config())
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
    study.add_parser(commands, _study)
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status


def _check(name: str, owner: int | None) -> int:
    """Returns the exit status."""
    from rproxy.config.file_errors import FileErrors
    from rproxy.tap.check import check

    if not name:
        return failed("check", "no file is named", 1)
    try:
        plan = check(name, owner)
    except FileErrors as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 1
    return print_text("check", plan)


def _show_config() -> int:
    """Returns the exit status."""
    from rproxy.config.toml_file import starting_file

    return print_text("config", starting_file())


def _reload(pidfile: str) -> int:
    """Returns the exit status."""
    outcome = reload(pidfile, RELOAD_S)
    if not outcome.worked:
        return failed("reload", outcome.text, 1)
    print(f"rproxy reload: {outcome.text}")
    return 0


def _show_docs(topic: str | None) -> int:
    """Returns the exit status."""
    pages = docs.pages()
    if topic is not None and topic not in pages:
        return failed("docs", docs.unknown(topic, pages), 2)
    return show("docs", docs.contents(pages) if topic is None else pages[topic])


def _show_units(name: str | None) -> int:
    """Returns the exit status."""
    if name is not None and name not in systemd.NAMES:
        return failed("systemd", f"there is no unit {name!r}, but {', '.join(systemd.NAMES)}", 2)
    return show("systemd", systemd.all_units() if name is None else systemd.unit(name))


def _show_prometheus(name: str | None) -> int:
    """Returns the exit status."""
    if name is not None and name not in prometheus.FILES:
        return failed("prometheus", f"there is no {name!r}, but {', '.join(prometheus.FILES)}", 2)
    return print_text("prometheus", prometheus.contents() if name is None else prometheus.text_of(name))


def _study(options: argparse.Namespace, wrong: study.Wrong) -> int:
    """Returns the exit status."""
    from rproxy.study.command import run

    return run(options, wrong)


def _user(text: str) -> int:
    """The id of a user, who is named or given by number."""
    try:
        return int(text) if text.isascii() and text.isdigit() else pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no user") from None
