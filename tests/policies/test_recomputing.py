"""The record of a choice alone tells who won: 100,000 times, with every policy equally often."""

from __future__ import annotations

from collections import Counter

import pytest

from rproxy.observe.choices import ChoiceBook
from rproxy.pool.policy import NO_EXPLANATION
from tests.fakes import FakeLink
from tests.policies.choosing import NAMES, Turmoil

pytestmark = pytest.mark.no_cover

CHOICES = 100_000 // len(NAMES)
"""Of each policy."""


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_is_recomputed_from_its_record_to_the_same_winner(name: str) -> None:
    turmoil, right = Turmoil(name, 7), 0
    turmoil.pool.explain = lambda backend, now: NO_EXPLANATION  # the rules need none, and it takes time
    log = ChoiceBook(lambda: 0.0).add("default", turmoil.pool)
    chosen: Counter[str | None] = Counter()
    for number, client in enumerate(turmoil.clients(CHOICES)):
        backend = log.choose(number, FakeLink(), turmoil.now, client.exclude, client.address)
        turmoil.take(backend)
        winner = None if backend is None else backend.name
        right += log.kept[-1].recomputed() == log.kept[-1].chosen == winner
        chosen[winner] += 1
    assert right == CHOICES
    assert len(chosen) == 8
    assert 0 < chosen[None] < CHOICES / 10
