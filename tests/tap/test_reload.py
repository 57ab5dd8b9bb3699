"""A changed configuration is applied to a proxy that runs, on a reactor in memory."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from twisted.logger import LogLevel

from rproxy.config.keyfile import Keyring
from rproxy.config.model import BackendConfig, BackendLimits, ProxyConfig, ServiceConfig, TlsConfig
from rproxy.config.token_file import TokenFile
from rproxy.config.validators import ConfigError
from rproxy.policies.registry import POLICIES
from rproxy.sources.agents.prober import Timing
from rproxy.tap.reload_report import Outcome
from rproxy.tap.services import LOOK_EVERY_S
from rproxy.tap.startup import StartupError
from tests.certificates import Authority
from tests.config.keyfiles import FIRST, SECOND, key_file, seals_with, text_file
from tests.fakes import logged, run, texts
from tests.tap.services import MONITOR, ended
from tests.tap.test_several_services import DB, WEB, Bench

ANY = (ip_network("0.0.0.0/0"),)
OTHER = ("10.0.0.2", 5555)
THIRD = ServiceConfig("mail", ("2525",), 25, service_port=25, prefix="service[2].")


class Reloaded(Bench):
    """A proxy that runs, to which configurations are applied."""

    def __init__(self, *services: ServiceConfig, **settings: Any) -> None:
        super().__init__(*services, file="/etc/rproxy.toml", prefix="proxy.", allow=ANY, **settings)
        self.config = self.service._config
        self.start()

    def apply(self, *services: ServiceConfig, **settings: Any) -> None:
        self.service.apply(attrs.evolve(self.config, services=services, **settings))

    def tcp(self) -> list[int]:
        return sorted(port for kind, port in self.opened() if kind == "TCP")

    def names(self) -> list[str]:
        return [each["name"] for each in self.service.status()["services"]]

    def states(self) -> dict[tuple[str, str], str]:
        return {(row["service"], row["address"]): row["state"] for row in self.service.status()["backends"]}

    def settle(self) -> None:
        """Answer the probes that are sent in the next turns of the reactor."""
        for _ in range(3):
            self.reactor.advance(0)
            self.answer()


def test_a_reload_without_a_change_opens_and_closes_nothing() -> None:
    bench = Reloaded(WEB, DB)
    before = list(bench.reactor.ports)
    timers = len(bench.reactor.getDelayedCalls())
    with logged() as events:
        bench.apply(WEB, DB)
    assert bench.reactor.ports == before == bench.reactor.open_ports
    assert texts(events) == ["/etc/rproxy.toml read again: no service has changed"]
    run(bench.reactor, 0)
    assert len(bench.reactor.getDelayedCalls()) == timers


def test_services_and_listeners_come_and_go_and_those_that_stay_are_the_same() -> None:
    bench = Reloaded(WEB, DB)
    stays = bench.reactor.open_ports[1]
    with logged() as events:
        bench.apply(attrs.evolve(WEB, listen=("8080", "8081")), THIRD)
    assert (bench.names(), bench.tcp(), stays.open) == (["web", "mail"], [2525, 8080, 8081], True)
    assert texts(events) == [
        "web: listening for clients on [::]:8081",
        "mail: listening for clients on [::]:2525",
        "db: closed the listener on [::]:5432",
        "db: closed the listener on [::1]:5433",
        "service db: removed, and its last session has ended",
        "/etc/rproxy.toml read again: added: mail; changed: web; removed: db",
    ]
    bench.backend_up(25)
    bench.client(2525)
    assert bench.reactor.connects[-1].address == ("10.0.0.1", 25)


def test_sessions_and_rows_of_a_service_that_stays_do_not_notice() -> None:
    bench = Reloaded(WEB, DB)
    bench.backend_up(80)
    client = bench.client(8080)
    backend = bench.reactor.connects[-1].succeed()
    bench.apply(attrs.evolve(WEB, listen=("8081",), policy="least-connections", idle_timeout_s=60.0))
    assert bench.states() == {("web", "10.0.0.1"): "up"}
    client.receive(b"hello")
    bench.reactor.advance(0)
    assert backend.value() == b"hello"
    bench.client(8081)
    assert len(bench.reactor.connects) == 2


def test_a_listener_that_another_service_has_now_stays_open_and_its_new_clients_go_there() -> None:
    bench = Reloaded(WEB, DB)
    bench.backend_up(80)
    bench.backend_up(5432, OTHER)
    before = bench.client(5432)
    port = bench.reactor.open_ports[2]
    with logged() as events:
        bench.apply(attrs.evolve(WEB, listen=("5432",)), attrs.evolve(DB, listen=("8080",)))
    assert (port.open, bench.tcp(), len(bench.reactor.ports)) == (True, [5432, 8080], 4)
    assert "web: takes over the listener on [::]:5432" in texts(events)
    bench.client(5432)
    bench.client(8080)
    assert [each.address for each in bench.reactor.connects] == [
        ("10.0.0.2", 5432),
        ("10.0.0.1", 80),
        ("10.0.0.2", 5432),
    ]
    assert before.connected


def test_a_listener_that_cannot_be_opened_leaves_everything_as_it_was() -> None:
    bench = Reloaded(WEB, DB)
    bench.reactor.taken.add(2525)
    timers = len(bench.reactor.getDelayedCalls())
    terms = bench.service.service.terms
    with pytest.raises(StartupError, match=r"^cannot listen on service\[2\].listen 2525: Address already in use$"):
        bench.apply(attrs.evolve(WEB, listen=("8080", "8081"), wait_s=1.0), THIRD)
    assert (bench.names(), bench.tcp()) == (["web", "db"], [5432, 5433, 8080])
    assert (bench.service.service.terms, len(bench.reactor.getDelayedCalls())) == (terms, timers)
    bench.reactor.taken.clear()
    bench.apply(WEB, THIRD)
    assert (bench.names(), bench.tcp()) == (["web", "mail"], [2525, 8080])


def test_a_policy_that_cannot_be_made_leaves_everything_as_it_was() -> None:
    bench = Reloaded(WEB, DB)
    broken = attrs.evolve(WEB, listen=("8081",), policy="no-such-policy")
    with pytest.raises(ConfigError):
        bench.apply(THIRD, broken)
    assert (bench.names(), bench.tcp()) == (["web", "db"], [5432, 5433, 8080])
    assert bench.service.monitor.are_several


def test_a_service_that_has_gone_ends_with_its_last_session() -> None:
    bench = Reloaded(WEB, DB)
    timers = len(bench.reactor.getDelayedCalls())
    bench.backend_up(5432, OTHER)
    client = bench.client(5432)
    backend = bench.reactor.connects[-1].succeed()
    bench.apply(WEB)
    (_, db) = bench.service.status()["services"]
    assert (db["name"], db["leaving"], db["sessions"]) == ("db", True, 1)
    run(bench.reactor, 5)
    bench.answer()
    assert client.connected
    client.receive(b"last")
    bench.reactor.advance(0)
    assert backend.value() == b"last"
    client.reset()
    run(bench.reactor, LOOK_EVERY_S + 1)
    assert bench.names() == ["web"]
    assert bench.service.status()["counters"]["sessions"] == {"client-reset": 1}
    assert bench.service.status()["counters"]["bytes"]["up"] == 4
    assert len(bench.reactor.getDelayedCalls()) == timers - 3


def test_a_service_that_comes_back_while_it_is_leaving_is_the_same() -> None:
    bench = Reloaded(WEB, DB)
    bench.backend_up(5432, OTHER)
    bench.client(5432)
    bench.reactor.connects[-1].succeed()
    bench.apply(WEB)
    bench.apply(WEB, DB)
    assert (bench.names(), bench.tcp()) == (["web", "db"], [5432, 5433, 8080])
    assert bench.states() == {("db", "10.0.0.2"): "up"}
    assert [each["leaving"] for each in bench.service.status()["services"]] == [False, False]
    assert [each["sessions"] for each in bench.service.status()["services"]] == [0, 1]


def test_agents_that_are_another_services_now_are_probed_for_it_at_once() -> None:
    bench = Reloaded(WEB, DB)
    bench.backend_up(80)
    bench.backend_up(5432, OTHER)
    bench.apply(
        attrs.evolve(WEB, service_port=5432, backend_port=5432), attrs.evolve(DB, service_port=80, backend_port=80)
    )
    bench.settle()
    assert bench.states() == {("web", "10.0.0.2"): "up", ("db", "10.0.0.1"): "up"}


def test_a_service_under_another_name_has_the_agents_of_the_old_one() -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    bench.apply(attrs.evolve(WEB, name="www"))
    bench.settle()
    assert bench.states() == {("www", "10.0.0.1"): "up"}
    assert len(bench.reactor.ports) == 2


def test_agents_from_networks_that_are_no_longer_allowed_go() -> None:
    bench = Reloaded(WEB, DB)
    bench.backend_up(80)
    run(bench.reactor, 1)
    bench.backend_up(80, OTHER)
    bench.apply(WEB, allow=(ip_network("10.0.0.2/32"),))
    assert bench.states() == {("web", "10.0.0.2"): "up"}


def test_terms_and_timeouts_count_from_the_reload() -> None:
    bench = Reloaded(attrs.evolve(WEB, idle_timeout_s=0.0, end_on_down=False))
    bench.backend_up(80)
    client = bench.client(8080)
    bench.reactor.connects[-1].succeed()
    run(bench.reactor, 20)
    bench.apply(attrs.evolve(WEB, idle_timeout_s=16.0, end_on_down=False))
    run(bench.reactor, 15)
    assert client.connected
    run(bench.reactor, 3)
    assert not client.connected


def test_an_idle_timeout_that_is_longer_now_ends_nobody_by_what_the_shorter_one_has_counted() -> None:
    bench = Reloaded(attrs.evolve(WEB, idle_timeout_s=16.0, end_on_down=False))
    bench.backend_up(80)
    client = bench.client(8080)
    bench.reactor.connects[-1].succeed()
    run(bench.reactor, 15)
    bench.apply(attrs.evolve(WEB, idle_timeout_s=160.0, end_on_down=False))
    run(bench.reactor, 150)
    assert client.connected
    run(bench.reactor, 30)
    assert not client.connected


@pytest.mark.parametrize(("wait_s", "waits_s"), [(1.0, 1.0), (20.0, 20.0), (0.0, 0.0)])
def test_clients_that_wait_do_so_as_long_as_the_new_terms_say(wait_s: float, waits_s: float) -> None:
    bench = Reloaded(attrs.evolve(WEB, wait_s=5.0))
    client = bench.client(8080)
    bench.apply(attrs.evolve(WEB, wait_s=wait_s))
    run(bench.reactor, max(waits_s - 0.1, 0))
    assert client.connected is (waits_s > 0)
    run(bench.reactor, 0.3)
    assert not client.connected


def test_first_bytes_are_watched_from_the_reload_on_and_no_longer_after_another() -> None:
    bench = Reloaded(WEB)
    timers = len(bench.reactor.getDelayedCalls())
    bench.apply(attrs.evolve(WEB, first_byte_s=2.0))
    assert len(bench.reactor.getDelayedCalls()) == timers + 1
    assert bench.service.service.first_byte is not None
    bench.apply(WEB)
    assert bench.service.service.first_byte is None


def test_limits_of_the_process_change() -> None:
    bench = Reloaded(WEB)
    bench.apply(WEB, max_connections=7)
    assert bench.service.capacity.sessions_max == 7


def test_keys_that_a_restart_has_to_wait_for_are_named_in_one_line_and_stay() -> None:
    bench = Reloaded(WEB)
    changed: dict[str, Any] = {
        "monitors": (("10.1.1.10", 6666),),
        "timing": Timing(probe_interval_s=2.0),
        "admin": ("127.0.0.1", 8081),
        "carrier": "portable",
        "trace": True,
        "reuse_port": True,
    }
    with logged() as events:
        bench.apply(WEB, **changed)
    assert texts(events)[-1] == (
        "a restart has to come before these keys change: proxy.monitor, proxy.admin, proxy.reuse-port, proxy.trace, "
        "proxy.carrier, proxy.probe-interval"
    )
    assert [event["log_level"] for event in events] == [LogLevel.info, LogLevel.warn]
    assert bench.service._config.monitors == (MONITOR,)
    bench.apply(WEB, **changed)
    assert bench.opened()[0] == ("UDP", 5555)


def test_where_no_service_has_taken_agents_yet_they_register_at_the_ports_of_the_new_file() -> None:
    static = attrs.evolve(WEB, takes_agents=False)
    bench = Reloaded(static)
    bench.apply(static, monitors=(("127.0.0.1", 7777),))
    with logged() as events:
        bench.apply(WEB, DB, monitors=(("127.0.0.1", 6666),), allow=())
    assert [port for kind, port in bench.opened() if kind == "UDP"] == [6666]
    assert "restart" not in texts(events)[-1]
    with logged() as events:
        bench.apply(WEB, monitors=(("127.0.0.1", 7777),))
    assert texts(events)[-1] == "a restart has to come before these keys change: proxy.monitor"


def test_a_configuration_that_would_let_any_host_register_until_the_restart_is_refused() -> None:
    bench = Reloaded(WEB)
    with pytest.raises(ConfigError, match="who may register"):
        bench.apply(WEB, monitors=(("127.0.0.1", 5555),), allow=())
    assert bench.service.monitor.allow == ANY


TOKENS: Final = TokenFile("/run/tokens", (b"a-token-of-24-characters",))


def test_tokens_of_operators_are_those_of_the_file_that_was_read_last() -> None:
    bench = Reloaded(WEB)
    access = bench.service._operators.access
    assert access.tokens is None
    with logged() as events:
        bench.apply(WEB, admin_token_file=TOKENS)
        assert access.tokens == TOKENS.tokens
        bench.apply(WEB, admin_token_file=TOKENS)
        bench.apply(WEB)
        assert access.tokens is None
    told = [text for text in texts(events) if "tokens" in text]
    assert told == [f"tokens of operators have changed: there are {number}" for number in (1, 0)]


def test_a_listener_that_other_hosts_reach_keeps_its_tokens_until_a_restart() -> None:
    bench = Reloaded(WEB, admin=("10.1.1.10", 8081), admin_token_file=TOKENS)
    with pytest.raises(ConfigError, match="other hosts can reach it"):
        bench.apply(WEB, admin=("127.0.0.1", 8081), admin_token_file=None)
    assert bench.service._operators.access.tokens == TOKENS.tokens


def test_a_file_of_tokens_is_read_again_without_a_configuration_file_too(tmp_path: Path) -> None:
    path = text_file(tmp_path, "a-token-of-24-characters", name="tokens")
    bench = Reloaded(WEB, admin=("127.0.0.1", 8081), admin_token_file=TokenFile.read(str(path)))
    access = bench.service._operators.access
    text_file(tmp_path, "# both\nanother-of-24-characters\nthird-of-22-characters\n", name="tokens")
    with logged() as events:
        bench.service.read_again()
    assert access.tokens == (b"another-of-24-characters", b"third-of-22-characters")
    assert "tokens of operators read again" in texts(events)
    path.chmod(0o644)
    with logged() as events:
        bench.service.read_again()
    assert access.tokens == (b"another-of-24-characters", b"third-of-22-characters")
    assert any("others than its owner may use it" in text and "stay as they were" in text for text in texts(events))


def test_another_key_file_is_used_and_the_last_one_stays_until_a_restart(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    keyring = Keyring.read(str(key_file(first, FIRST)), derived=False)
    bench = Reloaded(WEB, keyring=keyring)
    other = Keyring.read(str(key_file(second, SECOND)), derived=False)
    bench.apply(WEB, keyring=other)
    assert seals_with(bench.service.monitor.envelope) == SECOND.id
    with logged() as events:
        bench.apply(WEB, keyring=None)
    assert seals_with(bench.service.monitor.envelope) == SECOND.id
    assert "a restart has to come before these keys change: proxy.keyring" in texts(events)


def test_the_port_for_agents_opens_when_the_first_service_takes_some() -> None:
    static = attrs.evolve(WEB, takes_agents=False)
    bench = Reloaded(static)
    assert bench.opened() == [("TCP", 8080)]
    bench.reactor.taken.add(5555)
    with pytest.raises(StartupError):
        bench.apply(WEB)
    bench.reactor.taken.clear()
    bench.reactor.taken.add(2525)
    with pytest.raises(StartupError):
        bench.apply(WEB, THIRD)
    assert bench.opened() == [("TCP", 8080)]
    bench.reactor.taken.clear()
    bench.apply(WEB)
    bench.backend_up(80)
    assert bench.states() == {("web", "10.0.0.1"): "up"}


STATIC = BackendConfig(("10.0.0.9", 80), check="none")


def test_static_back_ends_come_and_go() -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    bench.apply(attrs.evolve(WEB, backends=(STATIC,)))
    run(bench.reactor, 0)
    assert bench.states() == {("web", "10.0.0.1"): "up", ("web", "10.0.0.9"): "up"}
    bench.apply(attrs.evolve(WEB, backends=(STATIC,), service_port=81))
    run(bench.reactor, 0)
    assert bench.states() == {("web", "10.0.0.9"): "up"}
    bench.apply(attrs.evolve(WEB, service_port=81))
    run(bench.reactor, 0)
    assert bench.states() == {}


def test_clients_limits_and_headers_follow_the_file() -> None:
    bench = Reloaded(WEB)
    service = bench.service.service
    assert (service.gate, service.proxy_headers, service.outbound.send_proxy) == (None, None, 0)
    bench.apply(attrs.evolve(WEB, deny=ANY, proxy_protocol_from=ANY, send_proxy=2, max_connections=5))
    assert (service.outbound.send_proxy, service.capacity.sessions_max) == (2, 5)
    assert service.gate is not None
    assert not service.gate.admit("192.0.2.1")
    assert service.proxy_headers is not None
    bench.apply(WEB)
    assert service.outbound.send_proxy == 0
    assert bench.service.service.proxy_headers is None
    assert service.gate.admit("192.0.2.1")


def test_limits_of_back_ends_affinity_and_the_queue_follow_the_file() -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    for _ in range(2):
        bench.client(8080)
        bench.reactor.connects[-1].succeed()
    limited = attrs.evolve(WEB, each=BackendLimits(2, queue_timeout_s=50.0), affinity="source")
    bench.apply(limited)
    waiting = bench.client(8080)
    assert bench.service.service.chooses_by_client
    (web,) = bench.service.status()["services"]
    assert (web["full"], web["waiting"], web["sessions"]) == (1, 1, 3)
    bench.apply(attrs.evolve(limited, each=BackendLimits(3)))
    bench.reactor.advance(0)
    assert len(bench.reactor.connects) == 3
    assert waiting.connected
    bench.apply(WEB)
    assert not bench.service.service.chooses_by_client
    assert bench.service.status()["services"][0]["full"] == 0


def test_a_source_that_this_host_has_not_leaves_everything_as_it_was() -> None:
    bench = Reloaded(WEB)
    with pytest.raises(ConfigError, match=r"^service\[0\].source 192.0.2.77"):
        bench.apply(attrs.evolve(WEB, listen=("8081",), source=("192.0.2.77",)))
    assert bench.tcp() == [8080]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_takes_over_a_pool_with_sessions(policy: str) -> None:
    bench = Reloaded(attrs.evolve(WEB, policy="random"))
    bench.backend_up(80)
    clients = [bench.client(8080) for _ in range(3)]
    for connector in bench.reactor.connects:
        connector.succeed()
    with logged() as events:
        bench.apply(attrs.evolve(WEB, policy=policy))
        clients.append(bench.client(8080))
        bench.reactor.connects[-1].succeed()
        for client in clients:
            client.reset()
        run(bench.reactor, 2)
        bench.client(8080)
    assert len(bench.reactor.connects) == 5
    assert not any("policy failed" in text for text in texts(events))


class Outcomes(list[Outcome]):
    """What became of reloads, in the report's place."""

    def write(self, began_at: float, outcome: Outcome) -> None:
        self.append(outcome)

    def close(self) -> None:
        """Nothing to close."""


def reading(bench: Reloaded, read: Callable[[], ProxyConfig]) -> list[str]:
    """What is logged when the file is read again."""
    bench.service.reread = read
    with logged() as events:
        bench.service.read_again()
    return texts(events)


def test_a_broken_file_is_one_line_and_changes_nothing() -> None:
    bench = Reloaded(WEB, DB)

    def broken() -> ProxyConfig:
        raise ConfigError("rproxy.toml: service[1].listen[0]: port 99999 is above 65535 (and 2 more errors)")

    (line,) = reading(bench, broken)
    assert line == (
        "rproxy.toml: service[1].listen[0]: port 99999 is above 65535 (and 2 more errors); everything stays as it was"
    )
    assert bench.tcp() == [5432, 5433, 8080]


def test_a_broken_file_changes_no_keys_either(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    path = key_file(first, FIRST)
    bench = Reloaded(WEB, keyring=Keyring.read(str(path), derived=False))
    before = bench.service.monitor.envelope
    path.write_text(key_file(second, SECOND).read_text())

    def broken() -> ProxyConfig:
        raise ConfigError("rproxy.toml: service: is missing")

    assert reading(bench, broken) == ["rproxy.toml: service: is missing; everything stays as it was"]
    assert bench.service.monitor.envelope is before
    reading(bench, lambda: bench.config)
    assert bench.service.monitor.envelope is not before


def test_a_mistake_that_shows_only_when_it_is_applied_names_the_file() -> None:
    bench = Reloaded(WEB)
    (line,) = reading(bench, lambda: attrs.evolve(bench.config, max_connections=10**6))
    assert line.startswith("/etc/rproxy.toml: proxy.max-connections: 1000000: ")
    assert line.endswith("; everything stays as it was")


def test_certificates_that_cannot_be_used_are_reported_beside_what_has_changed(tmp_path: Path) -> None:
    files = Authority.root(tmp_path).issue("one.example")
    web = attrs.evolve(WEB, tls=TlsConfig((files.pair,)))
    bench, outcomes = Reloaded(web), Outcomes()
    bench.service._report = outcomes  # type: ignore[assignment]
    files.key.write_bytes(b"")
    reading(bench, lambda: attrs.evolve(bench.config, services=(web, DB)))
    reading(bench, lambda: bench.config)
    with_db, alone = outcomes
    why = f"web: service[0].tls.key {files.key}: there is no private key of the PEM format in it; clients get"
    assert [with_db.worked, alone.worked] == [False, False]
    assert with_db.text.startswith(f"/etc/rproxy.toml read again: added: db; {why}")
    assert bench.tcp() == [8080]


def test_a_reload_while_the_proxy_stops_or_has_not_started_does_nothing() -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    bench.client(8080)
    bench.reactor.connects[-1].succeed()
    stopped = ended(bench.service.stopService())
    assert reading(bench, lambda: attrs.evolve(bench.config, services=(WEB, DB))) == []
    run(bench.reactor, bench.config.drain_timeout_s + 1)
    assert (len(stopped), bench.opened(), bench.reactor.getDelayedCalls()) == (1, [], [])


def test_a_stop_ends_services_that_are_leaving_too() -> None:
    bench = Reloaded(WEB, DB)
    bench.backend_up(5432, OTHER)
    bench.client(5432)
    bench.reactor.connects[-1].succeed()
    bench.apply(WEB)
    stopped = ended(bench.service.stopService())
    run(bench.reactor, bench.config.drain_timeout_s + 1)
    assert (len(stopped), bench.opened(), bench.reactor.getDelayedCalls()) == (1, [], [])
