"""Additions to Twisted's endpoints: abandoned Unix sockets are removed, protocols that clients offer are ignored."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import _sslverify
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactorClock

from rproxy.net.endpoints import ignore_offered_protocols, remove_abandoned

ANOTHER = "1"
"""Process 1, which lives."""


def bound(path: Path, *, listen: bool) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    if listen:
        sock.listen(1)
    os.symlink(ANOTHER, f"{path}.lock")
    return sock


def remove(path: Path, prefix: str = "") -> None:
    remove_abandoned(serverFromString(MemoryReactorClock(), f"{prefix}unix:{path}"))


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_socket_at_which_nobody_listens_goes_with_its_lock(tmp_path: Path) -> None:
    for prefix in ("", "haproxy:"):
        bound(tmp_path / "socket", listen=False).close()
        remove(tmp_path / "socket", prefix)
        assert left(tmp_path) == []


def test_one_at_which_somebody_listens_stays_even_where_its_queue_is_full(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    clients = []
    with bound(path, listen=True):
        for _ in range(4):
            remove(path)
            assert left(tmp_path) == ["socket", "socket.lock"]
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            clients[-1].connect_ex(str(path))
    for client in clients:
        client.close()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    bound(tmp_path / "socket", listen=False).close()
    (tmp_path / "socket.lock").unlink()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("socket")
    for name in ("file", "link", "missing"):
        remove(tmp_path / name)
    assert left(tmp_path) == ["file", "link", "socket"]


def test_a_socket_without_a_lock_goes_as_well(tmp_path: Path) -> None:
    bound(tmp_path / "socket", listen=False).close()
    (tmp_path / "socket.lock").unlink()
    remove(tmp_path / "socket")
    assert left(tmp_path) == []


def test_other_endpoints_have_nothing_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a socket that is called like their port."""
    monkeypatch.chdir(tmp_path)
    bound(tmp_path / "80", listen=False).close()
    remove_abandoned(serverFromString(MemoryReactorClock(), "tcp:80"))
    assert left(tmp_path) == ["80", "80.lock"]


@pytest.mark.parametrize(("protocols", "calls"), [((), 0), ((b"h2",), 1)], ids=["none", "named"])
def test_only_listeners_that_name_protocols_choose_one(
    protocols: tuple[bytes, ...], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(_sslverify, "setupForALPN", lambda *arguments: called.append(arguments), raising=False)
    for _ in range(2):
        ignore_offered_protocols()
    set_up: Any = _sslverify.setupForALPN
    set_up("context", protocols)
    assert called == [("context", protocols)] * calls


def test_where_twisted_does_it_another_way_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_sslverify, "setupForALPN", raising=False)
    ignore_offered_protocols()
    assert not hasattr(_sslverify, "setupForALPN")
