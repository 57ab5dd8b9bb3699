"""The score that is displayed."""

from __future__ import annotations

import pytest

from rproxy.agent.sampler import Load
from rproxy.observe.scores import ReportScore
from rproxy.policies.formula import SATURATED
from rproxy.sessions.endings import Ending
from tests.fakes import confirm, registered
from tests.sessions.opening import Bench, taken


@pytest.mark.parametrize(("saturation", "saturated"), [(None, False), (0.95, False), (0.89, True), (0.70, True)])
def test_the_score_shown_is_the_reports_with_the_saturation_in_use(saturation: float | None, saturated: bool) -> None:
    bench = Bench(up=0)
    backend = registered(bench.pool, "10.0.0.1")
    confirm(bench.pool, backend, token=1, load=Load(17, 89, 0))
    expected = SATURATED if saturated else 0.15 + 0.085 + 0.445
    assert ReportScore(saturation)(backend) == pytest.approx(expected)


def test_the_score_shown_counts_our_own_sessions_since_the_last_report() -> None:
    bench = Bench(up=1)
    (backend,) = bench.pool
    before = ReportScore()(backend)
    session = bench.connected()
    taken(bench.open())
    assert ReportScore()(backend) == pytest.approx(before + 2 * 0.03)
    session.ended(Ending.CLOSED)
    assert ReportScore()(backend) == pytest.approx(before + 0.03)
