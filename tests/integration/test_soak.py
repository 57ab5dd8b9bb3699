"""Much of everything: bytes, bytes one by one, sessions, clients that never read; and a back-end that dies in the midst."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

import attrs
import pytest

from rproxy.carrying.pipes import KEPT
from tests.integration import churn
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.processes import (
    LOOPBACK,
    MB,
    PROJECT,
    PROMPT_S,
    RESTING,
    SMALL_BUFFER,
    Pool,
    Proxy,
    answer_to,
    environment,
    greet,
    in_background,
    receive,
)
from tests.integration.streams import Stream, check_stream, flood, send_paced, send_single_bytes, send_stream

pytestmark = every_carrier

TRICKLE: Final = 24 * MB
"""Bytes a second, each way."""
TRICKLE_S: Final = 3.0
SINGLE_BYTES: Final = 20_000
SESSION_MEMORY: Final = 256 * 1024
"""Bytes that a client may cost which never reads."""
VISITS_S: Final = 60.0
"""A hang is a failure, not the end of the run."""
AT_ONCE: Final = 300
ROUNDS: Final = 10


def test_a_steady_flow_both_ways_is_kept_up_with(pool: Pool) -> None:
    client, server = pool.link()
    started = time.monotonic()
    sending = in_background(send_paced, client, TRICKLE, TRICKLE_S), in_background(send_paced, server, TRICKLE, TRICKLE_S)
    arriving = in_background(check_stream, server), in_background(check_stream, client)
    assert_all_arrives(sending, arriving, 2 * TRICKLE_S)
    assert time.monotonic() - started < TRICKLE_S + PROMPT_S


def assert_all_arrives(sending: tuple[Future[int], ...], arriving: tuple[Future[int], ...], within_s: float) -> None:
    """What is sent is how much arrives; `check_stream` has compared the bytes."""
    assert [one.result(within_s) for one in arriving] == [one.result(within_s) for one in sending]
