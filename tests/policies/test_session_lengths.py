"""Lengths of sessions."""

from __future__ import annotations

from math import log

import pytest

from rproxy.policies.delay_record import DelayRecord
from rproxy.policies.session_lengths import HASTY, LONG_S, MEAN_OF_MEDIAN, SessionLengths
from rproxy.pool.backend import Backend, Registration
from tests.pool.driving import AGENT


def record_of() -> DelayRecord:
    return DelayRecord(Backend(AGENT[0], 80, Registration(AGENT, 1, 20, 100)), 0)


def ended(record: DelayRecord, lengths_s: list[float]) -> None:
    record.ended += len(lengths_s)
    record.log_lengths += sum(map(log, lengths_s))


def test_a_few_back_ends_whose_sessions_end_at_once_do_not_set_the_measure() -> None:
    lengths, records = SessionLengths(), [record_of() for _ in range(20)]
    for record in records:
        ended(record, [0.001] * 1000 if record is records[0] else [0.1] * 8)
        lengths.settle(record, 0, 1)
    assert lengths.scale_s == pytest.approx(MEAN_OF_MEDIAN * 0.1, rel=0.3)
    assert 0.001 < lengths.hasty_s < 0.1 * HASTY * 1.01


def test_one_back_end_alone_is_never_hasty() -> None:
    lengths, record = SessionLengths(), record_of()
    ended(record, [1.0])
    lengths.settle(record, 0, 1)
    assert lengths.hasty_s == 0


def test_sessions_that_are_still_open_show_that_they_are_long() -> None:
    lengths, record = SessionLengths(), record_of()
    for now in range(1, 60):
        lengths.settle(record, 10, now)
        record.settled_at = now
    assert lengths.long_share > 0.9


def test_a_mean_of_the_threshold_is_judged_half_by_cpu() -> None:
    lengths, record = SessionLengths(), record_of()
    for now in range(1, 1000):
        ended(record, [LONG_S])
        lengths.settle(record, 2, now)
        record.settled_at = now
    assert lengths.long_share == pytest.approx(0.5, abs=0.02)


def test_one_that_leaves_takes_its_length_with_it() -> None:
    lengths, stays, leaves = SessionLengths(), record_of(), record_of()
    for record, length_s in ((stays, 0.1), (leaves, 10.0)):
        ended(record, [length_s])
        lengths.settle(record, 0, 1)
    lengths.leave(leaves)
    assert lengths.scale_s == pytest.approx(MEAN_OF_MEDIAN * 0.1)
