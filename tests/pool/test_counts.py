"""Our sessions on a back-end, and the connections of its host."""

from __future__ import annotations

import pytest

from tests.pool.driving import Driver


class TestLiveConnections:
    """`Backend.tcp`: what the report said, and what we opened and closed since its probe left."""

    def test_sessions_opened_since_the_report_are_added(self, driver: Driver) -> None:
        backend = driver.up()
        driver.report(backend, tcp=7)
        driver.opened(backend, 3)
        assert backend.tcp == 10

    def test_sessions_established_when_the_probe_left_are_in_the_report(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        driver.report(backend, tcp=10)
        assert backend.tcp == 10

    def test_sessions_established_while_the_probe_was_under_way_are_added(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        probe = driver.probe(backend)
        driver.opened(backend, 2)
        driver.answer(probe, tcp=10)
        assert backend.tcp == 12

    def test_sessions_still_connecting_are_added_whatever_was_reported(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 2, connected=False)
        driver.report(backend, tcp=10)
        assert backend.tcp == 12
        driver.pool.connected(backend)
        assert backend.tcp == 12

    @pytest.mark.parametrize("connected", [True, False])
    def test_a_session_that_ends_is_subtracted(self, driver: Driver, connected: bool) -> None:
        backend = driver.up()
        driver.opened(backend, connected=connected)
        driver.close(backend, was_connected=connected)
        assert backend.tcp == 0

    def test_a_reported_session_that_ends_is_subtracted(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        driver.report(backend, tcp=10)
        driver.close(backend)
        assert backend.tcp == 9

    def test_a_new_report_replaces_what_was_added(self, driver: Driver) -> None:
        backend = driver.up()
        driver.report(backend, tcp=0)
        driver.opened(backend, 5)
        driver.report(backend, tcp=5)
        assert backend.tcp == 5

    def test_it_is_never_negative(self, driver: Driver) -> None:
        """The agent counted before our sessions reached it."""
        backend = driver.up()
        driver.opened(backend, 3)
        driver.report(backend, tcp=0)
        driver.close(backend)
        assert backend.tcp == 0

    def test_sessions_are_counted_by_what_they_are(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 3)
        driver.opened(backend, 2, connected=False)
        assert (backend.counts.pending, backend.counts.established, backend.connections, backend.counts.total) == (
            2,
            3,
            5,
            3,
        )
        driver.close(backend)
        driver.close(backend, was_connected=False)
        assert (backend.counts.pending, backend.counts.established, backend.connections, backend.counts.total) == (
            1,
            2,
            3,
            3,
        )


class TestEcho:
    """Rule 8: a probe bears our sessions, an answer those of other proxies."""

    def test_a_probe_bears_our_sessions_connecting_ones_included(self, driver: Driver) -> None:
        backend = driver.up()
        driver.opened(backend, 2)
        driver.opened(backend, connected=False)
        assert driver.probe(backend).request.sessions == 3
        driver.close(backend)
        assert driver.probe(backend).request.sessions == 2

    @pytest.mark.parametrize("others", [None, 0, 7])
    def test_an_answer_bears_those_of_other_proxies(self, driver: Driver, others: int | None) -> None:
        backend = driver.up()
        driver.report(backend, others=others)
        assert backend.report.others == others


class TestChoices:
    """What tells a source that clients come."""

    def test_clients_that_are_given_a_backend_are_counted(self, driver: Driver) -> None:
        assert driver.pool.choose(0.0) is None
        assert driver.pool.choices == 0
        backend = driver.up()
        driver.opened(backend, 3)
        assert driver.pool.would_choose(0.0) is backend
        assert driver.pool.choices == 3

    def test_whoever_waits_for_one_is_woken_by_it_and_by_nothing_else(self, driver: Driver) -> None:
        woken: list[int] = []
        driver.pool.wake = lambda: woken.append(driver.pool.choices)
        assert driver.pool.choose(0.0) is None
        backend = driver.up()
        driver.pool.would_choose(0.0)
        assert woken == []
        driver.opened(backend, 2)
        assert woken == [1, 2]
