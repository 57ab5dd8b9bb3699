"""Transfers by reads and writes between real sockets; those through pipes are in test_splice_bulk.py."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from rproxy.carriers.splice.leg import ClientLeg, Leg, PeerAddress
from rproxy.carriers.splice.states import (
    CONNECTING,
    DEAD,
    EOF,
    HUNG_UP,
    NAGLE,
    READABLE,
    SHUT,
    STALLED,
    UNSPLICEABLE,
    WROTE,
)
from rproxy.carriers.splice.transfer import ROUNDS, SIZE
from tests.carriers.loopback import ends, fill, received, reset, stream
from tests.carriers.moving import Moving, leg_table


@pytest.fixture
def moving(stack: ExitStack) -> Moving:
    return Moving(stack)


def test_bytes_go_to_the_peer_and_are_counted_for_the_leg_they_came_from(moving: Moving) -> None:
    moving.client_end.send(b"question")
    moving.arrived(moving.client)
    moving.backend_end.send(b"answer!")
    moving.arrived(moving.backend)
    assert (received(moving.backend_end, 8), received(moving.client_end, 7)) == (b"question", b"answer!")
    assert (moving.client.count, moving.backend.count) == (8, 7)
    assert not (moving.client.state | moving.backend.state) & READABLE
    assert moving.reported == []


def test_a_short_read_needs_no_other_to_see_that_nothing_is_left(moving: Moving) -> None:
    moving.client_end.send(b"question")
    moving.arrived(moving.client)
    assert moving.metered(moving.client).reads == 1


def test_a_plain_leg_is_read_until_it_says_that_it_is_empty(moving: Moving) -> None:
    moving.client_end.send(b"question")
    moving.metered(moving.client).at_most = 3
    moving.arrived(moving.client, UNSPLICEABLE)
    assert (received(moving.backend_end, 8), moving.metered(moving.client).reads) == (b"question", 4)
    assert not moving.client.state & READABLE


def test_an_end_of_stream_is_passed_on_and_half_closes(moving: Moving) -> None:
    moving.client_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.client, HUNG_UP)
    assert moving.client.state & EOF
    assert moving.backend.state & SHUT
    assert not moving.client.state & READABLE
    assert (ends(moving.backend_end), moving.session.half_closed, moving.reported) == (True, True, [])
    moving.backend_end.send(b"answer")
    moving.backend_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.backend, HUNG_UP)
    assert (received(moving.client_end, 9), moving.reported) == (b"answer", [("finished", moving.client)])


def test_data_and_the_end_that_has_arrived_behind_it_are_one_read(moving: Moving) -> None:
    moving.client_end.send(b"question")
    moving.client_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.client, HUNG_UP)
    assert moving.metered(moving.client).reads == 1
    assert moving.client.state & EOF
    assert (received(moving.backend_end, 9), moving.reported) == (b"question", [])


def test_a_short_read_without_a_hang_up_is_not_the_end(moving: Moving) -> None:
    moving.client_end.send(b"question")
    moving.client_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.client)
    assert not moving.client.state & EOF
    assert not moving.backend.state & SHUT


def test_a_full_read_with_a_hang_up_is_not_the_end(moving: Moving) -> None:
    data = stream(SIZE + 10)
    moving.client_end.sendall(data)
    moving.client_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.client, HUNG_UP)
    assert received(moving.backend_end, len(data)) == data
    assert moving.client.state & EOF
    assert ends(moving.backend_end)


def test_an_urgent_mark_behind_which_a_read_stops_is_not_the_end(moving: Moving) -> None:
    moving.client_end.send(b"before")
    moving.client_end.send(b"!", socket.MSG_OOB)
    moving.client_end.send(b"behind")
    moving.client_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.client, HUNG_UP | UNSPLICEABLE)
    assert received(moving.backend_end, 14) == b"before!behind"


def test_a_back_ends_urgent_byte_is_in_line_from_the_first_read_on(moving: Moving) -> None:
    moving.backend_end.send(b"!", socket.MSG_OOB)
    moving.arrived(moving.backend, UNSPLICEABLE)
    assert received(moving.client_end, 1) == b"!"


def test_an_error_beats_the_end_of_stream(moving: Moving) -> None:
    moving.client_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.client, HUNG_UP | DEAD)
    assert moving.reported == [("failed", moving.client)]
    assert not moving.session.half_closed
    assert moving.backend.state & SHUT == 0


def test_a_reset_is_passed_on_after_what_had_arrived_before_it(moving: Moving) -> None:
    moving.client_end.send(b"last words")
    reset(moving.client_end)
    moving.arrived(moving.client, HUNG_UP | DEAD)
    assert received(moving.backend_end, 10) == b"last words"
    assert moving.reported == [("failed", moving.client)]
    assert moving.backend.state & SHUT == 0


def test_an_error_that_a_read_finds_first_is_reported(moving: Moving) -> None:
    reset(moving.client_end)
    moving.arrived(moving.client)
    assert moving.reported == [("failed", moving.client)]


@pytest.mark.parametrize("state", [CONNECTING | NAGLE, STALLED, DEAD])
def test_a_peer_that_cannot_be_written_to_is_not_read_for(moving: Moving, state: int) -> None:
    moving.client_end.send(b"early")
    other = moving.client.peer = Leg(moving.backend.sock, moving.session, state & (CONNECTING | NAGLE), moving.client)
    other.backlog = b"x"
    other.state |= state
    moving.arrived(moving.client)
    assert (moving.metered(moving.client).reads, bool(moving.client.state & READABLE)) == (0, True)
    moving.client.peer = moving.backend
    moving.transfer.pump(moving.client)
    assert received(moving.backend_end, 5) == b"early"


def test_a_leg_without_a_peer_is_not_read(moving: Moving) -> None:
    moving.client_end.send(b"late")
    moving.client.peer = None
    moving.arrived(moving.client)
    assert moving.metered(moving.client).reads == 0


SENT = stream(SIZE - 1)


def stalled(stack: ExitStack) -> Moving:
    """A back-end that has not taken all of `SENT`."""
    moving = Moving(stack, small="backend")
    assert moving.client_end.send(SENT) == len(SENT)
    while moving.client.count < len(SENT) and not moving.backend.state & STALLED:
        moving.arrived(moving.client)
    assert moving.backend.state & STALLED
    assert moving.backend.backlog is not None
    assert 0 < len(moving.backend.backlog) <= SIZE
    return moving


def test_what_a_slow_reader_does_not_take_arrives_later_and_in_order(stack: ExitStack) -> None:
    moving = stalled(stack)
    moving.client.state |= READABLE
    assert moving.carry(moving.client, lambda received: len(received) >= len(SENT)) == SENT
    assert (moving.backend.backlog, moving.backend.state & STALLED) == (None, 0)


def test_nothing_more_is_read_for_a_stalled_reader(stack: ExitStack) -> None:
    moving = stalled(stack)
    count, reads = moving.client.count, moving.metered(moving.client).reads
    fill(moving.client_end)
    moving.arrived(moving.client)
    moving.transfer.flush(moving.backend)
    assert (moving.client.count, moving.metered(moving.client).reads) == (count, reads)
    assert moving.backend.state & STALLED


def test_the_end_of_stream_comes_after_the_backlog(stack: ExitStack) -> None:
    moving = stalled(stack)
    moving.client_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.client, HUNG_UP)
    assert moving.backend.state & (STALLED | SHUT) == STALLED
    assert moving.carry(moving.client, lambda received: len(received) >= len(SENT)) == SENT
    moving.carry(moving.client, lambda _: bool(moving.backend.state & SHUT))
    assert ends(moving.backend_end)


def test_an_end_that_is_read_with_the_data_comes_after_what_the_reader_has_not_taken(stack: ExitStack) -> None:
    moving = Moving(stack, small="backend")
    assert moving.client_end.send(SENT) == len(SENT)
    moving.client_end.shutdown(socket.SHUT_WR)
    moving.arrived(moving.client, HUNG_UP)
    assert moving.client.state & EOF
    assert moving.backend.state & (STALLED | SHUT) == STALLED
    assert moving.carry(moving.client, lambda received: len(received) >= len(SENT)) == SENT
    assert ends(moving.backend_end)


def test_a_session_is_finished_only_when_the_backlog_is_out(stack: ExitStack) -> None:
    moving = stalled(stack)
    for end, leg in ((moving.backend_end, moving.backend), (moving.client_end, moving.client)):
        end.shutdown(socket.SHUT_WR)
        moving.arrived(leg, HUNG_UP)
    assert moving.backend.state & (EOF | STALLED) == EOF | STALLED
    assert moving.reported == []
    received_first = moving.carry(moving.client, lambda _: bool(moving.reported))
    assert [event for event, _ in moving.reported] == ["finished"]
    rest = received(moving.backend_end, len(SENT))
    assert received_first + rest == SENT


def test_a_dead_reader_is_reported_and_what_it_had_sent_is_passed_on(moving: Moving) -> None:
    moving.backend_end.send(b"last words")
    reset(moving.backend_end)
    moving.client_end.send(b"question")
    moving.arrived(moving.client)
    assert received(moving.client_end, 10) == b"last words"
    assert moving.reported == [("failed", moving.backend)]


def test_a_dead_reader_whose_last_data_cannot_be_passed_on_yet_is_undelivered(stack: ExitStack) -> None:
    moving = Moving(stack, small="client")
    fill(moving.metered(moving.client))
    moving.client.backlog = b"x"
    moving.client.state |= STALLED
    moving.backend_end.send(b"last words")
    reset(moving.backend_end)
    moving.client_end.send(b"question")
    moving.arrived(moving.client)
    assert moving.reported == [("undelivered", moving.backend)]
    assert moving.backend.state & DEAD
    assert moving.backend.state & READABLE
    assert moving.carry(moving.backend, lambda received: received.endswith(b"xlast words"))
    assert moving.reported[1:] == [("failed", moving.backend)]


def test_when_both_are_dead_the_session_is_dead_at_once(moving: Moving) -> None:
    moving.client_end.send(b"question")
    reset(moving.client_end)
    reset(moving.backend_end)
    moving.client.state |= DEAD
    moving.arrived(moving.client)
    assert [event for event, _ in moving.reported] == ["failed"]


def test_a_long_read_gives_way_to_others_and_causes_another_event(moving: Moving) -> None:
    moving.client_end.send(stream(10 * ROUNDS + 5))
    client = moving.metered(moving.client)
    client.at_most = 10
    moving.events()
    assert moving.events() == {}
    moving.arrived(moving.client, UNSPLICEABLE)
    assert (client.reads, moving.client.count) == (ROUNDS, 10 * ROUNDS)
    assert moving.client.state & READABLE
    assert client.fileno() in moving.events()
    moving.arrived(moving.client)
    assert received(moving.backend_end, 10 * ROUNDS + 5) == stream(10 * ROUNDS + 5)
    moving.events()
    assert moving.events() == {}


def no_delay(leg: Leg) -> bool:
    return bool(leg.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_a_back_ends_second_small_write_is_not_held_back(moving: Moving) -> None:
    moving.backend.state |= NAGLE
    moving.client_end.send(b"one")
    moving.arrived(moving.client)
    assert (no_delay(moving.backend), bool(moving.backend.state & WROTE)) == (False, True)
    moving.client_end.send(b"two")
    moving.arrived(moving.client)
    assert (no_delay(moving.backend), bool(moving.backend.state & NAGLE)) == (True, False)
    assert received(moving.backend_end, 6) == b"onetwo"


@pytest.mark.parametrize(("size", "at_once"), [(1024, False), (1025, True)])
def test_a_first_write_of_several_packets_is_not_held_back(moving: Moving, size: int, at_once: bool) -> None:
    moving.backend.state |= NAGLE
    moving.client_end.send(b"x" * size)
    moving.arrived(moving.client)
    assert no_delay(moving.backend) is at_once


def test_what_was_to_be_written_can_be_discarded(stack: ExitStack) -> None:
    moving = stalled(stack)
    moving.backend.discard_unsent(moving.pipes)
    assert (moving.backend.backlog, moving.backend.state & STALLED) == (None, 0)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("192.0.2.1", 1234), "192.0.2.1:1234"),
        (("::ffff:192.0.2.1", 1234, 0, 0), "192.0.2.1:1234"),
        (("2001:db8::1", 1234, 0, 0), "[2001:db8::1]:1234"),
        ("", "UNIX"),
        ("/run/client", "/run/client"),
        (b"\0abstract", "@abstract"),
    ],
)
def test_a_client_leg_has_the_address_of_its_client(moving: Moving, address: PeerAddress, expected: str) -> None:
    leg = ClientLeg(moving.client.sock, address, leg_table(moving.pipes).cut)
    leg.session = moving.session
    assert [leg.client_address() for _ in range(2)] == [expected] * 2


def test_reads_and_writes_do_not_wait(moving: Moving) -> None:
    """Accepted sockets are never set to non-blocking."""
    moving.client.sock.setblocking(True)
    moving.backend.sock.setblocking(True)
    moving.client.state |= READABLE | UNSPLICEABLE
    moving.transfer.pump(moving.client)
    assert moving.client.sock.gettimeout() is None
    assert moving.reported == []
