"""What a command does to its process before it serves, and how it ends when it cannot."""

from __future__ import annotations

import errno
import io
import resource
import socket
import sys
import time

import pytest
from twisted.internet.error import CannotListenError

from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.tap.startup import (
    StartupError,
    cannot_listen,
    raise_descriptor_limit,
    report_startup_errors_in_one_line,
    use_monotonic_time,
)
from tests.fakes import Reactor


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            CannotListenError("", 80, OSError(errno.EADDRINUSE, "Address already in use")),
            "cannot listen on --listen 80: Address already in use",
        ),
        (
            CannotListenError("", 80, PermissionError(errno.EACCES, "Permission denied")),
            "cannot listen on --listen 80: Permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
        ),
        (
            CannotListenError("10.9.9.9", 80, OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")),
            "cannot listen on --listen 80: Cannot assign requested address",
        ),
        (
            CannotListenError("", 80, socket.gaierror(-2, "Name or service not known")),
            "cannot listen on --listen 80: Name or service not known",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file"), "cannot listen on --listen 80: No such file"),
        (ValueError("not like this"), "cannot listen on --listen 80: not like this"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_why_it_cannot_listen_is_one_line(error: Exception, text: str) -> None:
    assert str(cannot_listen("--listen 80", error)) == text


def test_an_error_at_the_start_shows_its_line_and_any_other_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[type[BaseException]] = []
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "excepthook", lambda kind, value, traceback: shown.append(kind))
    monkeypatch.setattr(sys, "__stderr__", terminal)
    report_startup_errors_in_one_line()
    sys.excepthook(StartupError, StartupError("cannot listen on 80"), None)
    assert (terminal.getvalue(), shown) == ("twistd: cannot listen on 80\n", [])
    sys.excepthook(ValueError, ValueError("a bug"), None)
    assert (terminal.getvalue(), shown) == ("twistd: cannot listen on 80\n", [ValueError])


def test_timers_run_on_monotonic_time() -> None:
    reactor = Reactor()
    use_monotonic_time(reactor)
    seconds: object = reactor.seconds
    assert seconds is time.monotonic


@pytest.mark.parametrize(
    ("hard", "usable"), [(20_000, 20_000), (1024, 1024), (resource.RLIM_INFINITY, 4 * SESSIONS_MAX)]
)
def test_the_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch, hard: int, usable: int) -> None:
    raised: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: raised.append((which, limits)))
    assert raise_descriptor_limit() == usable
    assert raised == [(resource.RLIMIT_NOFILE, (hard, hard))]


def test_a_system_that_keeps_its_limit_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_descriptor_limit() == 256
