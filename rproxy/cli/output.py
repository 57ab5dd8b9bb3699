"""What the operators' commands print: for people on a terminal, and for programs otherwise."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.text import Text

from rproxy.cli.client import Failure
from rproxy.cli.grid import Table

COLUMNS: Final = "COLUMNS"
PIECE: Final = 500
"""Lines that are written at once."""


class Output:
    """Standard output. Its methods raise `BrokenPipeError`, and `Failure` for other errors."""

    def __init__(self) -> None:
        if sys.stdout is None:
            raise Failure(f"standard output: {os.strerror(errno.EBADF)}")
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # for encodings that lack a character
        self.console = Console(markup=False, emoji=False, highlight=False)
        self.is_terminal = sys.stdout.isatty() and not self.console.is_dumb_terminal

    @property
    def width(self) -> int | None:
        """Columns of the terminal, or those that the environment gives; None for programs, which get everything."""
        if sys.stdout.isatty() or os.environ.get(COLUMNS, "").isdecimal():
            return shutil.get_terminal_size().columns or None
        return None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal."""
        columns, lines = shutil.get_terminal_size()
        return max(columns, 1), max(lines, 1)

    def table(self, table: Table, *, heading: bool = True) -> None:
        """Print it."""
        self.lines([table.heading()] if heading else [])
        for start in range(0, len(table.rows), PIECE):
            self.lines(table.lines(start, start + PIECE))

    def lines(self, lines: Iterable[Text | str]) -> None:
        """Print them; the terminal wraps those that are too long."""
        text = Text("\n").join(Text(line) if isinstance(line, str) else line for line in lines)
        if text:
            with self.console.capture() as rendered:
                self.console.print(text, soft_wrap=True)
            self.write("".join(f"{line.rstrip()}\n" for line in rendered.get().splitlines()))

    def write(self, text: str) -> None:
        """Print it as it is."""
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
