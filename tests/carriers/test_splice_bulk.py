"""Transfers through pipes between real sockets: when they end, and when they only wait."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from rproxy.carriers.splice.leg import Leg
from rproxy.carriers.splice.pipes import CAPACITY, UNSUPPORTED
from rproxy.carriers.splice.states import BULK, DEAD, EOF, HUNG_UP, READABLE, SHUT, STALLED, UNSPLICEABLE
from rproxy.carriers.splice.transfer import ROUNDS, SIZE
from tests.carriers.loopback import QUIET_MS, ends, fill, received, reset, stream, wait_for
from tests.carriers.moving import Moving, Splices

BULKY = stream(4 * SIZE)
"""More than is read before a pipe is used."""


@pytest.fixture
def splices(monkeypatch: pytest.MonkeyPatch) -> Splices:
    return Splices(monkeypatch)


@pytest.fixture
def moving(stack: ExitStack) -> Moving:
    return Moving(stack)


def send(moving: Moving, data: bytes, *, end: bool = False) -> None:
    """Send all of it to the client's leg, which is in bulk transfer already."""
    moving.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * len(BULKY))
    moving.client_end.settimeout(20)
    moving.client_end.sendall(data)
    if end:
        moving.client_end.shutdown(socket.SHUT_WR)
    moving.client.state |= BULK


def carried(moving: Moving, data: bytes) -> bytes:
    """Pump what the client has sent; returns what the back-end gets."""
    moving.client.state |= READABLE
    return moving.carry(moving.client, lambda received: len(received) >= len(data))


def stalled(stack: ExitStack) -> Moving:
    """A back-end that has not taken all of `BULKY`, of which a part is in its pipe."""
    moving = Moving(stack, small="backend")
    send(moving, BULKY, end=True)
    moving.arrived(moving.client, HUNG_UP)
    assert moving.backend.state & STALLED
    assert moving.backend.pipe is not None
    assert moving.backend.pipe.held > 0
    return moving


def assert_no_pipe_in_use(moving: Moving) -> None:
    """All pipes are released; those kept are empty."""
    assert (moving.pipes.used, moving.client.pipe, moving.backend.pipe) == (0, None, None)
    kept = [pipe for _ in range(4) if (pipe := moving.pipes.take()) is not None]
    for pipe in kept:
        assert pipe.held == 0
        with pytest.raises(BlockingIOError):
            os.read(pipe.reader, 1)
        moving.pipes.release(pipe)


def test_the_kernel_moves_what_follows_two_full_reads(moving: Moving, splices: Splices) -> None:
    send(moving, BULKY)
    moving.client.state &= ~BULK
    wait_for(moving.metered(moving.client))
    assert carried(moving, BULKY) == BULKY
    assert moving.client.count == len(BULKY)
    assert splices.reads > 0
    assert_no_pipe_in_use(moving)


@pytest.mark.parametrize("size", [1, SIZE - 1, SIZE, SIZE + 1])
def test_small_transfers_need_no_pipe(moving: Moving, splices: Splices, size: int) -> None:
    send(moving, stream(size))
    moving.client.state &= ~BULK
    assert carried(moving, stream(size)) == stream(size)
    assert splices.counts == []


def test_an_end_of_stream_comes_after_all_that_was_spliced(moving: Moving, splices: Splices) -> None:
    send(moving, BULKY, end=True)
    moving.arrived(moving.client, HUNG_UP)
    assert carried(moving, BULKY) == BULKY
    moving.carry(moving.client, lambda _: bool(moving.backend.state & SHUT))
    assert ends(moving.backend_end)
    assert moving.client.state & EOF
    assert splices.reads > 0
    assert_no_pipe_in_use(moving)


def test_a_splice_of_nothing_is_not_the_end_unless_a_read_says_so(moving: Moving, splices: Splices) -> None:
    splices.results = [0]
    send(moving, BULKY)
    moving.arrived(moving.client)
    assert not moving.client.state & EOF
    assert carried(moving, BULKY) == BULKY
    assert not moving.client.state & EOF
    assert not moving.backend.state & SHUT
    assert_no_pipe_in_use(moving)


def test_an_urgent_mark_at_which_a_splice_stops_is_not_the_end(moving: Moving, splices: Splices) -> None:
    """The kernel splices 0 bytes there once the end of stream has arrived, however much is left before it."""
    send(moving, b"before")
    moving.client_end.send(b"!", socket.MSG_OOB)
    send(moving, b"behind", end=True)
    moving.arrived(moving.client, HUNG_UP)
    assert received(moving.backend_end, 14) == b"before!behind"
    assert splices.reads == 2
    assert moving.client.state & EOF


def test_a_transfer_goes_on_behind_an_urgent_mark(moving: Moving, splices: Splices) -> None:
    send(moving, BULKY)
    moving.client_end.send(b"!", socket.MSG_OOB)
    moving.client_end.sendall(BULKY)
    moving.arrived(moving.client)
    assert carried(moving, BULKY + b"!" + BULKY) == BULKY + b"!" + BULKY
    assert splices.reads > 0
    assert_no_pipe_in_use(moving)


def test_a_short_splice_with_a_hang_up_is_not_the_end(moving: Moving, splices: Splices) -> None:
    splices.at_most = 1000
    data = stream(5500)
    send(moving, data, end=True)
    moving.arrived(moving.client, HUNG_UP)
    assert received(moving.backend_end, 5501) == data
    assert splices.reads >= 6
    assert moving.client.state & EOF


def test_bytes_in_the_pipe_come_before_the_end_of_stream(stack: ExitStack) -> None:
    moving = stalled(stack)
    for _ in range(3):
        moving.transfer.pump(moving.client)
        assert not moving.backend.state & SHUT
    assert moving.reported == []
    received_first = moving.carry(moving.client, lambda _: bool(moving.backend.state & SHUT))
    assert received_first + received(moving.backend_end, len(BULKY)) == BULKY
    assert_no_pipe_in_use(moving)


def test_bytes_in_the_pipe_keep_a_session_from_being_finished(stack: ExitStack) -> None:
    moving = stalled(stack)
    moving.backend_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.backend, HUNG_UP)
    assert moving.reported == []
    received_first = moving.carry(moving.client, lambda _: bool(moving.reported))
    assert received_first + received(moving.backend_end, len(BULKY)) == BULKY
    assert [event for event, _ in moving.reported] == ["finished"]
    assert_no_pipe_in_use(moving)


def test_an_empty_source_gives_its_pipe_back_and_waits_for_an_event(moving: Moving, splices: Splices) -> None:
    send(moving, b"")
    moving.client.state |= READABLE
    moving.transfer.pump(moving.client)
    assert (splices.reads, moving.client.state & (READABLE | BULK | EOF)) == (1, 0)
    assert moving.reported == []
    assert_no_pipe_in_use(moving)


def test_a_full_target_keeps_its_pipe_and_its_source_stays_readable(stack: ExitStack, splices: Splices) -> None:
    moving = stalled(stack)
    reads = splices.reads
    moving.transfer.pump(moving.client)
    assert splices.reads == reads
    assert moving.client.state & READABLE
    assert moving.pipes.used == 1
    assert moving.carry(moving.client, lambda received: len(received) >= len(BULKY)) == BULKY


def test_a_source_that_has_moved_little_is_read_again(moving: Moving, splices: Splices) -> None:
    send(moving, stream(10_000))
    moving.arrived(moving.client)
    assert splices.reads == 2
    moving.client_end.send(b"more")
    moving.arrived(moving.client)
    assert splices.reads == 2
    assert received(moving.backend_end, 10_004) == stream(10_000) + b"more"


def test_a_source_that_has_moved_much_is_spliced_on(moving: Moving, splices: Splices) -> None:
    send(moving, BULKY)
    assert carried(moving, BULKY) == BULKY
    reads = splices.reads
    moving.client_end.send(b"more")
    moving.arrived(moving.client)
    assert splices.reads > reads
    assert received(moving.backend_end, 4) == b"more"


def test_a_long_transfer_gives_way_to_others_and_causes_another_event(moving: Moving, splices: Splices) -> None:
    splices.at_most = 10
    data = stream(10 * ROUNDS + 5)
    send(moving, data)
    wait_for(moving.metered(moving.client))
    moving.events()
    assert moving.events() == {}
    moving.arrived(moving.client)
    assert (splices.reads, moving.client.count) == (ROUNDS, 10 * ROUNDS)
    assert_no_pipe_in_use(moving)
    assert moving.metered(moving.client).fileno() in moving.events()
    moving.transfer.pump(moving.client)
    assert received(moving.backend_end, len(data)) == data


def test_the_length_of_every_splice_is_bounded(stack: ExitStack, splices: Splices) -> None:
    moving = stalled(stack)
    moving.carry(moving.client, lambda received: len(received) >= len(BULKY))
    assert splices.counts
    assert max(splices.counts) <= CAPACITY


not_here = pytest.mark.parametrize("error", sorted(UNSUPPORTED), ids=errno.errorcode.__getitem__)


@not_here
def test_a_source_that_does_not_splice_is_read_from_then_on(moving: Moving, splices: Splices, error: int) -> None:
    splices.results = [OSError(error, os.strerror(error))]
    send(moving, BULKY)
    moving.arrived(moving.client)
    assert carried(moving, BULKY) == BULKY
    assert moving.client.state & UNSPLICEABLE
    send(moving, BULKY)
    assert carried(moving, BULKY) == BULKY
    assert len(splices.counts) == 1
    assert_no_pipe_in_use(moving)


@not_here
@pytest.mark.parametrize("size", [10, SIZE, len(BULKY)])
def test_a_target_that_does_not_splice_gets_what_was_in_the_pipe_at_once(
    moving: Moving, splices: Splices, size: int, error: int
) -> None:
    """Its socket is writable already: no event will report that."""
    splices.write_errors = [OSError(error, os.strerror(error))]
    send(moving, BULKY[:size])
    moving.arrived(moving.client)
    while moving.client.state & READABLE and not moving.backend.state & STALLED:
        moving.transfer.pump(moving.client)
    assert not moving.backend.state & STALLED
    assert received(moving.backend_end, size) == BULKY[:size]
    assert moving.client.state & UNSPLICEABLE
    assert_no_pipe_in_use(moving)


@not_here
def test_a_stalled_target_that_does_not_splice_gets_what_was_in_the_pipe(
    stack: ExitStack, splices: Splices, error: int
) -> None:
    moving = stalled(stack)
    splices.write_errors = [OSError(error, os.strerror(error))]
    assert moving.carry(moving.client, lambda received: len(received) >= len(BULKY)) == BULKY
    assert_no_pipe_in_use(moving)


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    ("error", "again"),
    [(errno.EPERM, False), (errno.ENOSYS, False), (errno.EACCES, False), (errno.EINVAL, True)],
    ids=["EPERM", "ENOSYS", "EACCES", "EINVAL"],
)
def test_a_refusal_of_splicing_as_such_is_not_tried_with_others(
    stack: ExitStack, splices: Splices, side: str, error: int, again: bool
) -> None:
    first, second = Moving(stack), Moving(stack)
    second.transfer._pipes = first.pipes
    (splices.results if side == "source" else splices.write_errors).append(OSError(error, os.strerror(error)))
    for moving in (first, second):
        splices.counts.clear()
        send(moving, BULKY)
        moving.arrived(moving.client)
        assert carried(moving, BULKY) == BULKY
    assert bool(splices.counts) is again
    assert first.pipes.used == 0


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EINVAL])
@pytest.mark.parametrize("dead", ["source", "target"])
def test_an_error_of_a_dead_connection_is_no_refusal(
    moving: Moving, splices: Splices, dead: str, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where ICMPv6 has said "prohibited" before it timed out: a read would then find an end of stream."""
    leg: Leg = moving.client if dead == "source" else moving.backend
    monkeypatch.setattr("rproxy.carriers.splice.transfer.is_closed", lambda sock: sock is leg.sock)
    (splices.results if dead == "source" else splices.write_errors).append(OSError(error, os.strerror(error)))
    send(moving, BULKY)
    moving.arrived(moving.client)
    assert (moving.reported[0][1], moving.reported[0][0] in ("failed", "undelivered")) == (leg, True)
    assert not moving.client.state & EOF
    assert moving.pipes.used == 0
    pipe = moving.pipes.take()
    assert pipe is not None
    moving.pipes.release(pipe)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_without_a_descriptor_for_a_pipe_bytes_are_read(
    moving: Moving, splices: Splices, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_: object) -> tuple[int, int]:
        raise OSError(error, os.strerror(error))

    send(moving, BULKY)
    wait_for(moving.metered(moving.client))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pipe2", refuse)
        assert carried(moving, BULKY) == BULKY
    assert splices.counts == []
    assert not moving.client.state & UNSPLICEABLE
    send(moving, BULKY)
    assert carried(moving, BULKY) == BULKY
    assert splices.reads > 0


def test_when_all_pipes_are_taken_bytes_are_read(stack: ExitStack, splices: Splices) -> None:
    moving = Moving(stack, pipes=0)
    send(moving, BULKY)
    wait_for(moving.metered(moving.client))
    assert carried(moving, BULKY) == BULKY
    assert splices.counts == []


def reset_of_the_source(moving: Moving) -> None:
    reset(moving.client_end)
    moving.client.state |= DEAD
    moving.carry(moving.client, lambda _: bool(moving.reported))


def reset_of_the_target(moving: Moving) -> None:
    reset(moving.backend_end)
    wait_for(moving.metered(moving.backend))
    moving.transfer.flush(moving.backend)


def forgotten(moving: Moving) -> None:
    moving.backend.discard_unsent(moving.pipes)


@pytest.mark.parametrize("end", [reset_of_the_source, reset_of_the_target, forgotten])
def test_a_pipe_is_given_back_whatever_ends_a_stalled_transfer(stack: ExitStack, end: Callable[[Moving], None]) -> None:
    moving = stalled(stack)
    end(moving)
    assert_no_pipe_in_use(moving)


def test_a_pipe_with_bytes_in_it_is_closed_and_not_kept(stack: ExitStack) -> None:
    moving = stalled(stack)
    pipe = moving.backend.pipe
    assert pipe is not None
    moving.backend.discard_unsent(moving.pipes)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe.reader)


@pytest.mark.parametrize("dead", ["source", "target"])
def test_an_error_of_a_splice_loses_its_leg_and_gives_the_pipe_back(
    moving: Moving, splices: Splices, dead: str
) -> None:
    error = OSError(errno.ECONNRESET, "Connection reset by peer")
    (splices.results if dead == "source" else splices.write_errors).append(error)
    send(moving, BULKY)
    moving.arrived(moving.client)
    leg: Leg = moving.client if dead == "source" else moving.backend
    assert (moving.reported[0][1], moving.reported[0][0] in ("failed", "undelivered")) == (leg, True)
    assert moving.pipes.used == 0


def test_an_error_beats_the_end_of_a_spliced_stream(moving: Moving, splices: Splices) -> None:
    send(moving, BULKY, end=True)
    moving.arrived(moving.client, HUNG_UP | DEAD)
    received_first = moving.carry(moving.client, lambda _: bool(moving.reported))
    assert moving.reported == [("failed", moving.client)]
    assert received_first + received(moving.backend_end, len(BULKY) - len(received_first)) == BULKY
    assert not moving.session.half_closed
    assert splices.reads > 0
    assert_no_pipe_in_use(moving)


def test_both_directions_stalled_at_once_use_two_pipes_and_cause_no_events(stack: ExitStack) -> None:
    moving = Moving(stack, small="client, backend")
    for near in (moving.metered(moving.client), moving.metered(moving.backend)):
        fill(near)
    for used, (source, end) in enumerate(
        ((moving.client, moving.client_end), (moving.backend, moving.backend_end)), start=1
    ):
        for _ in range(9):  # on a busy machine the kernel makes room a little later where it was full
            fill(end)
            source.state |= BULK
            moving.arrived(source)
            if moving.pipes.used == used:
                break
    assert moving.pipes.used == 2
    while moving.epoll.poll(QUIET_MS / 1000):
        assert moving.pipes.used == 2
    assert moving.backend.state & moving.client.state & STALLED
