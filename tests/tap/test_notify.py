"""What the service manager is told, on a notify socket of the test's own."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactorClock

from rproxy.tap.notify import STATUS_EVERY_S, Notifier
from rproxy.tap.process import reloading

WATCHDOG_S = 6.0


class Reactor(MemoryReactorClock):
    """Runs what is to be called when it runs, when told so."""

    def start(self) -> None:
        for call, arguments, keywords in self.whenRunningHooks:
            call(*arguments, **keywords)

    def stop(self) -> None:
        for phase in ("before", "after"):
            for call, arguments, keywords in self.triggers.get(phase, {}).get("shutdown", []):
                call(*arguments, **keywords)


class Manager:
    def __init__(self, folder: Path, *, abstract: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        path = str(folder / "notify")
        self.address = f"@{path}" if abstract else path
        self.socket.bind(f"\0{path}" if abstract else path)
        self.environment = {"NOTIFY_SOCKET": self.address, "OTHER": "1"}

    def told(self) -> list[list[str]]:
        """The messages since the last call, in lines."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return messages


@pytest.fixture(params=[False, True], ids=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path, abstract=request.param)
    yield manager
    manager.socket.close()


def test_it_is_ready_once_the_reactor_runs_and_stops_when_it_does(manager: Manager) -> None:
    reactor = Reactor()
    notifier = Notifier.of_environment(manager.environment)
    notifier.run_on(reactor, lambda: "3 session(s)")
    assert manager.told() == []
    reactor.start()
    assert manager.told() == [["READY=1", "STATUS=3 session(s)"]]
    reactor.stop()
    assert manager.told() == [["STOPPING=1"]]
    assert reactor.getDelayedCalls() == []


def test_the_status_is_sent_when_it_has_changed(manager: Manager) -> None:
    reactor, status = Reactor(), ["one"]
    Notifier.of_environment(manager.environment).run_on(reactor, lambda: status[0])
    reactor.start()
    manager.told()
    reactor.advance(STATUS_EVERY_S)
    assert manager.told() == []
    status[0] = "two"
    reactor.advance(STATUS_EVERY_S)
    assert manager.told() == [["STATUS=two"]]


def test_a_reactor_that_turns_says_so_three_times_in_the_watchdogs_time(manager: Manager) -> None:
    reactor = Reactor()
    manager.environment.update(WATCHDOG_USEC=f"{WATCHDOG_S * 1e6:.0f}", WATCHDOG_PID=f"{os.getpid()}")
    Notifier.of_environment(manager.environment).run_on(reactor)
    reactor.start()
    assert manager.told() == [["READY=1"], ["WATCHDOG=1"]]
    reactor.pump([WATCHDOG_S / 3] * 3)
    assert manager.told() == [["WATCHDOG=1"]] * 3
    reactor.stop()
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "", "WATCHDOG_PID": ""},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "-5"},
    ],
)
def test_a_watchdog_of_another_process_or_of_no_sense_is_none(manager: Manager, variables: dict[str, str]) -> None:
    reactor = Reactor()
    Notifier.of_environment({**manager.environment, **variables}).run_on(reactor)
    reactor.start()
    reactor.pump([0.3] * 10)
    assert manager.told() == [["READY=1"]]


def test_no_child_gets_the_variables(manager: Manager) -> None:
    manager.environment.update(WATCHDOG_USEC="1000000", WATCHDOG_PID=f"{os.getpid()}")
    Notifier.of_environment(manager.environment)
    assert manager.environment == {"OTHER": "1"}


def test_a_reload_is_told_with_its_time_even_if_it_fails(manager: Manager) -> None:
    class Process:
        notifier = Notifier.of_environment(manager.environment)

    seen: list[list[list[str]]] = []

    def reload() -> None:
        seen.append(manager.told())
        raise ValueError("broken")

    before = time.monotonic_ns() // 1000
    with pytest.raises(ValueError, match="broken"):
        reloading(Process, reload)()  # type: ignore[arg-type]
    (((first, second),),) = seen
    assert first == "RELOADING=1"
    found = re.fullmatch(r"MONOTONIC_USEC=(\d+)", second)
    assert found is not None
    assert before <= int(found[1]) <= time.monotonic_ns() // 1000
    assert manager.told() == [["READY=1"]]
    assert reloading(None, reload) is reload


def test_a_manager_waits_longer_while_sessions_are_left(manager: Manager) -> None:
    Notifier.of_environment(manager.environment).draining(5, 20.0)
    assert manager.told() == [["STATUS=stopping: 5 session(s) left", "EXTEND_TIMEOUT_USEC=20000000"]]


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/nowhere/notify", "@nobody", "/" + "x" * 200])
def test_a_manager_that_is_not_there_changes_nothing(address: str) -> None:
    reactor = Reactor()
    notifier = Notifier.of_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    notifier.run_on(reactor)
    reactor.start()
    reactor.pump([0.3] * 10)
    with notifier.reloading():
        pass
    notifier.draining(1, 1.0)
    reactor.stop()
    assert reactor.getDelayedCalls() == []


def test_a_manager_that_does_not_read_blocks_nothing(manager: Manager) -> None:
    notifier = Notifier.of_environment(manager.environment)
    for _ in range(2000):  # more than its buffer takes
        notifier.draining(1, 1.0)
    assert 0 < len(manager.told()) < 2000
