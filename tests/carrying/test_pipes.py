"""The kernel's pipes: how they are filled, drained, pooled and closed."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rproxy.carrying.pipes import CAPACITY, KEPT, Pipe, Pipes
from tests.carrying.loopback import fill, small_pair, tcp_pair


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


def test_an_empty_source_is_told_apart_from_one_that_has_ended(
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


def test_an_error_of_the_target_is_told(pipes: Pipes, pair: tuple[socket.socket, socket.socket]) -> None:
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


def test_a_pipe_that_may_not_be_enlarged_is_used_as_it_is(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    pipes.release(taken(pipes))


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
