"""The simulation by which detection is measured, and a small run of it."""

from __future__ import annotations

from random import Random

import pytest

from tests.benchmarks.detection import (
    DAY_S,
    DETECTION_MAX_S,
    SETTLED_S,
    SILENT,
    Death,
    Ejections,
    VirtualTime,
    World,
    detect,
    false_ejections,
    measure,
    options,
)
from tests.benchmarks.outcomes import Outcome, at_most, exit_status, table

pytestmark = pytest.mark.no_cover


def test_calls_run_in_the_order_of_their_times_however_they_were_moved() -> None:
    clock = VirtualTime()
    seen: list[tuple[str, float]] = []
    calls = {
        name: clock.callLater(delay, lambda name=name: seen.append((name, clock.seconds())))
        for name, delay in [
            ("third", 3.0),
            ("first", 1.0),
            ("moved earlier", 9.0),
            ("moved later", 0.5),
            ("cancelled", 2.0),
        ]
    }
    calls["moved earlier"].reset(2.0)
    calls["moved later"].reset(4.0)
    calls["cancelled"].cancel()
    clock.run_until(5.0)
    assert seen == [("first", 1.0), ("moved earlier", 2.0), ("third", 3.0), ("moved later", 4.0)]
    assert clock.seconds() == 5.0


def test_without_losses_nobody_is_ejected_and_all_are_probed() -> None:
    world = World(Random(1), loss=0.0)
    world.clock.run_until(SETTLED_S + 600.0)
    assert world.ejections == []
    assert all(110 <= world.backend(agent).probing.next_sequence <= 140 for agent in world.agents)
    assert all(backend.losses.rate == 0 for backend in world.service.pool)


def test_losses_are_as_frequent_as_they_are_to_be() -> None:
    world = World(Random(1), loss=0.1)
    world.clock.run_until(SETTLED_S + 600.0)
    rates = [backend.losses.rate for backend in world.service.pool]
    assert 0.05 < sum(rates) / len(rates) < 0.15


def test_much_loss_ejects_backends_that_are_well() -> None:
    ejections = false_ejections(Random(1), 600.0 / DAY_S, loss=0.5)
    assert ejections.by_misses > 10
    assert ejections.a_day > 1000


def test_while_clients_come_losses_eject_fewer() -> None:
    """Answers to several probes a second tell a lossy path from a dead agent."""
    quiet, busy = (false_ejections(Random(1), 900.0 / DAY_S, loss=0.4, busy=busy) for busy in (False, True))
    assert quiet.number > 2 * busy.number


def test_ejections_of_several_runs_add_up() -> None:
    total = Ejections.total([Ejections(1.0, 3, 0), Ejections(3.0, 4, 2)])
    assert total == Ejections(4.0, 7, 2)
    assert (total.a_day, total.error) == (2.25, 0.75)


def test_a_death_is_detected_and_gets_no_client_after_the_first_miss() -> None:
    found = detect(Random(1), SILENT, 0.0)
    assert found.tries
    assert 0 < found.last_s < found.down_s < DETECTION_MAX_S + 1


@pytest.mark.parametrize("silent", [False, True])
def test_a_service_that_refuses_connects_gets_few_clients(silent: bool) -> None:
    found = detect(Random(1), Death(silent=silent, refuses=True), 0.0)
    assert 1 <= len(found.tries) <= 3


def test_the_same_seed_gives_the_same_figures() -> None:
    chosen = options(["--days", "0.001", "--busy-days", "0.0005", "--deaths", "2", "--seed", "5"])
    outcomes = measure(chosen, map)
    assert outcomes == measure(chosen, map)
    assert len(outcomes) == 1 + 2 + 3 * 4
    assert "false ejections/day, 0.001 days, 2 % lost" in table(["mean", "p99", "max"], outcomes)


@pytest.mark.parametrize("arguments", [["--days", "0"], ["--busy-days", "0"], ["--deaths", "0"]])
def test_nothing_to_do_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments)


def test_the_table_says_what_was_reached() -> None:
    outcomes = [
        at_most("clients", ["10", "7"], 10, 9.5),
        at_most("seconds", ["9", ""], 9, 9),
        Outcome("probes", ["1", "2"]),
    ]
    assert table(["mean", "max"], outcomes).splitlines() == [
        "======= ==== === =========== =======",
        "figure  mean max aim         outcome",
        "======= ==== === =========== =======",
        "clients   10   7 at most 9.5 missed",
        "seconds    9     at most 9   reached",
        "probes     1   2",
        "======= ==== === =========== =======",
    ]
    assert exit_status(outcomes) == 1
    assert exit_status(outcomes[1:]) == 0
