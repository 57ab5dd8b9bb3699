"""Calls that the splice carrier makes for one client from accept to the connected back-end, with the real objects.

Counted are calls of Python functions, and how often a call is to another file than the one before. Such counts are the
same on every machine, so a change that adds to the cost of a connection fails here.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from contextlib import ExitStack
from types import FrameType

import pytest

from rproxy.carriers.splice.leg import CLOSED_SLOT
from rproxy.net.own_addresses import ephemeral_ports
from rproxy.observe.choices import ChoiceBook
from rproxy.policies.registry import POLICIES
from rproxy.timing.cpu_budget import CpuBudget
from tests.carriers.loopback import listening
from tests.carriers.splicing import Splicing

CALLS_MAX = 35
FILE_CHANGES_MAX = 15
OPERATORS_CALLS_MAX = 4
WARM_UP = 10
CLIENTS = 10
DESCRIPTORS = 1023
"""The table of descriptors has grown so far."""


class Calls:
    """The Python functions called while this is entered, as (file, name). The garbage collector, which others have
    callbacks for, does not run meanwhile.
    """

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is not Calls.__exit__.__code__:
            self.made.append((frame.f_code.co_filename, frame.f_code.co_qualname))

    def __enter__(self) -> Calls:
        gc.disable()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()

    @property
    def file_changes(self) -> int:
        return sum(one != other for (one, _), (other, _) in zip(self.made, self.made[1:], strict=False))

    def __str__(self) -> str:
        return "\n".join(f"{file.partition('/rproxy/')[2] or file} {name}" for file, name in self.made)


def established(bench: Splicing) -> int:
    return sum(each for _, each in bench.connections)


def connected_client(bench: Splicing) -> Calls:
    """A client that the carrier accepts and connects in one turn; again with another one if that takes two."""
    while True:
        sessions = established(bench) + 1
        bench.dial()
        with Calls() as calls:
            bench.carrier.doRead()
        if established(bench) == sessions:
            return calls
        while established(bench) < sessions:
            bench.turn(0.01)


@pytest.fixture
def bench(stack: ExitStack) -> Splicing:
    """Three back-ends, as in production: the default policy, a C function for a clock, ports below the ephemeral."""
    ports = range(ephemeral_ports().start - 1, 1024, -1)
    bench = Splicing(
        stack,
        *[listening(f"127.0.0.{number}", ports=ports) for number in (1, 2, 3)],
        policy=POLICIES["expected-delay"]({}, random.Random(1)),
        remember=False,
    )
    bench.service.seconds = time.monotonic
    bench.carrier._dispatcher.table.put(DESCRIPTORS, CLOSED_SLOT)
    for _ in range(WARM_UP):
        connected_client(bench)
    return bench


def test_a_client_from_accept_to_connected_takes_few_calls_and_few_changes_of_file(bench: Splicing) -> None:
    clients = [connected_client(bench) for _ in range(CLIENTS)]
    for calls in clients:
        assert len(calls.made) <= CALLS_MAX, str(calls)
        assert calls.file_changes <= FILE_CHANGES_MAX, str(calls)


def test_for_operators_a_choice_that_is_not_recorded_takes_few_calls_more(bench: Splicing) -> None:
    """Those that read the report's age and, for an access log with scores, the value that was compared."""
    pool, budget = bench.service.pool, CpuBudget()
    bench.service.recorder = log = ChoiceBook(time.time, budget=budget).add("default", pool)
    pool.notes_values = bench.service.notes_choices = True
    budget.spend(1e6, time.monotonic())
    for calls in [connected_client(bench) for _ in range(CLIENTS)]:
        assert len(calls.made) <= CALLS_MAX + OPERATORS_CALLS_MAX, str(calls)
    assert (len(log.kept), log.unrecorded) == (0, CLIENTS)
