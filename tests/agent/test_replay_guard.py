"""Replayed probes are refused, and those of a restarted proxy accepted."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from rproxy.agent import replay_guard
from rproxy.agent.replay_guard import REORDER_MAX, RESTART_NUMBERS, SequenceGuard, TokenFilter

NUMBERS = 2**32


class ReplayGuard:
    """Both guards, as an agent has them for one proxy."""

    def __init__(self) -> None:
        self._tokens, self._sequence = TokenFilter(), SequenceGuard()
        self.forget_sequence = self._sequence.forget

    def accept(self, sequence: int, token: int) -> bool:
        return self._tokens.add(token) and self._sequence.accept(sequence)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(24)


def run_of_probes(rng: random.Random, length: int, first: int = 0) -> list[tuple[int, int]]:
    """The probes of a proxy, from its start or later."""
    return [((first + number) % NUMBERS, rng.getrandbits(64)) for number in range(length)]


def taken(guard: ReplayGuard, probes: list[tuple[int, int]]) -> Iterator[bool]:
    return (guard.accept(*probe) for probe in probes)


def test_every_probe_of_a_proxy_is_fresh_once(rng: random.Random) -> None:
    guard, probes = ReplayGuard(), run_of_probes(rng, 1000)
    assert all(taken(guard, probes))
    assert not any(taken(guard, probes))


def test_numbers_that_wrap_around_go_on(rng: random.Random) -> None:
    assert all(taken(ReplayGuard(), run_of_probes(rng, 1000, NUMBERS - 500)))


def test_a_restarted_proxy_is_fresh_at_once_also_where_its_first_probes_are_lost(rng: random.Random) -> None:
    guard = ReplayGuard()
    for missed in range(RESTART_NUMBERS):
        assert all(taken(guard, run_of_probes(rng, 100)))
        assert all(taken(guard, run_of_probes(rng, 100)[missed:]))


def test_a_restarted_proxy_whose_beginning_was_missed_is_fresh_after_the_silence(rng: random.Random) -> None:
    guard = ReplayGuard()
    assert all(taken(guard, run_of_probes(rng, 5000)))
    later = run_of_probes(rng, 300)[RESTART_NUMBERS:]
    assert not any(taken(guard, later[:10]))
    guard.forget_sequence()
    assert all(taken(guard, later[10:]))


def test_a_whole_life_replayed_in_order_is_not_fresh_in_a_later_one_however_short_that_is(rng: random.Random) -> None:
    guard, former = ReplayGuard(), run_of_probes(rng, 5000)
    assert all(taken(guard, former))
    assert all(taken(guard, run_of_probes(rng, 3)))
    assert not any(taken(guard, former))
    guard.forget_sequence()
    assert not any(taken(guard, former))
    assert all(taken(guard, run_of_probes(rng, 3)))


def test_numbers_of_the_present_life_are_old_however_long_ago_they_were_recorded(
    rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_guard, "TOKENS", 100)
    guard, probes = ReplayGuard(), run_of_probes(rng, 1000)
    assert all(taken(guard, probes))
    forgotten = probes[RESTART_NUMBERS:500]
    assert not any(taken(guard, forgotten))


def test_probes_that_overtake_each_other_are_fresh(rng: random.Random) -> None:
    probes = run_of_probes(rng, 200, 1000)
    for at in range(0, len(probes), REORDER_MAX):
        probes[at : at + REORDER_MAX] = reversed(probes[at : at + REORDER_MAX])
    assert all(taken(ReplayGuard(), probes))


def test_the_memory_is_bounded_and_hardly_ever_mistaken(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_guard, "TOKENS", 2000)
    monkeypatch.setattr(replay_guard, "_BITS", 2000 * 16)
    memory = TokenFilter()
    tokens = [rng.getrandbits(64) for _ in range(20_000)]
    mistaken = sum(not memory.add(token) for token in tokens)
    assert mistaken < 0.02 * len(tokens)
    assert len(memory._new) + len(memory._old) == 2 * 2000 * 16 / 8
    assert not any(memory.add(token) for token in tokens[-2000:])


def test_the_real_memory_holds_two_weeks_in_a_megabyte() -> None:
    assert replay_guard.TOKENS * 5 > 14 * 86_400
    assert 2 * replay_guard._BITS / 8 == 1 << 20


def test_the_memory_grows_with_the_number_of_proxies(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_guard, "TOKENS", 500)
    monkeypatch.setattr(replay_guard, "_BITS", 500 * 16)
    memory = TokenFilter(4)
    tokens = [rng.getrandbits(64) for _ in range(20_000)]
    mistaken = sum(not memory.add(token) for token in tokens)
    assert mistaken < 0.02 * len(tokens)
    assert len(memory._new) + len(memory._old) == 2 * 2000 * 16 / 8
    assert not any(memory.add(token) for token in tokens[-2000:])
