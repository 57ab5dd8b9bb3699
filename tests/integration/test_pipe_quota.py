"""An ordinary user with limited pipe memory: clients that never read do not slow others' bulk."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from rproxy.carriers.splice.pipes import CAPACITY, CAPACITY_MIN, KEPT
from tests.conftest import need
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.polling import in_background
from tests.integration.pools import Pool
from tests.integration.sockets import MB, SMALL_BUFFER
from tests.integration.stopwatch import Stopwatch
from tests.integration.streams import Stream, check_stream, flood, send_stream

pytestmark = every_carrier

USER: Final = 61234
"""A user without other processes, so that nothing else counts."""
STOPPED: Final = 100
SEND_BUFFER: Final = 256 * 1024
"""Of servers of these, in bytes."""
BULK: Final = 150 * MB
TOLERATED: Final = 4
"""How many times longer a transfer may take: bytes that are copied, at most twice as long, and a busy machine."""
TRIES: Final = 5
"""Transfers of which one must be in time: other tests run beside this one, and a loss of pipes would slow all."""
HOG: Final = """
import fcntl, os, sys
pipes = []
for _ in range(int(sys.argv[1])):
    pipes.append(os.pipe())
    fcntl.fcntl(pipes[-1][0], fcntl.F_SETPIPE_SZ, 1 << 20)
print("ready", flush=True)
sys.stdin.read()
"""


def as_user() -> list[str]:
    """A wrapper: a user with no privilege but to read and write any file."""
    (setpriv,) = need("setpriv", root=True)
    ids = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    return [setpriv, *ids, "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]


@pytest.fixture
def start() -> Iterator[Starter]:
    """In a folder of that user's, which it can get to: pytest's own is root's alone."""
    with TemporaryDirectory() as folder:
        os.chown(folder, USER, USER)
        starter = Starter(Path(folder))
        yield starter
        starter.close()


def quota() -> int:
    """Bytes in all pipes of an ordinary user."""
    return int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text()) * os.sysconf("SC_PAGESIZE")


@contextmanager
def hog(pipes: int) -> Iterator[None]:
    """Another program of that user has so many pipes of 1 MiB."""
    command = [*as_user(), sys.executable, "-c", HOG, str(pipes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        yield


def pipes_of(pid: int) -> dict[str, int]:
    """What each pipe of a process holds at most, by its name; reactors have some of their own."""
    found: dict[str, int] = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            name = os.readlink(path)
            if re.match("pipe:", name) and name not in found:
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                found[name] = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
                os.close(descriptor)
    return found


def stop_reading(pool: Pool, number: int) -> None:
    """So many clients that never read what their servers send. The kernel's own buffers are kept small: gigabytes in
    them take TCP to its limit of memory (tcp_mem), where the kernel drops packets of every connection there is.
    """
    pairs = [pool.link(client_buffer=SMALL_BUFFER) for _ in range(number)]
    for _, server in pairs:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    flood({server: Stream(at) for at, (_, server) in enumerate(pairs)})


def transfer_s(pool: Pool) -> float:
    client, server = pool.link()
    watch = Stopwatch()
    sending = in_background(send_stream, server, BULK)
    assert check_stream(client) == BULK
    sending.result()
    return watch.own_s


def test_clients_that_never_read_leave_the_user_its_pipes_and_others_their_rate(
    variant: Variant, start: Starter
) -> None:
    pool = start.pool(*variant.options, wrapper=as_user())
    own = pipes_of(pool.proxy.pid)
    before_s = min(transfer_s(pool) for _ in range(2))
    stop_reading(pool, STOPPED)
    used = {name: size for name, size in pipes_of(pool.proxy.pid).items() if name not in own}
    if variant.carrier == "splice":
        assert len(used) > KEPT
    assert sum(used.values()) <= quota() / 2
    assert all(size >= CAPACITY_MIN for size in used.values())
    assert any(transfer_s(pool) < TOLERATED * before_s for _ in range(TRIES))


@pytest.mark.parametrize("left", [0, 1])
def test_what_another_program_of_the_user_has_taken_costs_no_bytes(variant: Variant, start: Starter, left: int) -> None:
    """Then the kernel hands out pipes of 8 KiB, which are worse than none."""
    with hog(quota() // CAPACITY - left):
        pool = start.pool(*variant.options, wrapper=as_user())
        own = pipes_of(pool.proxy.pid)
        sizes: list[int] = []
        client, server = pool.link()
        sending = in_background(send_stream, server, BULK)
        checking = in_background(check_stream, client)
        while not checking.done():
            sizes += [size for name, size in pipes_of(pool.proxy.pid).items() if name not in own]
        assert checking.result() == sending.result() == BULK
        assert all(size >= CAPACITY_MIN for size in sizes)
