"""What a steady answer to a probe costs: Python calls, and changes between their files (each a likely cache miss)."""

from __future__ import annotations

import sys
from functools import partial
from itertools import count, pairwise
from types import FrameType
from typing import Any, Final

from twisted.internet.task import Clock

from rproxy.net.addresses import Address
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.pool.pool import Pool
from rproxy.pool.states import State
from rproxy.sources.agents.monitor import Monitor, Settings
from rproxy.sources.slow_start import SlowStart
from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register, decode, encode
from rproxy.wire.seal import Key, Sealed
from tests.fakes import run
from tests.policies.balancing import policy

AGENT: Final[Address] = ("10.0.0.1", 5555)
CALLS_MAX: Final = 35
FILE_CHANGES_MAX: Final = 12


class Steady:
    """A keyed monitor with all that observes its pool, and one back-end that is up; it is the transport, too."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.seconds = partial(getattr, self.clock, "rightNow")  # type: ignore[method-assign]  # C, as a reactor's
        tokens = count(1000)
        self.envelope = Sealed((Key(1, bytes(32)),))
        self.publish = Publisher()
        self.pool = Pool(policy("expected-delay"), self._complain)
        self.monitor = Monitor(self.clock, lambda: next(tokens), lambda: 0.5, self.envelope, Settings())
        for each in (
            self.monitor.add(self.pool, self.publish),
            SlowStart(self.clock, self.pool),
            PoolLog(self.clock, 1024, trace=False),
        ):
            self.publish.subscribe(each.observers())
        self.probes: list[ProbeRequest] = []
        transport: Any = self
        self.monitor.makeConnection(transport)
        self.monitor.datagramReceived(self.envelope.seal(encode(Register(80, 20_000, instance=1)), AGENT[0]), AGENT)

    def _complain(self) -> None:
        raise AssertionError("the policy raises nothing") from sys.exception()

    def write(self, datagram: bytes, address: Address) -> None:
        pdu = decode(self.envelope.open(datagram, address[0]))
        assert isinstance(pdu, ProbeRequest)
        self.probes.append(pdu)

    def answer(self, cpu: int) -> bytes:
        """The sealed answer to the last probe: another load each time, and with known figures."""
        probe = self.probes.pop()
        response = ProbeResponse(probe.sequence, probe.token, cpu=cpu, memory=20, load=None, tcp=cpu % 7)
        return self.envelope.seal(encode(response), AGENT[0])


def counted(steady: Steady, datagram: bytes) -> tuple[int, int, str]:
    """Calls and file changes from `datagramReceived` to its return, and where they were."""
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls.append((frame.f_code.co_filename, frame.f_code.co_name))

    sys.setprofile(note)
    try:
        steady.monitor.datagramReceived(datagram, AGENT)
    finally:
        sys.setprofile(None)
    changes = sum(before != after for (before, _), (after, _) in pairwise(calls))
    return len(calls), changes, "\n".join(f"{file}: {name}" for file, name in calls)


def test_a_steady_sealed_answer_takes_few_calls_in_few_files() -> None:
    steady = Steady()
    accepted = steady.monitor.counters.accepted
    for number in range(1, 20):
        run(steady.clock, 0.01)
        answers = accepted["probe-response"]
        calls, changes, where = counted(steady, steady.answer(number))
        assert accepted["probe-response"] == answers + 1
        (backend,) = steady.pool
        assert (backend.state, backend.report.cpu) == (State.UP, number)
        if number > 1:  # the first one brings it up
            assert calls <= CALLS_MAX, where
            assert changes <= FILE_CHANGES_MAX, where
        while not steady.probes:
            run(steady.clock, 0.1)
