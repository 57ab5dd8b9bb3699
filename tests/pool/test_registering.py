"""Rules 1, 2 and 4 of the monitoring protocol: which back-ends there are, and how they earn traffic."""

from __future__ import annotations

import pytest

from rproxy.net.addresses import Address
from rproxy.pool.admission import Refusal
from rproxy.pool.states import State
from tests.pool.driving import AGENT, Driver, refused

OTHER_PORT: Address = (AGENT[0], 5556)


class TestWhatABackendIs:
    """Rule 1."""

    def test_it_is_the_source_address_and_the_service_port(self, driver: Driver) -> None:
        one = driver.register(("10.0.0.1", 5555), service_port=80)
        other_port = driver.register(("10.0.0.1", 5556), service_port=81)
        other_host = driver.register(("10.0.0.2", 5555), service_port=80)
        assert len({one, other_port, other_host}) == 3
        assert [(b.address, b.port) for b in driver.pool] == [("10.0.0.1", 80), ("10.0.0.1", 81), ("10.0.0.2", 80)]

    def test_registering_again_is_the_same_backend(self, driver: Driver) -> None:
        assert driver.register() is driver.register()
        assert len(driver.pool) == 1

    def test_it_is_probed_where_its_registration_came_from(self, driver: Driver) -> None:
        assert driver.register(("2001:db8::5", 40000)).registration.agent == ("2001:db8::5", 40000)

    def test_service_port_0_is_the_default_port(self) -> None:
        driver = Driver(default_port=8080)
        backend = driver.register(service_port=0)
        assert backend.port == 8080
        assert driver.register(service_port=8080) is backend
        assert driver.pool.get("10.0.0.1", 8080) is backend

    def test_it_may_unregister_with_service_port_0(self) -> None:
        driver = Driver(default_port=8080)
        driver.register(service_port=0)
        driver.unregister(port=0)
        assert driver.pool.get("10.0.0.1", 8080) is None

    def test_a_registration_updates_interval_and_weight(self, driver: Driver) -> None:
        backend = driver.up()
        driver.register(interval_ms=500, weight=300)
        assert (backend.registration.interval_s, backend.registration.weight) == (0.5, 300)


class TestTrafficIsEarned:
    """Rule 2."""

    def test_registering_however_often_earns_no_traffic(self, driver: Driver) -> None:
        for _ in range(10):
            backend = driver.register()
        assert backend.state is State.REGISTERED
        assert driver.pool.eligible == []

    def test_a_probe_without_an_answer_earns_no_traffic(self, driver: Driver) -> None:
        driver.probe(driver.register())
        assert driver.pool.eligible == []

    def test_the_first_valid_response_earns_it(self, driver: Driver) -> None:
        backend = driver.register()
        confirmed = driver.report(backend, after_s=0.25, cpu=17, memory=89, load=3, tcp=4)
        assert driver.pool.eligible == [backend]
        assert confirmed.transition is not None
        assert (confirmed.transition.before, confirmed.transition.after) == (State.REGISTERED, State.UP)

    def test_a_valid_response_tells_load_and_round_trip_time(self, driver: Driver) -> None:
        backend = driver.up()
        confirmed = driver.report(backend, after_s=0.25, cpu=17, memory=None, load=3, tcp=4)
        report = backend.report
        assert (report.cpu, report.memory, report.load, report.tcp) == (17, None, 3, 4)
        assert backend.rtt.last_ms == confirmed.sample_ms == pytest.approx(250)
        assert confirmed.transition is None


class TestUnregistering:
    """Rule 4."""

    def test_the_registered_instance_takes_the_backend_away(self, driver: Driver) -> None:
        backend = driver.up()
        driver.probe(backend)
        transition = driver.unregister()
        assert transition is not None
        assert (transition.before, transition.after) == (State.UP, State.FORGOTTEN)
        assert (len(driver.pool), driver.pool.eligible, backend.probing.outstanding) == (0, [], set())

    def test_another_instance_changes_nothing(self, driver: Driver) -> None:
        driver.up(instance=1)
        with refused(driver.pool, Refusal.WRONG_INSTANCE):
            driver.unregister(instance=2)

    @pytest.mark.parametrize(("source", "port"), [(("10.0.0.2", 5555), 80), (AGENT, 81)])
    def test_for_another_backend_it_changes_nothing(self, driver: Driver, source: Address, port: int) -> None:
        driver.up()
        with refused(driver.pool, Refusal.UNKNOWN):
            driver.unregister(source, port=port)

    def test_a_replayed_one_changes_nothing(self, driver: Driver) -> None:
        driver.up()
        driver.unregister()
        with refused(driver.pool, Refusal.UNKNOWN):
            driver.unregister()

    @pytest.mark.parametrize("source", [AGENT, OTHER_PORT])
    def test_its_instance_cannot_register_again(self, driver: Driver, source: Address) -> None:
        driver.up(instance=1)
        driver.unregister(instance=1)
        with refused(driver.pool, Refusal.RETIRED):
            driver.register(source, instance=1)

    def test_it_stays_retired_while_its_successor_serves(self, driver: Driver) -> None:
        driver.up(instance=1)
        driver.unregister(instance=1)
        driver.up(instance=2)
        with refused(driver.pool, Refusal.RETIRED):
            driver.register(instance=1)

    def test_a_new_instance_may_register_at_once(self, driver: Driver) -> None:
        driver.up(instance=1)
        driver.unregister(instance=1)
        assert driver.up(instance=2).eligible

    def test_it_retires_the_instance_of_its_own_backend_only(self, driver: Driver) -> None:
        driver.up(("10.0.0.1", 5555), instance=1)
        driver.unregister(("10.0.0.1", 5555), instance=1)
        assert driver.up(("10.0.0.2", 5555), instance=1).eligible

    def test_an_unconfirmed_backend_may_unregister(self, driver: Driver) -> None:
        driver.register()
        transition = driver.unregister()
        assert transition is not None
        assert transition.before is State.REGISTERED
        assert len(driver.pool) == 0
