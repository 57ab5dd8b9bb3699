"""Where the kernel refuses splice(2), or pipes, bytes are read and written: nothing is lost, and one line is logged."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
from typing import Final

import pytest

from rproxy.carriers.splice.pipes import CAPACITY
from tests.integration.conftest import Starter, carrier_options
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, in_background
from tests.integration.pools import Pool
from tests.integration.seccomp import wrapper
from tests.integration.sockets import MB, SMALL_BUFFER, wait_for_reset
from tests.integration.streams import Stream, check_rest, check_some, send_stream

SIZE: Final = 20 * MB
SLOWLY: Final = 3 * MB
REFUSED: Final = r"bytes cannot be spliced \(([^)]*)\): they are read and written instead"
FORBIDDEN: Final = "Operation not permitted"
MISSING: Final = "Function not implemented"
DENIED: Final = "Permission denied"
FILLING: Final = f"splice:4:eq:{CAPACITY}"
"""A pipe is filled with as much as there is, and drained of what it holds."""
DRAINING: Final = f"splice:4:lt:{CAPACITY}"
LATE: Final = "splice:4:lt:20000"
"""The end of what a pipe holds, which a slow reader leaves: in the middle of a transfer."""
PIPES: Final = f"pipe2:1:eq:{os.O_NONBLOCK | os.O_CLOEXEC}"
"""The carrier's; Twisted's own block."""
UNSENDABLE: Final = 7919
SIZES: Final = f"fcntl:1:eq:{fcntl.F_SETPIPE_SZ}"

refusals = pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (["splice=EPERM"], FORBIDDEN),
        (["splice=ENOSYS"], MISSING),
        (["splice=EACCES"], DENIED),
        ([f"{FILLING}=EPERM"], FORBIDDEN),
        ([f"{DRAINING}=EPERM"], FORBIDDEN),
        ([f"{LATE}=EPERM"], FORBIDDEN),
        ([f"{LATE}=EINVAL"], ""),
        (["splice=EOPNOTSUPP"], ""),
        ([f"{PIPES}=EPERM"], FORBIDDEN),
        (["fcntl:1:eq:1031=EPERM"], ""),
    ],
    ids=["EPERM", "ENOSYS", "EACCES", "filling", "draining", "late", "late EINVAL", "EOPNOTSUPP", "pipes", "sizes"],
)


@refusals
def test_transfers_are_whole_where_splicing_is_refused(start: Starter, rules: list[str], reason: str) -> None:
    pool = start.pool(*carrier_options("splice"), wrapper=wrapper(*rules))
    for _ in range(10):  # what a slow reader leaves in a pipe is a matter of chance
        assert_whole(pool)
        if not reason or re.search(REFUSED, pool.proxy.log):
            break
    assert_whole(pool)
    assert re.findall("(?m)" + REFUSED, pool.proxy.log) == ([reason] if reason else [])
    assert len(re.findall("cannot be spliced", pool.proxy.log)) <= 1
    assert set(pool.proxy.sessions()) == {"closed"}
    assert failures(pool.proxy.log) == []


def test_the_portable_carrier_needs_none_of_it(start: Starter) -> None:
    pool = start.pool(*carrier_options("portable"), wrapper=wrapper("splice=EPERM", f"{PIPES}=EPERM"))
    assert_whole(pool)
    assert "spliced" not in pool.proxy.log


@pytest.mark.parametrize("way", ["down", "up"])
def test_where_sending_itself_is_refused_the_session_is_reset_and_no_other(start: Starter, way: str) -> None:
    pool = start.pool(*carrier_options("splice"), wrapper=wrapper(f"sendto:2:eq:{UNSENDABLE}=EPERM"))
    client, server = pool.link()
    writer, reader = (server, client) if way == "down" else (client, server)
    writer.sendall(b"x" * UNSENDABLE)
    for sock in (writer, reader):
        wait_for_reset(sock, PROMPT_S)
    assert_whole(pool)


def assert_whole(pool: Pool) -> None:
    """Both ways at once, to readers that are fast and to one that is slow and stops now and then."""
    both, slow = pool.link(), pool.link(client_buffer=SMALL_BUFFER)
    sending = [in_background(send_stream, sock, SIZE, start) for start, sock in enumerate(both)]
    sending.append(in_background(send_stream, slow[1], SLOWLY))
    reading = [in_background(check_rest, sock, Stream(1 - start)) for start, sock in enumerate(both)]
    assert read_slowly(slow[0]) == SLOWLY
    assert [read.result() for read in reading] == [SIZE, SIZE]
    for sent in sending:
        sent.result()
    for sock in (*both, *slow):
        sock.close()
    pool.settled(within_s=5)


def read_slowly(sock: socket.socket) -> int:
    """All to the end; how much."""
    stream = Stream()
    for _ in range(10):
        check_some(sock, stream, 100_000)
        time.sleep(0.02)
    return check_rest(sock, stream)
