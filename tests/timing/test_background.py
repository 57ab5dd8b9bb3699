from __future__ import annotations

import threading

from rproxy.timing.background import Worker, in_thread


class Reactor:
    def __init__(self) -> None:
        self.called = threading.Event()
        self.results: list[object] = []

    def callFromThread(self, call: object, *arguments: object) -> None:
        self.results.append((call, *arguments))
        self.called.set()


def test_work_is_done_in_a_thread_that_does_not_delay_the_exit_and_its_result_is_the_reactors() -> None:
    reactor, done = Reactor(), print
    threads: list[threading.Thread] = []

    def work() -> int:
        threads.append(threading.current_thread())
        return 7

    in_thread(reactor, "some work")(work, done)
    assert reactor.called.wait(10)
    assert reactor.results == [(done, 7)]
    (thread,) = threads
    assert (thread.name, thread.daemon, thread is threading.main_thread()) == ("some work", True, False)


def test_a_worker_makes_its_calls_in_order_in_one_thread_which_ends_when_it_is_stopped() -> None:
    reactor, done = Reactor(), print
    worker = Worker(reactor, "some work")
    worker.stop()
    threads: list[threading.Thread] = []

    def work(number: int) -> int:
        threads.append(threading.current_thread())
        return number

    for number in range(3):
        worker(lambda number=number: work(number), done)  # type: ignore[misc]
    worker.stop()
    assert reactor.called.wait(10)
    threads[0].join(10)
    assert reactor.results == [(done, 0), (done, 1), (done, 2)]
    assert {(thread.name, thread.daemon, thread.is_alive()) for thread in threads} == {("some work", True, False)}
