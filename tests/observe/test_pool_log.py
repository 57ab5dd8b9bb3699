"""What any host can cause has a bounded number of lines, with totals, and the last one is up to date."""

from __future__ import annotations

import re

from twisted.internet.task import Clock

from rproxy.observe.pool_log import HOST_BURST, NAMED_MAX, PoolLog
from rproxy.pool.backend import Backend, Registration
from rproxy.pool.events import DrainingChanged, PanicChanged, PassedOver, Transitioned
from rproxy.pool.states import Event, State
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.fakes import logged, run, texts
from tests.pool.driving import agent


def backend(host: int = 1, port: int = 80) -> Backend:
    return Backend(agent(host)[0], port, Registration(agent(host), 1, 20.0, 100))


def change(log: PoolLog, changed: Backend, after: State) -> None:
    before, changed.state = changed.state, after
    log.changed(Transitioned(changed, before, after, Event.ANSWERED, "so"))


def sums(lines: list[str]) -> int:
    """Changes that the lines report."""
    return sum(int(found[1]) if (found := re.search(r": (\d+) changes of state", line)) else 1 for line in lines)


def test_a_host_that_registers_and_leaves_all_day_has_few_lines_with_the_totals() -> None:
    clock = Clock()
    log = PoolLog(clock, 1024, trace=False)
    with logged() as events:
        for _ in range(3600):
            passing = backend()
            change(log, passing, State.UP)
            change(log, passing, State.FORGOTTEN)
            run(clock, 1)
        run(clock, 60)
    lines = texts(events)
    assert len(lines) <= HOST_BURST + 361
    assert sums(lines) == 7200
    assert lines[-1].endswith("changes of state since the last line; now 10.0.0.1:80 forgotten")
    assert sum(len(line) for line in lines) * 24 < 2e6
    assert clock.getDelayedCalls() == []


def test_many_hosts_that_do_so_are_limited_in_all() -> None:
    clock = Clock()
    log = PoolLog(clock, 100, trace=False)
    with logged() as events:
        for _ in range(60):
            for host in range(250):
                passing = backend(host)
                change(log, passing, State.UP)
                change(log, passing, State.FORGOTTEN)
            run(clock, 1)
        run(clock, 600)
    lines = texts(events)
    assert len(lines) <= 200 + 61 + 250
    assert sums(lines) == 60 * 250 * 2


def test_a_pool_that_comes_up_has_a_line_for_each() -> None:
    clock = Clock()
    log = PoolLog(clock, 1024, trace=False)
    with logged() as events:
        for host in range(1024):
            change(log, backend(host), State.UP)
    assert len(texts(events)) == 1024


def test_a_line_with_a_total_names_some_back_ends() -> None:
    clock = Clock()
    log = PoolLog(clock, 1024, trace=False)
    with logged() as events:
        several = [backend(port=port) for port in range(1, HOST_BURST + 21)]
        for each in several:
            change(log, each, State.UP)
        change(log, several[-1], State.DOWN)
        run(clock, 60)
    *_, last = texts(events)
    assert last.startswith("back-ends on 10.0.0.1: 21 changes of state since the last line; now ")
    assert last.count("10.0.0.1:") == 1 + NAMED_MAX
    assert f"10.0.0.1:{HOST_BURST + 20} down and {20 - NAMED_MAX} more" in last


def test_a_panic_that_comes_and_goes_ends_with_the_truth() -> None:
    clock = Clock()
    log = PoolLog(clock, 1024, trace=False)
    with logged() as events:
        for number in range(1001):
            log.panic(PanicChanged(number % 2 == 0))
            run(clock, 0.1)
        run(clock, 60)
    lines = texts(events)
    assert len(lines) < HOST_BURST + 20
    assert lines[-1].startswith("less than half")


def test_no_request_is_logged_of_a_back_end_that_was_forgotten_meanwhile() -> None:
    clock = Clock()
    log = PoolLog(clock, 1024, trace=False)
    one = backend()
    one.state = State.UP
    with logged() as events:
        for draining in (True, False):
            one.draining = draining
            log.draining_changed(DrainingChanged(one))
        one.state = State.FORGOTTEN
        run(clock, 60)
    assert len(texts(events)) == 1


def test_a_request_just_before_an_agent_stopped_answering_is_logged_when_it_is_back() -> None:
    clock = Clock()
    log = PoolLog(clock, 1024, trace=False)
    one = backend()
    one.state = State.UP
    with logged() as events:
        for draining in (True, False):
            one.draining = draining
            log.draining_changed(DrainingChanged(one))
        change(log, one, State.DOWN)
        run(clock, 60)
        change(log, one, State.UP)
        run(clock, 60)
        change(log, one, State.DOWN)
        change(log, one, State.UP)
        run(clock, 60)
    asked = [line for line in texts(events) if "asks for" in line]
    assert [line.rpartition("asks for ")[2].partition(":")[0] for line in asked] == ["no new clients", "clients again"]


def test_one_that_is_passed_over_has_a_line_with_the_reason_and_another_when_that_ends() -> None:
    clock, changed = Clock(), backend()
    log = PoolLog(clock, 10, trace=False)
    with logged() as events:
        for reason in ("memory 97 %", ""):
            changed.passed_over = reason
            log.passed_over(PassedOver(changed, reason))
            clock.advance(LOG_EVERY_S)
    assert texts(events) == [
        "back-end 10.0.0.1:80: passed over while others are better off: memory 97 %",
        "back-end 10.0.0.1:80: no longer passed over",
    ]


def test_a_reason_that_comes_and_goes_has_one_line_in_a_while_with_the_truth() -> None:
    clock, changed = Clock(), backend()
    log = PoolLog(clock, 10, trace=False)
    with logged() as events:
        for number in range(40):
            changed.passed_over = "" if number % 2 else "memory 97 %"
            log.passed_over(PassedOver(changed, changed.passed_over))
        clock.advance(LOG_EVERY_S)
    assert texts(events) == [
        "back-end 10.0.0.1:80: passed over while others are better off: memory 97 %",
        "back-end 10.0.0.1:80: no longer passed over (39 times since the last line)",
    ]


def test_nothing_is_logged_of_one_that_has_gone_meanwhile() -> None:
    clock, changed = Clock(), backend()
    log = PoolLog(clock, 10, trace=False)
    with logged() as events:
        for reason in ("memory 97 %", "", "memory 98 %"):
            changed.passed_over = reason
            log.passed_over(PassedOver(changed, reason))
        changed.state = State.FORGOTTEN
        clock.advance(LOG_EVERY_S)
    assert len(texts(events)) == 1
