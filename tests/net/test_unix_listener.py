"""A Unix socket that only its own user can connect to, and its place in the file system."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from rproxy.net.unix_listener import PATH_MAX, UnixPort


class Reactor(Clock):
    """Reads nothing."""

    def addReader(self, reader: object) -> None:
        pass

    def removeReader(self, reader: object) -> None:
        pass

    def removeWriter(self, writer: object) -> None:
        pass


@pytest.fixture
def path() -> Iterator[str]:
    """In a folder with a short name."""
    folder = Path(f"/tmp/rproxy-{os.getpid()}")
    folder.mkdir(mode=0o700)
    yield str(folder / "admin.sock")
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()


def listening(path: str, *, takes_over: bool = False) -> UnixPort:
    port = UnixPort(path, Factory(), 5, Reactor(), takes_over=takes_over)
    port.startListening()
    return port


def connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True


def test_it_is_there_for_its_user_alone_and_gone_at_the_end(path: str) -> None:
    before = os.umask(0)
    try:
        port = listening(path)
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert connects(path)
    assert os.listdir(os.path.dirname(path)) == ["admin.sock"]
    port.connectionLost()
    assert os.listdir(os.path.dirname(path)) == []


def test_one_that_nobody_listens_on_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert not connects(path)
    listening(path).connectionLost()


def test_one_that_is_in_use_is_not_unless_it_is_to_be_taken_over(path: str) -> None:
    first = listening(path)
    with pytest.raises(CannotListenError, match="Address already in use"):
        listening(path)
    assert connects(path)
    second = listening(path, takes_over=True)
    first.connectionLost()
    assert connects(path)
    second.connectionLost()
    assert not os.path.exists(path)


def test_one_whose_queue_is_full_is_in_use(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(path)
        with pytest.raises(CannotListenError, match="Address already in use"):
            listening(path)
        for client in clients:
            client.close()


@pytest.mark.parametrize("takes_over", [False, True])
def test_a_file_is_never_replaced(path: str, takes_over: bool) -> None:
    Path(path).write_text("precious")
    with pytest.raises(CannotListenError, match="no socket"):
        listening(path, takes_over=takes_over)
    assert Path(path).read_text() == "precious"
    assert os.listdir(os.path.dirname(path)) == ["admin.sock"]


def test_a_folder_that_is_not_there_is_said_and_nothing_is_left(path: str) -> None:
    with pytest.raises(CannotListenError, match="No such file or directory"):
        listening(f"{path}/x/y")


def test_the_longest_path_fits(path: str) -> None:
    long = os.path.join(os.path.dirname(path), "x" * (PATH_MAX - len(os.path.dirname(path)) - 1))
    assert len(long) == PATH_MAX
    listening(long).connectionLost()


def test_it_may_be_given_to_another_user_but_only_while_it_is_ours(path: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    port = listening(path)
    port.give(65534, 65533)
    status = os.stat(path)
    assert (status.st_uid, status.st_gid) == (65534, 65533)
    os.unlink(path)
    Path(path).write_text("another's")
    port.give(65534, -1)
    assert os.stat(path).st_uid == 0
    port.connectionLost()
    assert Path(path).read_text() == "another's"


def test_one_that_is_not_open_gives_nothing_away(path: str) -> None:
    UnixPort(path, Factory(), 5, Reactor()).give(1, 1)
    assert not os.path.exists(path)
