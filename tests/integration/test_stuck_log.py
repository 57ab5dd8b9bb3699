"""An unread log delays neither sessions nor the stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.integration.addresses import LOOPBACK
from tests.integration.http_client import get
from tests.integration.polling import READY_S, STOP_S, poll
from tests.integration.twistd import environment, twistd

FOLLOWED: Final = 1000
"""Requests that are traced, each in a line or more: far more than any pipe holds."""


def of_a_pipe() -> tuple[int, int]:
    return os.pipe()


def of_a_socket() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def of_a_terminal() -> tuple[int, int]:
    """Whose user looks at nothing: a pseudo-terminal's buffer is full, too."""
    return os.openpty()


@pytest.fixture
def output(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    ends: Callable[[], tuple[int, int]] = request.param
    reader, writer = ends()
    yield reader, writer
    for end in (reader, writer):
        with suppress(OSError):
            os.close(end)


@pytest.mark.parametrize(
    ("output", "carrier"),
    [(of_a_pipe, "splice"), (of_a_pipe, "portable"), (of_a_socket, "splice"), (of_a_terminal, "portable")],
    indirect=["output"],
)
def test_with_trace_and_a_log_that_nobody_reads_sessions_go_on_and_sigterm_ends_it(
    tmp_path: Path, output: tuple[int, int], carrier: str
) -> None:
    reader, writer = output
    options = [
        "--listen",
        f"{LOOPBACK}:0",
        "--monitor",
        f"{LOOPBACK}:0",
        "--demo",
        "1",
        "--trace",
        "--carrier",
        carrier,
    ]
    command = twistd("rproxy", *options, reactor="epoll")
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE) as process:
        try:
            begun = bytearray()

            def address() -> str | None:
                begun.extend(os.read(reader, 4096))
                found = re.search(rb"listening for clients on (\S+)[\s\S]*registered -> up", begun)
                return found[1].decode() if found else None

            url = f"http://{poll(address, READY_S, 'a back-end is up')}/"
            for _ in range(FOLLOWED):
                assert get(url) == b"hello from demo back-end 1\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_S) == -signal.SIGTERM
        finally:
            process.kill()
