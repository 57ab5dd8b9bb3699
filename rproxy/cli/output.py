"""What the operators' commands print: for people on a terminal, and for programs otherwise."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterable
from io import StringIO
from typing import Final

from rich.console import Console
from rich.text import Text

from rproxy.cli.client import Failure
from rproxy.cli.grid import Table

PIECE: Final = 500
"""Lines that are written at once."""


class Output:
    """Standard output. What writes raises `BrokenPipeError`, and `Failure` for other errors.

    rich decides whether there are colours (NO_COLOR, FORCE_COLOR, TERM) and renders them, but does not write.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise Failure(f"standard output: {os.strerror(errno.EBADF)}")
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # for encodings that lack a character
        found = Console()
        self.is_terminal = sys.stdout.isatty() and not found.is_dumb_terminal
        self._text = StringIO()
        self._console = Console(
            file=self._text, force_terminal=found.is_terminal, markup=False, emoji=False, highlight=False
        )

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None for programs, which get everything."""
        return self.size[0] if sys.stdout.isatty() else None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal."""
        columns, lines = shutil.get_terminal_size()
        return max(columns, 1), max(lines, 1)

    def rendered(self, line: Text, width: int | None = None) -> str:
        """A line with its styles, cut off at `width`."""
        if width is None:
            self._console.print(line, soft_wrap=True, end="")
        else:
            self._console.print(line, width=width, no_wrap=True, overflow="crop", crop=True, end="")
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text

    def table(self, table: Table, *, heading: bool = True) -> None:
        """Print it."""
        self.lines([table.heading()] if heading else [])
        for start in range(0, len(table.rows), PIECE):
            self.lines(table.lines(start, start + PIECE))

    def lines(self, lines: Iterable[Text | str]) -> None:
        """Print them; the terminal wraps those that are too long."""
        text = Text("\n").join(Text(line) if isinstance(line, str) else line for line in lines)
        self.write("".join(f"{line.rstrip()}\n" for line in self.rendered(text).splitlines()))

    def write(self, text: str) -> None:
        """Print it as it is, at once."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Failure(f"standard output: {error.strerror}") from None


def discard_output() -> None:
    """Standard output's reader has gone: write nothing more, also when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
