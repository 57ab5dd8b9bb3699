"""Rules 3 and 6 of the monitoring protocol: which answers to probes count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal, Rejected
from rproxy.pool.backend import Backend
from rproxy.pool.events import Events
from rproxy.pool.pool import Pool
from rproxy.wire.pdu import UINT32_MAX
from tests.pool.driving import AGENT, Answered, Driver, agent, refused

OTHER_PORT: Address = (AGENT[0], 5556)


Answer = Callable[[Driver, Backend], Answered]


def _unasked(driver: Driver, backend: Backend) -> Answered:
    return driver.answer(driver.probe(backend), after_s=0, token=UINT32_MAX)


def _wrong_sequence(driver: Driver, backend: Backend) -> Answered:
    probe = driver.probe(backend)
    return driver.answer(probe, sequence=probe.request.sequence + 1)


def _sequence_of_another_probe(driver: Driver, backend: Backend) -> Answered:
    first, second = driver.probe(backend), driver.probe(backend)
    return driver.answer(first, sequence=second.request.sequence)


def _wrong_host(driver: Driver, backend: Backend) -> Answered:
    return driver.answer(driver.probe(backend), source=("10.0.0.9", 5555))


def _wrong_port(driver: Driver, backend: Backend) -> Answered:
    return driver.answer(driver.probe(backend), source=OTHER_PORT)


def _probe_of_another_backend(driver: Driver, backend: Backend) -> Answered:
    other = driver.register(("10.0.0.9", 5555))
    driver.probe(backend)
    return driver.answer(driver.probe(other), source=AGENT)


def _twice(driver: Driver, backend: Backend) -> Answered:
    probe = driver.probe(backend)
    driver.answer(probe)
    return driver.answer(probe)


def _after_its_loss(driver: Driver, backend: Backend) -> Answered:
    probe = driver.probe(backend)
    driver.lose(probe)
    return driver.answer(probe)


def _after_the_timeout_but_before_its_loss(driver: Driver, backend: Backend) -> Answered:
    return driver.answer(driver.probe(backend), after_s=0.501)


def _after_it_was_forgotten(driver: Driver, backend: Backend) -> Answered:
    probe = driver.probe(backend)
    driver.unregister()
    return driver.answer(probe)


class TestWhichResponseCounts:
    """Rule 3."""

    @pytest.mark.parametrize("confirmed_before", [False, True], ids=["registered", "up"])
    @pytest.mark.parametrize(
        ("answer", "refusal"),
        [
            (_unasked, Refusal.UNKNOWN),
            (_wrong_sequence, Refusal.UNKNOWN),
            (_sequence_of_another_probe, Refusal.UNKNOWN),
            (_wrong_host, Refusal.WRONG_SOURCE),
            (_wrong_port, Refusal.WRONG_SOURCE),
            (_probe_of_another_backend, Refusal.WRONG_SOURCE),
            (_twice, Refusal.DUPLICATE),
            (_after_its_loss, Refusal.LATE),
            (_after_the_timeout_but_before_its_loss, Refusal.LATE),
            (_after_it_was_forgotten, Refusal.UNKNOWN),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_any_other_changes_nothing(
        self, driver: Driver, monkeypatch: pytest.MonkeyPatch, answer: Answer, refusal: Refusal, confirmed_before: bool
    ) -> None:
        """The state is compared around the last response, the one that is refused."""
        backend = driver.up() if confirmed_before else driver.register()
        states = []
        respond = Pool.respond

        def watched(pool: Pool, *args: Any) -> Events:
            states.append(attrs.asdict(pool))
            return respond(pool, *args)

        monkeypatch.setattr(Pool, "respond", watched)
        with pytest.raises(Rejected) as caught:
            answer(driver, backend)
        assert caught.value.refusal is refusal
        assert attrs.asdict(driver.pool) == states[-1]

    def test_one_exactly_at_the_timeout_counts(self, driver: Driver) -> None:
        backend = driver.register()
        driver.report(backend, after_s=driver.pool.timeout_s)
        assert backend.eligible

    def test_responses_may_come_out_of_order(self, driver: Driver) -> None:
        backend = driver.register()
        first, second = driver.probe(backend), driver.probe(backend)
        driver.answer(second, cpu=2)
        driver.answer(first, cpu=1)
        assert backend.losses.rate == 0
        assert backend.probing.outstanding == set()

    def test_a_refused_response_leaves_the_valid_one_its_effect(self, driver: Driver) -> None:
        backend = driver.register()
        probe = driver.probe(backend)
        with refused(driver.pool, Refusal.WRONG_SOURCE):
            driver.answer(probe, source=OTHER_PORT)
        driver.answer(probe)
        assert backend.eligible

    def test_a_late_response_does_not_take_its_loss_back(self, driver: Driver) -> None:
        backend = driver.up()
        probe = driver.probe(backend)
        driver.lose(probe)
        with refused(driver.pool, Refusal.LATE):
            driver.answer(probe)
        assert (backend.health.misses, backend.losses.rate) == (1, 0.5)

    def test_a_probe_is_lost_once(self, driver: Driver) -> None:
        backend = driver.up()
        probe = driver.probe(backend)
        driver.lose(probe)
        driver.lose(probe)
        assert (backend.health.misses, backend.losses.rate) == (1, 0.5)

    def test_an_answered_probe_cannot_be_lost(self, driver: Driver) -> None:
        backend = driver.up()
        probe = driver.probe(backend)
        driver.answer(probe)
        driver.lose(probe)
        assert (backend.health.misses, backend.losses.rate) == (0, 0.0)


class TestSequenceNumbers:
    """Rule 6."""

    def test_they_start_at_0_and_count_up_by_1_for_each_backend(self, driver: Driver) -> None:
        one, other = driver.register(agent(1)), driver.register(agent(2))
        probed = [one, one, other, one, other]
        assert [driver.probe(backend).request.sequence for backend in probed] == [0, 1, 0, 2, 1]

    def test_a_lost_probe_uses_its_number_up(self, driver: Driver) -> None:
        backend = driver.up()
        driver.lose(driver.probe(backend))
        assert driver.probe(backend).request.sequence == 2

    @pytest.mark.parametrize("sequence", [2**16 - 1, 2**31 - 1, UINT32_MAX - 1])
    def test_they_use_all_32_bits(self, driver: Driver, sequence: int) -> None:
        backend = driver.up()
        backend.probing.next_sequence = sequence
        assert [driver.probe(backend).request.sequence for _ in range(2)] == [sequence, sequence + 1]

    def test_after_the_last_comes_0(self, driver: Driver) -> None:
        backend = driver.up()
        backend.probing.next_sequence = UINT32_MAX
        last, first = driver.probe(backend), driver.probe(backend)
        assert (last.request.sequence, first.request.sequence) == (UINT32_MAX, 0)
        driver.answer(last)
        driver.answer(first)
        assert backend.losses.rate == 0
