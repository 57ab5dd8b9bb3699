"""What belongs to the process: which user it becomes, and which files it may give away."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.python import usage

from rproxy.tap.logs import RotatingFile, Stream
from rproxy.tap.process import Process
from rproxy.tap.startup import StartupError

NAMELESS = 54321


class Ids:
    """The system calls that change a process's user, which are only noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, now: int = 0) -> None:
        self.calls: list[tuple[str, Any]] = []
        monkeypatch.setattr(os, "geteuid", lambda: now)
        for name in ("setgroups", "setgid", "setuid", "setegid", "seteuid"):
            monkeypatch.setattr(os, name, self._noted(name))

    def _noted(self, name: str) -> Callable[[Any], None]:
        return lambda value: self.calls.append((name, value))


def process(folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> tuple[Process, dict[str, Any]]:
    monkeypatch.chdir(folder)
    options = {"nodaemon": True, "logfile": "log", "pidfile": "", **config}
    return Process(options, "rproxy"), options


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        ({}, []),
        ({"uid": NAMELESS}, [("setgroups", [NAMELESS]), ("setgid", NAMELESS), ("setuid", NAMELESS)]),
        ({"uid": NAMELESS, "gid": 7}, [("setgroups", [7]), ("setgid", 7), ("setuid", NAMELESS)]),
        ({"gid": 7}, [("setgid", 7)]),
        ({"uid": NAMELESS, "gid": 7, "euid": 1}, [("setgroups", [7]), ("setegid", 7), ("seteuid", NAMELESS)]),
        ({"uid": 0, "gid": 7}, [("setgid", 7)]),
    ],
)
def test_the_groups_go_first_and_the_user_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], calls: list[tuple[str, Any]]
) -> None:
    own, options = process(tmp_path, monkeypatch, **config)
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    ids = Ids(monkeypatch)
    own.shed_privileges()
    assert ids.calls == calls
    assert (options.get("uid"), options.get("gid")) == (None, None)


def test_a_user_with_a_name_has_all_its_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = pwd.getpwnam("nobody")
    own, _ = process(tmp_path, monkeypatch, uid=user.pw_uid)
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 4242] if name == "nobody" else [])
    ids = Ids(monkeypatch)
    own.shed_privileges()
    assert ids.calls[0] == ("setgroups", [user.pw_gid, 4242])
    assert ids.calls[1] == ("setgid", user.pw_gid)


def test_what_is_not_permitted_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, _ = process(tmp_path, monkeypatch, uid=NAMELESS)
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    Ids(monkeypatch)

    def refused(_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setuid", refused)
    with pytest.raises(StartupError) as raised:
        own.shed_privileges()
    assert str(raised.value) == "cannot become user 54321 of group 54321 (--uid, --gid): Operation not permitted"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"logfile": "mine"}, RotatingFile),
        ({"logfile": os.devnull}, Stream),
        ({"logfile": None, "nodaemon": False}, RotatingFile),
        ({"syslog": True}, type(None)),
        ({"logger": print}, type(None)),
    ],
)
def test_where_the_log_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], kind: type
) -> None:
    own, _ = process(tmp_path, monkeypatch, **config)
    assert type(own._out) is kind
    names = {"mine"} if config.get("logfile") == "mine" else {"rproxy.log"} if "nodaemon" in config else set()
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
    "config",
    [{"logfile": "/nowhere/log"}, {"logfile": "-", "nodaemon": False}, {"rundir": "/nowhere"}, {"logfile": "/"}],
)
def test_impossible_options_are_reported_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    with pytest.raises(usage.UsageError):
        process(tmp_path, monkeypatch, **config)
