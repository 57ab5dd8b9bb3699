"""Transfers of megabytes whose reader stops, goes on or goes away: nothing is lost, nothing is kept, nobody else waits.

A carrier may let the kernel move such data through pipes, of which it has but a few.
"""

from __future__ import annotations

import socket
import time
from typing import Final

import attrs
import pytest

from rproxy.carriers.splice.pipes import KEPT
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.polling import PROMPT_S, in_background, poll, result
from tests.integration.pools import Pool
from tests.integration.sockets import MB, SMALL_BUFFER, is_readable, receive, reset, unsent, wait_for_reset
from tests.integration.stopwatch import Stopwatch
from tests.integration.streams import (
    Stream,
    check_all,
    check_rest,
    check_some,
    check_stream,
    check_until_reset,
    flood,
    send_some,
    send_stream,
)
from tests.integration.twistd import RESTING, shell

pytestmark = every_carrier

BEGUN: Final = 1 * MB
"""Bytes of a transfer after which its carrier surely takes it for one."""
READ_BUFFER: Final = 1 << 16
both_ways = pytest.mark.parametrize("way", ["down", "up"])


@attrs.frozen
class Transfer:
    """One direction of a session."""

    reader: socket.socket
    writer: socket.socket
    received: Stream = attrs.Factory(Stream)
    sent: Stream = attrs.Factory(Stream)

    def begin(self) -> None:
        sending = in_background(send_some, self.writer, self.sent, BEGUN)
        check_some(self.reader, self.received, BEGUN)
        sending.result()


def transfer(client: socket.socket, server: socket.socket, way: str) -> Transfer:
    return Transfer(client, server) if way == "down" else Transfer(server, client)


def stall(*transfers: Transfer) -> None:
    """Their readers stop in the middle, and the writers go on until nothing is taken any more.

    What has not been received then, the proxy and the kernel hold; the readers' kernel but little of it.
    """
    for one in transfers:
        one.reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BUFFER)
        one.begin()
    flood({one.writer: one.sent for one in transfers})
    for one in transfers:
        one.reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MB)  # for the rest


def stalled(pool: Pool, way: str = "down") -> Transfer:
    one = transfer(*pool.link(), way)
    stall(one)
    return one


def pipes_in_use(pool: Pool) -> int:
    return pool.proxy.descriptors("pipe") // 2


@both_ways
def test_a_reader_that_had_stopped_gets_everything_before_the_end(pool: Pool, way: str) -> None:
    one = stalled(pool, way)
    one.writer.close()
    time.sleep(0.3)  # the reader pauses beyond the end
    assert check_rest(one.reader, one.received) == one.sent.size


def test_a_client_that_had_stopped_reading_gets_everything_before_the_reset(pool: Pool) -> None:
    """All that has arrived at the proxy; what the server's own kernel has yet to send, the reset destroys."""
    one = stalled(pool)
    arrived = one.sent.size - unsent(one.writer)
    reset(one.writer)
    time.sleep(0.3)  # the reader pauses beyond the reset
    assert arrived <= check_until_reset(one.reader, one.received) <= one.sent.size


def test_a_reset_by_the_client_ends_an_upload_that_the_server_has_stopped_to_read(pool: Pool) -> None:
    one = stalled(pool, "up")
    reset(one.writer)
    wait_for_reset(one.reader, PROMPT_S)


@both_ways
def test_a_reset_by_a_reader_that_had_stopped_ends_the_transfer(pool: Pool, way: str) -> None:
    one = stalled(pool, way)
    reset(one.reader)
    wait_for_reset(one.writer, PROMPT_S)


@both_ways
def test_a_reset_by_the_reader_in_full_flow_ends_the_transfer(pool: Pool, way: str) -> None:
    for client, server in pool.links(20):
        one = transfer(client, server, way)
        sending = in_background(send_stream, one.writer, 1000 * MB)
        check_some(one.reader, one.received, BEGUN)
        reset(one.reader)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            result(sending, PROMPT_S, "it ends")


@both_ways
def test_a_transfer_goes_on_when_its_reader_does(pool: Pool, way: str) -> None:
    size, step = 60 * MB, 10 * MB
    one = transfer(*pool.link(), way)
    sending = in_background(send_stream, one.writer, size)
    while one.received.size < size:
        time.sleep(0.2)
        watch = Stopwatch()
        check_some(one.reader, one.received, step)
        assert watch.own_s < PROMPT_S
    assert check_rest(one.reader, one.received) == size
    sending.result()


def test_the_other_direction_does_not_wait_for_a_reader_that_has_stopped(pool: Pool) -> None:
    one = stalled(pool)
    upload = Transfer(one.writer, one.reader)
    upload.begin()
    one.reader.shutdown(socket.SHUT_WR)
    assert check_rest(upload.reader, upload.received) == BEGUN
    one.writer.close()
    assert check_rest(one.reader, one.received) == one.sent.size


SIZES: Final = [
    size + more for size in (1 << 16, 1 << 17, 3 << 16, 1 << 18, 1 << 20, 17 << 16, 1 << 21) for more in (-1, 0, 1)
]
"""Around those of one read, of the first that are spliced, and of a pipe."""


@both_ways
def test_transfers_of_any_size_end_with_their_last_byte(pool: Pool, way: str) -> None:
    """Data and end of stream arrive together, with nothing after them to wake the proxy."""
    for size, (client, server) in zip(SIZES, pool.links(len(SIZES)), strict=True):
        one = transfer(client, server, way)
        sending = in_background(send_stream, one.writer, size)
        assert check_rest(one.reader, one.received) == size
        sending.result()
        one.reader.sendall(b"thank you")
        assert receive(one.writer, 9) == b"thank you"


def test_transfers_of_any_size_arrive_before_the_servers_reset(pool: Pool) -> None:
    for size, (client, server) in zip(SIZES, pool.links(len(SIZES)), strict=True):
        sending = in_background(send_some, server, Stream(), size)
        stream = Stream()
        check_some(client, stream, size // 2)
        sending.result()
        poll(lambda sock=server: not unsent(sock), PROMPT_S, "the proxy has it")  # type: ignore[misc]
        reset(server)
        assert check_until_reset(client, stream) == size


def test_without_a_pipe_slow_readers_get_everything_before_the_end(variant: Variant, start: Starter) -> None:
    """Of any size: with one of them, what the kernel has no room for is the last piece."""
    pool = start.pool(*variant.options, wrapper=shell("ulimit -n 54"))
    none = pipes_in_use(pool)
    for size in range(60_000, 6 * MB, 60_000):
        client, server = pool.link(client_buffer=SMALL_BUFFER)
        sending = in_background(send_stream, server, size)
        time.sleep(0.005)
        assert check_stream(client) == size
        sending.result()
        assert pipes_in_use(pool) == none
        client.close()
        server.close()


@both_ways
def test_an_urgent_byte_in_a_transfer_keeps_its_place(pool: Pool, way: str) -> None:
    """It stops a read of the kernel's short, which is then no end."""
    one = transfer(*pool.link(), way)
    one.begin()
    sending = in_background(send_urgent_between, one.writer, one.sent)
    check_some(one.reader, one.received, BEGUN)
    assert receive(one.reader, 1) == b"!"
    assert check_rest(one.reader, one.received) == 3 * BEGUN
    sending.result()


def send_urgent_between(sock: socket.socket, stream: Stream) -> None:
    send_some(sock, stream, BEGUN)
    sock.send(b"!", socket.MSG_OOB)
    send_some(sock, stream, BEGUN)
    sock.shutdown(socket.SHUT_WR)


def test_300_transfers_at_once(variant: Variant, start: Starter) -> None:
    """Half of them each way; there are fewer pipes, and few are kept."""
    size = 2 * MB
    pool = start.pool(*variant.options)
    none = pipes_in_use(pool)
    transfers = [
        transfer(client, server, "down" if number % 2 else "up")
        for number, (client, server) in enumerate(pool.links(300))
    ]
    sending = [in_background(send_stream, one.writer, size, number) for number, one in enumerate(transfers)]
    streams = {one.reader: Stream(number) for number, one in enumerate(transfers)}
    check_all(streams)
    assert {stream.size for stream in streams.values()} == {size}
    for one in sending:
        one.result()
    assert pipes_in_use(pool) - none <= KEPT


def test_pipes_are_given_back_whatever_the_end_and_no_byte_stays_in_one(variant: Variant, start: Starter) -> None:
    pool = start.pool(*variant.options)
    none = pipes_in_use(pool)
    transfers = [transfer(*pair, "down") for pair in pool.links(5 + KEPT + 3)]
    stall(*transfers)
    assert (pipes_in_use(pool) - none > KEPT) is (variant.carrier == "splice")
    for number, one in enumerate(transfers):
        end(one, number)
    pool.settled(within_s=PROMPT_S)
    assert pipes_in_use(pool) - none <= KEPT
    others = [transfer(*pair, "down") for pair in pool.links(KEPT)]
    stall(*others)
    for one in others:
        end(one, how=5)


def end(one: Transfer, how: int) -> None:
    """In one of five ways that leave bytes in the pipe, or, further on, well."""
    if how == 0:
        reset(one.reader)
    elif how == 1:
        reset(one.writer)
        reset(one.reader)
    elif how == 2:
        one.writer.close()
        reset(one.reader)
    elif how == 3:
        one.reader.shutdown(socket.SHUT_WR)
        assert receive(one.writer, 1) == b""
        reset(one.reader)
    elif how == 4:
        reset(one.writer)
        check_until_reset(one.reader, one.received)
    else:
        one.writer.close()
        assert check_rest(one.reader, one.received) == one.sent.size
    one.reader.close()
    one.writer.close()


def test_when_all_pipes_are_taken_others_are_served_all_the_same(variant: Variant, start: Starter) -> None:
    pool = start.pool(*variant.options, wrapper=shell("ulimit -n 200"))
    none = pipes_in_use(pool)
    transfers = [transfer(*pair, "down") for pair in pool.links(12)]
    stall(*transfers)
    assert 0 <= pipes_in_use(pool) - none < len(transfers)
    assert (pipes_in_use(pool) > none) is (variant.carrier == "splice")
    client, server = pool.link()
    sending = in_background(send_stream, server, 4 * BEGUN)
    assert check_stream(client) == 4 * BEGUN
    sending.result()
    for one in transfers:
        one.writer.close()
        assert check_rest(one.reader, one.received) == one.sent.size


def test_transfers_that_wait_cost_no_time(pool: Pool) -> None:
    """Whatever has arrived behind what is not read: nothing, an end of stream, or a reset."""
    plain, closed, half_closed = (stalled(pool) for _ in range(3))
    closed.writer.close()
    half_closed.reader.shutdown(socket.SHUT_WR)
    assert receive(half_closed.writer, 1) == b""
    upload = stalled(pool, "up")
    was_reset = stalled(pool)
    reset(was_reset.writer)
    assert pool.proxy.share_of_a_core() < RESTING
    assert not is_readable(plain.writer)
    assert not is_readable(upload.writer)
