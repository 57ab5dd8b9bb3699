"""The base class of both twistd commands' options: every mistake is a line on stderr, and exit status 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import metadata
from platform import python_version
from typing import NoReturn

from twisted.python import usage

from rproxy.config.file_errors import FileErrors
from rproxy.config.validators import ConfigError


class CommandOptions(usage.Options):
    """A subcommand of twistd. Its methods may raise `UsageError` and `ConfigError` while options are parsed."""

    command = ""
    replaced_pidfile = ""
    """The pid file of a running process that this one's is to replace; empty for none."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse and fill in the model. Raises `SystemExit` with a line about a mistake, or about each of a file."""
        asked = getattr(getattr(self.parent, "subCommand", None), "asked", "")
        if asked:
            fail(f"twistd: there is no command {asked}; do you mean {self.command}? (twistd --help lists all)")
        try:
            super().parseOptions(options)
        except FileErrors as error:
            fail("\n".join(f"twistd {self.command}: {line}" for line in error.lines))
        except (usage.UsageError, ConfigError) as error:
            fail(f"twistd {self.command}: {self._explained(str(error))}")

    def _explained(self, error: str) -> str:
        """The error with a hint. getopt says little of an option that it does not know."""
        unknown = re.fullmatch(r"option (-\S+) not recognized", error)
        if unknown is None:
            return f"{error} (twistd {self.command} --help lists the options)"
        option = unknown[1]
        if _is_twistds(option, self.parent):
            return f"{option} is an option of twistd itself: it goes before {self.command}"
        near = get_close_matches(option, [f"--{name.rstrip('=')}" for name in self.longOpt], 1)
        hint = f"; do you mean {near[0]}?" if near else ""
        return f"there is no option {option}{hint} (twistd {self.command} --help lists the options)"

    def parseArgs(self, *args: str) -> None:
        if args:
            raise usage.UsageError(f"unexpected argument {args[0]!r}")

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(version())
        raise SystemExit

    @property
    def name(self) -> str:
        """Base name of the log file and the pid file."""
        return self.command

    @property
    def uid(self) -> int | None:
        """The id of the user that twistd changes to; None if it does not change."""
        return None if self.parent is None else self.parent.get("uid")


def _is_twistds(option: str, twistd: usage.Options | None) -> bool:
    if not isinstance(twistd, usage.Options):
        return False
    if option.startswith("--"):
        return option[2:] in {name.rstrip("=") for name in twistd.longOpt}
    return option[1:] in twistd.shortOpt.replace(":", "")


def version() -> str:
    """The version of this program, of Twisted and of Python, in one line."""
    return f"rproxy {metadata.version('rproxy')} (Twisted {metadata.version('Twisted')}, Python {python_version()})"


def fail(message: str) -> NoReturn:
    """End the process with a line on stderr and status 1."""
    raise SystemExit(message)
