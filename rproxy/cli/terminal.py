"""The terminal while a table is watched: a screen of its own, and keys as they are pressed."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Final, Self

from rich.text import Text

from rproxy.cli.output import Output

_KEYS: Final = re.compile(rb"\x1b(?:\[|O)([0-9;]*[A-Za-z~])|([^\x1b]|\x1b)", re.DOTALL)
_NAMES: Final = {
    b"A": "up",
    b"B": "down",
    b"C": "right",
    b"D": "left",
    b"H": "home",
    b"F": "end",
    b"1~": "home",
    b"4~": "end",
    b"5~": "page-up",
    b"6~": "page-down",
    b"\x1b": "escape",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
"""xterm's alternate screen, and the cursor."""
_BEGIN: Final = "\x1b[?2026h"
_END: Final = "\x1b[?2026l"
"""What is between them is shown at once, by terminals that know of synchronized output."""
_HOME: Final = "\x1b[H"
_ERASE_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"
"""Before a line is written: after one that fills its row, they would erase its last character."""
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end the command; the terminal is left as it was."""


def keys_in(data: bytes) -> Iterator[str]:
    """The keys whose codes these are: characters, or names such as ``page-up``. Codes of unknown keys are left out."""
    for sequence, character in _KEYS.findall(data):
        code = sequence or character
        if code in _NAMES:
            yield _NAMES[code]
        elif character and character.isascii() and character.decode().isprintable():
            yield character.decode()


class Terminal:
    """A context in which standard output is a screen that is painted over, and standard input has keys."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._has_keys = sys.stdin is not None and sys.stdin.isatty()
        self._before: list[Any] = []
        self.resumed = False
        """Whether it has been stopped and continued, so that it must be painted again. For others to reset."""

    def __enter__(self) -> Self:
        self._handlers = {each: signal.signal(each, self._end) for each in ENDING}
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        self._enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        for each, handler in self._handlers.items():
            signal.signal(each, handler)

    def _enter(self) -> None:
        if self._has_keys:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        self._output.write(_ENTER)

    def _leave(self) -> None:
        self._output.write(_LEAVE)
        if self._before:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def _end(self, signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    def _stop(self, signum: int, _: FrameType | None) -> None:
        """Ctrl-Z: let the shell have its terminal until the process is continued."""
        self._leave()
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
        signal.signal(signum, self._stop)
        self._enter()
        self.resumed = True

    @property
    def input(self) -> list[int]:
        """The descriptor to wait for, if there is one."""
        return [sys.stdin.fileno()] if self._has_keys else []

    def keys(self) -> list[str]:
        """Those that have been pressed. Raises `EOFError` if the terminal has gone."""
        data = os.read(sys.stdin.fileno(), 1024)
        if not data:
            raise EOFError
        return list(keys_in(data))

    def paint(self, lines: Sequence[Text], width: int) -> None:
        """Show these lines, which are cut off at `width`, and nothing else."""
        painted = [self._output.rendered(line, width) for line in lines]
        text = "".join(f"{_ERASE_LINE}{line}\n" for line in painted[:-1]) + _ERASE_BELOW + "".join(painted[-1:])
        self._output.write(f"{_BEGIN}{_HOME}{text}{_END}")
