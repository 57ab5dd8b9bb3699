"""Names are looked up in threads that hold up nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from rproxy.net.lookups import Lookups
from tests.integration.polling import poll


class Reactor:
    """Runs what threads hand over when the test says."""

    def __init__(self) -> None:
        self.handed: list[tuple[Any, ...]] = []

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        self.handed.append((call, *arguments))

    def run(self) -> None:
        poll(lambda: self.handed, 5, "the thread is done")
        while self.handed:
            call, *arguments = self.handed.pop()
            call(*arguments)


class NameServer:
    """In place of the system's; silent until `speak`."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.answer: list[str] | OSError = ["10.1.1.10"]
        self._speaking = threading.Event()

    def getaddrinfo(self, *arguments: object) -> list[tuple[object, ...]]:
        self.asked.append(arguments)
        assert self._speaking.wait(5)
        if isinstance(self.answer, OSError):
            raise self.answer
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, 0)) for host in self.answer]

    def speak(self) -> None:
        self._speaking.set()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.speak()


def results(deferred: Deferred[Sequence[str]]) -> list[Any]:
    seen: list[Any] = []
    deferred.addBoth(seen.append)
    return seen


@pytest.mark.parametrize(("host", "address"), [("10.1.1.10", "10.1.1.10"), ("2001:DB8:0::5", "2001:db8::5")])
def test_an_address_needs_no_looking_up(server: NameServer, host: str, address: str) -> None:
    assert results(Lookups(Reactor()).resolve(host)) == [[address]]
    assert server.asked == []


def test_a_name_is_looked_up_in_a_thread_and_has_all_its_addresses_in_their_order(server: NameServer) -> None:
    server.answer = ["2001:db8::5", "10.1.1.10", "10.1.1.11", "10.1.1.10"]
    reactor = Reactor()
    found = results(Lookups(reactor).resolve("proxy.example"))
    assert found == []
    server.speak()
    reactor.run()
    assert found == [["2001:db8::5", "10.1.1.10", "10.1.1.11"]]
    assert server.asked == [("proxy.example", None, socket.AF_UNSPEC, socket.SOCK_DGRAM)]


def test_a_name_that_is_not_found_fails(server: NameServer) -> None:
    server.answer = socket.gaierror(-2, "Name or service not known")
    reactor = Reactor()
    found = results(Lookups(reactor).resolve("proxy.example"))
    server.speak()
    reactor.run()
    assert found[0].check(socket.gaierror)


def test_a_silent_name_server_has_one_thread_a_name_however_often_it_is_asked_and_given_up(server: NameServer) -> None:
    reactor = Reactor()
    lookups = Lookups(reactor)
    for _ in range(20):
        given_up = lookups.resolve("proxy.example")
        failed = results(given_up)
        given_up.cancel()
        assert failed[0].check(CancelledError)
    found = results(lookups.resolve("proxy.example"))
    other = results(lookups.resolve("other.example"))
    server.speak()
    poll(lambda: len(reactor.handed) == 2, 5, "both threads are done")
    reactor.run()
    assert found == other == [["10.1.1.10"]]
    assert len(server.asked) == 2
    again = results(lookups.resolve("proxy.example"))
    reactor.run()
    assert again == [["10.1.1.10"]]


@pytest.mark.usefixtures("server")
def test_its_threads_do_not_keep_a_process_from_its_end() -> None:
    before = set(threading.enumerate())
    Lookups(Reactor()).resolve("proxy.example")
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
