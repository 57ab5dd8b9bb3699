"""The syntax of `--check`, which names a kind of service check."""

from __future__ import annotations

from typing import Final

from twisted.python import usage

NO_CHECK: Final = "none"
CONNECT: Final = "connect"
HTTP: Final = "http:"
"""Followed by a path."""
COMMAND: Final = "command:"
"""Followed by a shell command."""
PATH_MAX: Final = 2000
"""Characters in a path."""


def check_of(text: str | None, service_port: int) -> str:
    """The check that `text` names; if that is None, the default for `service_port` (0 if unknown).

    Raises `UsageError`.
    """
    if text is None:
        return CONNECT if service_port else NO_CHECK
    if text == CONNECT or text.startswith(HTTP):
        if text != CONNECT:
            _validate_path(text)
        if not service_port:
            raise usage.UsageError(f"--check {text}: needs --service-port, which is where to connect to")
    elif text.startswith(COMMAND):
        if not text.removeprefix(COMMAND).strip():
            raise usage.UsageError(f"--check {text}: no command is named")
    elif text != NO_CHECK:
        raise usage.UsageError(f"--check {text}: not one of connect, http:/path, command:CMD and none")
    return text


def _validate_path(text: str) -> None:
    path = text.removeprefix(HTTP)
    if not path.startswith("/") or path.startswith("//"):
        raise usage.UsageError(f"--check {text}: not of the form http:/path (the host is this one)")
    if not all("!" <= character <= "~" for character in path):
        raise usage.UsageError(f"--check {text!r}: a path has only visible ASCII characters, others as %XX")
    if len(path) > PATH_MAX:
        raise usage.UsageError(f"--check http:/…: the path is longer than {PATH_MAX} characters")
