"""A command on a terminal, as an operator sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from tests.integration.polling import READY_S, STOP_S
from tests.integration.twistd import environment

_STYLES: Final = re.compile(r"\x1b\[[0-9;]*m")
_SCREENS: Final = re.compile(r"\x1b\[\?2026h\x1b\[H(.*?)\x1b\[\?2026l", re.DOTALL)
_ERASE: Final = re.compile(r"\x1b\[[KJ]")
ENTER: Final = "\x1b[?1049h"
NO_VARIABLES: Final[Mapping[str, str]] = {}
LEAVE: Final = "\x1b[?25h\x1b[?1049l"


class TerminalCommand:
    """Runs on a pseudo-terminal of its own, whose keys are those that are typed here."""

    def __init__(
        self, command: Sequence[str], columns: int = 80, lines: int = 24, variables: Mapping[str, str] = NO_VARIABLES
    ) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(columns, lines)
        self.settings = termios.tcgetattr(self._slave)
        self.output = ""
        cleared = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        self.process = subprocess.Popen(
            command,
            env={
                **{name: text for name, text in environment().items() if name not in cleared},
                "TERM": "xterm-256color",
                **variables,
            },
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read(self, within_s: float = 0.0) -> None:
        """What has been written so far, or within so many seconds."""
        waiting = select.poll()
        waiting.register(self._master, select.POLLIN)
        while waiting.poll(1000 * within_s):
            self.output += os.read(self._master, 65536).decode(errors="replace")
            within_s = 0.0

    @property
    def screen(self) -> list[str]:
        """The lines of the last whole screen, without styles."""
        screens = _SCREENS.findall(self.output)
        return _ERASE.sub("", without_styles(screens[-1])).split("\r\n") if screens else []

    def wait(self, until: Callable[[], Any], what: str) -> None:
        """Read until it is so."""
        deadline = time.monotonic() + READY_S
        while not until():
            assert time.monotonic() < deadline, (what, self.screen)
            assert self.process.poll() is None, self.output
            self.read(0.05)

    def until(self, seen: Callable[[list[str]], Any], what: str) -> list[str]:
        """The screen once it is `seen` to be as it should be."""
        self.wait(lambda: self.screen and seen(self.screen), what)
        return self.screen

    def has(self, text: str) -> list[str]:
        """The screen once it has this."""
        return self.until(lambda screen: text in "\n".join(screen), text)

    def ended(self) -> int:
        """The exit status; all that it has written is in `output` then."""
        deadline = time.monotonic() + STOP_S + READY_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.output
            self.read(0.05)
        self.read()
        return self.process.returncode

    @property
    def is_restored(self) -> bool:
        """Whether the terminal is as it was before."""
        at_end = self.output.rfind(LEAVE) > self.output.rfind(ENTER)
        return at_end and termios.tcgetattr(self._slave) == self.settings


def without_styles(text: str) -> str:
    return _STYLES.sub("", text)
