"""The kernel's pipes: how they are filled, drained, pooled and closed."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, repeat
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from rproxy.carriers.splice.pipes import CAPACITY, CAPACITY_MIN, KEPT, RETRY_S, Allowance, Pipe, Pipes
from tests.carriers.loopback import descriptors, fill, small_pair, tcp_pair
from tests.fakes import logged, texts


@pytest.fixture
def pipes(stack: ExitStack) -> Pipes:
    pipes = Pipes(KEPT + 4)
    stack.callback(pipes.close)
    return pipes


def taken(pipes: Pipes) -> Pipe:
    pipe = pipes.take()
    assert pipe is not None
    return pipe


def is_open(pipe: Pipe) -> bool:
    try:
        os.fstat(pipe.reader)
        os.fstat(pipe.writer)
    except OSError:
        return False
    return True


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with tcp_pair() as (near, far):
        yield near, far


def test_a_pipe_takes_what_a_socket_has_and_gives_it_to_another(
    pipes: Pipes, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    far.send(b"twelve bytes")
    pipe = taken(pipes)
    with tcp_pair() as (target, reader):
        assert (pipe.fill(near.fileno()), pipe.held) == (12, 12)
        pipe.drain(target.fileno())
        assert (pipe.held, reader.recv(100)) == (0, b"twelve bytes")
    pipes.release(pipe)


def test_an_empty_source_differs_from_one_that_has_ended(
    pipes: Pipes, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    pipe = taken(pipes)
    with pytest.raises(BlockingIOError):
        pipe.fill(near.fileno())
    far.shutdown(socket.SHUT_WR)
    assert (pipe.fill(near.fileno()), pipe.held) == (0, 0)
    pipes.release(pipe)


def test_a_target_that_takes_nothing_more_leaves_the_rest_in_the_pipe(
    pipes: Pipes, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    pipe = taken(pipes)
    with small_pair() as (target, _):
        fill(far)
        size = pipe.fill(near.fileno())
        pipe.drain(target.fileno())
        assert 0 < pipe.held < size
    pipes.release(pipe)


def test_an_error_of_the_target_is_raised(pipes: Pipes, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    pipe = taken(pipes)
    far.send(b"x")
    pipe.fill(near.fileno())
    with tcp_pair() as (target, _):
        target.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            pipe.drain(target.fileno())
    assert pipe.held == 1
    pipes.release(pipe)


def test_a_pipe_is_as_large_as_may_be_and_closed_when_a_program_is_started(pipes: Pipes) -> None:
    pipe = taken(pipes)
    assert 65536 <= fcntl.fcntl(pipe.writer, fcntl.F_GETPIPE_SZ) <= CAPACITY
    assert not os.get_inheritable(pipe.reader)
    assert not os.get_inheritable(pipe.writer)
    assert not os.get_blocking(pipe.reader)
    assert not os.get_blocking(pipe.writer)
    pipes.release(pipe)


def give(monkeypatch: pytest.MonkeyPatch, sizes: Iterator[int]) -> None:
    """Pipes have the kernel's default size at first, then each of these sizes; 0: the size cannot be read."""
    real = fcntl.fcntl

    def answer(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        if command != fcntl.F_GETPIPE_SZ:
            return real(descriptor, command, argument)
        if (size := next(sizes)) == 0:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return size

    monkeypatch.setattr(fcntl, "fcntl", answer)


@pytest.mark.parametrize(
    ("size", "usable"), [(CAPACITY_MIN, True), (CAPACITY_MIN - 1, False), (8192, False), (0, False)]
)
def test_a_pipe_that_may_not_be_enlarged_is_used_unless_it_is_too_small(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, size: int, usable: bool
) -> None:
    before = descriptors()
    pipes = Pipes(4)
    stack.callback(pipes.close)
    give(monkeypatch, repeat(size))
    pipe = pipes.take()
    assert ((pipe is not None), pipes.used) == (usable, int(usable))
    if pipe is None:
        assert descriptors() == before
    else:
        pipes.release(pipe)


def test_after_a_pipe_that_was_too_small_there_is_none_for_a_moment(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    pipes = Pipes(4, clock.seconds)
    stack.callback(pipes.close)
    give(monkeypatch, chain([8192], repeat(CAPACITY)))
    assert pipes.take() is None
    clock.advance(RETRY_S - 0.01)
    assert pipes.take() is None
    clock.advance(0.01)
    pipes.release(taken(pipes))


@pytest.mark.parametrize(
    ("capabilities", "limits", "expected"),
    [
        ("00000000a80425fb", {"pipe-max-size": 1 << 20, "pipe-user-pages-soft": 16384}, (1 << 20, 32)),
        ("0000000000000000", {"pipe-max-size": 1 << 20, "pipe-user-pages-soft": 1024}, (1 << 20, 2)),
        ("0000000000000000", {"pipe-max-size": 1 << 18, "pipe-user-pages-soft": 1024}, (1 << 18, 8)),
        ("0000000000000000", {"pipe-max-size": 1 << 24, "pipe-user-pages-soft": 100}, (1 << 20, 0)),
        ("0000000000000000", {"pipe-user-pages-soft": 0, "pipe-user-pages-hard": 0}, (1 << 20, 128)),
        ("0000000000000000", {"pipe-user-pages-soft": 0, "pipe-user-pages-hard": 2048}, (1 << 20, 4)),
        ("000001ffffffffff", {"pipe-max-size": 4096, "pipe-user-pages-soft": 1024}, (1 << 20, 128)),
        ("0000000001000000", {"pipe-user-pages-soft": 1024}, (1 << 20, 128)),
        ("", {}, (1 << 20, 128)),
    ],
    ids=["container", "user", "small pipes", "hardly any", "no limits", "hard limit", "root", "resources", "no /proc"],
)
def test_all_pipes_together_take_half_of_what_the_user_may_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capabilities: str,
    limits: dict[str, int],
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGESIZE": 4096}[name])
    monkeypatch.setattr("rproxy.carriers.splice.pipes._LIMITS", str(tmp_path))
    monkeypatch.setattr("rproxy.carriers.splice.pipes._STATUS", str(tmp_path / "status"))
    if capabilities:
        tmp_path.joinpath("status").write_text(f"Name:\trproxy\nCapEff:\t{capabilities}\nCapBnd:\tffff\n")
    for name, limit in limits.items():
        tmp_path.joinpath(name).write_text(f"{limit}\n")
    allowance = Allowance.read()
    assert (allowance.each, allowance.pipes(128)) == expected


def test_a_user_that_may_have_but_one_pipe_gets_no_second(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Allowance, "read", lambda: Allowance(CAPACITY, CAPACITY))
    pipes = Pipes(4)
    stack.callback(pipes.close)
    pipe = taken(pipes)
    assert pipes.take() is None
    pipes.release(pipe)
    pipes.release(taken(pipes))


@pytest.mark.parametrize("error", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_where_pipes_are_forbidden_none_is_requested_again(
    pipes: Pipes, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    asked = []

    def refuse(*_: object) -> tuple[int, int]:
        asked.append(error)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pipe2", refuse)
    with logged() as events:
        assert [pipes.take(), pipes.take()] == [None, None]
    assert asked == [error]
    assert texts(events) == [f"bytes cannot be spliced ({os.strerror(error)}): they are read and written instead"]


def test_a_refusal_of_splicing_is_final_and_logged_once_and_one_of_a_socket_is_not_final(pipes: Pipes) -> None:
    used, free = taken(pipes), taken(pipes)
    pipes.release(free)
    with logged() as events:
        for error in (errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP):
            pipes.refused(OSError(error, os.strerror(error)))
        assert taken(pipes) is free
        pipes.release(free)
        for error in (errno.EPERM, errno.ENOSYS):
            pipes.refused(OSError(error, os.strerror(error)))
        assert pipes.take() is None
    assert not is_open(free)
    pipes.release(used)
    assert (is_open(used), pipes.used, pipes.take()) == (False, 0, None)
    assert texts(events) == [
        "the bytes of a connection cannot be spliced (Invalid argument): they are read and written instead",
        "bytes cannot be spliced (Operation not permitted): they are read and written instead",
    ]


def test_a_pipe_is_emptied_however_little_a_read_takes(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = taken(pipes)
    with tcp_pair() as (near, far):
        far.send(b"twelve bytes")
        pipe.fill(near.fileno())
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 5)))
    assert (pipe.empty(), pipe.held, pipe.empty()) == (b"twelve bytes", 0, b"")
    pipes.release(pipe)


def test_an_empty_pipe_is_used_again(pipes: Pipes) -> None:
    pipe = taken(pipes)
    pipes.release(pipe)
    assert taken(pipes) is pipe
    pipes.release(pipe)


def test_a_pipe_with_bytes_in_it_is_closed_and_never_used_again(
    pipes: Pipes, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    far.send(b"another session's")
    pipe = taken(pipes)
    pipe.fill(near.fileno())
    pipes.release(pipe)
    assert not is_open(pipe)
    other = taken(pipes)
    assert other is not pipe
    assert (other.held, pipes.used) == (0, 1)
    with pytest.raises(BlockingIOError):
        os.read(other.reader, 1)
    pipes.release(other)


def test_only_so_many_empty_pipes_are_kept(pipes: Pipes) -> None:
    used = [taken(pipes) for _ in range(KEPT + 3)]
    for pipe in used:
        pipes.release(pipe)
    assert sum(map(is_open, used)) == KEPT
    assert pipes.used == 0


def test_there_are_never_more_pipes_than_allowed(stack: ExitStack) -> None:
    pipes = Pipes(2)
    stack.callback(pipes.close)
    first, second = taken(pipes), taken(pipes)
    assert (pipes.take(), pipes.used) == (None, 2)
    pipes.release(first)
    assert taken(pipes) is first
    for pipe in (first, second):
        pipes.release(pipe)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_where_no_pipe_can_be_had_there_is_none(pipes: Pipes, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*_: object) -> tuple[int, int]:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pipe2", refuse)
        assert (pipes.take(), pipes.used) == (None, 0)
    pipes.release(taken(pipes))


def test_none_are_allowed_where_descriptors_are_few() -> None:
    assert Pipes(0).take() is None
