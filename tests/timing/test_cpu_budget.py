"""A share of a core, with a burst."""

from __future__ import annotations

import pytest

from rproxy.timing.cpu_budget import CpuBudget


def done(budget: CpuBudget, *, each_s: float, every_s: float, seconds: float) -> int:
    """Pieces of work done, of those that could be begun in so many seconds."""
    count, now = 0, 1000.0
    for step in range(round(seconds / every_s)):
        now = 1000 + step * every_s
        if now >= budget.due:
            count += 1
            budget.spend(each_s, now)
    return count


def test_the_first_piece_is_due_at_once() -> None:
    assert CpuBudget().due < 0


def test_a_burst_is_spent_at_once_and_then_the_share() -> None:
    budget = CpuBudget(share=0.01, burst_s=0.05)
    assert done(budget, each_s=0.001, every_s=1e-6, seconds=0.001) == pytest.approx(50, abs=1)
    assert done(budget, each_s=0.001, every_s=0.001, seconds=100) == pytest.approx(1000, rel=0.02)


def test_at_a_rate_below_the_share_nothing_is_left_out() -> None:
    assert done(CpuBudget(share=0.01, burst_s=0.05), each_s=0.0001, every_s=0.011, seconds=100) == round(100 / 0.011)


def test_what_is_not_spent_is_saved_up_to_the_burst() -> None:
    budget = CpuBudget(share=0.01, burst_s=0.05)
    budget.spend(0.05, 0.0)
    budget.spend(0.01, 1e6)
    assert budget.due == pytest.approx(1e6 + 1 - 5)
