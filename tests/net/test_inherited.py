"""Which sockets a service manager has passed, by what the environment says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from twisted.internet import endpoints
from twisted.python.systemd import ListenFDs

from rproxy.net.inherited import InheritedSocket, forget, parse, tell_twisted

PID = 1234
GOOD = {"LISTEN_PID": f"{PID}", "LISTEN_FDS": "2"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ["", ""]),
        ("", ["", ""]),
        ("web:db", ["web", "db"]),
        ("web:web", ["web", "web"]),
        ("web", ["web", ""]),
        ("web:", ["web", ""]),
        ("web:db:more", ["web", "db"]),
    ],
)
def test_each_has_a_descriptor_from_3_on_and_its_name(names: str | None, expected: list[str]) -> None:
    environment = GOOD if names is None else {**GOOD, "LISTEN_FDNAMES": names}
    assert parse(environment, PID) == tuple(InheritedSocket(3 + place, name) for place, name in enumerate(expected))


@pytest.mark.parametrize(
    "changed",
    [
        {"LISTEN_PID": "1235"},
        {"LISTEN_PID": ""},
        {"LISTEN_FDS": ""},
        {"LISTEN_FDS": "0"},
        {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": "x"},
        {"LISTEN_FDS": "²"},
        {"LISTEN_FDS": "9" * 5000},
    ],
)
def test_what_is_for_another_process_or_makes_no_sense_is_nothing(changed: dict[str, str]) -> None:
    assert parse({**GOOD, **changed}, PID) == ()


def test_where_no_manager_is_there_are_none() -> None:
    assert parse({}, PID) == ()


AS_MANAGER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="web")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
"""
AFTER_TWISTED = """
import os
import twisted.internet.endpoints
assert "LISTEN_FDS" not in os.environ
from rproxy.net.inherited import forget, inherited_sockets
found = inherited_sockets()
forget()
print([(each.descriptor, each.name, os.get_inheritable(each.descriptor)) for each in found], sorted(
    name for name in os.environ if name.startswith("LISTEN_")))
"""


def test_they_are_found_although_twisted_has_removed_the_variables() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        done = subprocess.run(
            [sys.executable, "-c", AS_MANAGER, str(sock.fileno()), AFTER_TWISTED],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            pass_fds=[sock.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("[(3, 'web', False)] []\n", "")


def test_variables_are_removed_for_children(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        monkeypatch.setenv(name, "1")
    forget()
    forget()
    assert not [name for name in os.environ if name.startswith("LISTEN_")]


def test_twisteds_strings_find_sockets_without_names_by_their_index(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = endpoints._SystemdParser
    before = ListenFDs([], ())
    monkeypatch.setattr(parser, "_sddaemon", before)
    tell_twisted((InheritedSocket(3, "web"),))
    assert parser._sddaemon is before  # which has read the same
    tell_twisted((InheritedSocket(3, ""), InheritedSocket(4, "")))
    assert parser._sddaemon.inheritedDescriptors() == [3, 4]
