"""`/metrics`, as prometheus_client and promtool read it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest
from prometheus_client import parser
from twisted.internet.task import Clock

from rproxy.admin import metrics_page
from rproxy.admin.metrics_page import MetricsPage
from rproxy.agent.sampler import Load
from rproxy.observe.backend_metrics import BACKEND_FAMILIES
from rproxy.observe.choices import ChoiceBook
from rproxy.observe.metric_family import Family
from rproxy.observe.process_metrics import PROCESS_FAMILIES
from rproxy.observe.publisher import Publisher
from rproxy.observe.service_metrics import SERVICE_FAMILIES
from rproxy.observe.shadow_json import ComparedPolicies
from rproxy.observe.shadow_metrics import SHADOW_FAMILIES
from rproxy.observe.status_json import SHOWN_STATES, ProcessFacts, Status
from rproxy.observe.suspicions import CLOCK, HERDING, LOST_PROBES, SERVICE_KINDS
from rproxy.policies.least_connections import LeastConnectionsPolicy
from rproxy.policies.round_robin import RoundRobinPolicy
from rproxy.policies.shadow import Shadow
from rproxy.pool.backend import Backend, StaticTerms
from rproxy.sessions.capacity import Capacity
from rproxy.sessions.endings import Ending
from rproxy.sessions.session import Session
from rproxy.sources.agents.counters import Counters
from rproxy.tap.service import ServedPool, serve_pool
from rproxy.wire.pdu import Unregister
from tests.conftest import need
from tests.fakes import FakeLink, confirm, pool_of, registered

FAMILIES: Final[list[Family[Any]]] = [*BACKEND_FAMILIES, *SERVICE_FAMILIES, *SHADOW_FAMILIES, *PROCESS_FAMILIES]
FACTS = ProcessFacts("1.2")
Sample = tuple[str, frozenset[tuple[str, str]]]


class Bench:
    """The page of some services, on a clock that the test moves."""

    def __init__(self, *names: str) -> None:
        self.clock = Clock()
        self.served = [self._serve(name) for name in names or ("web",)]
        self.pool = self.served[0].service.pool
        self.datagrams = Counters()
        self.doubts: list[dict[str, str]] = []
        self.capacity = Capacity(10, self.clock.seconds)
        self.status = Status(
            lambda: [each.view for each in self.served], self.datagrams, self.capacity, FACTS, lambda: self.doubts
        )
        self.lost_records = 0
        self.compared: list[ComparedPolicies] = []
        self.page = MetricsPage(self.status, lambda: self.compared, lambda: self.lost_records)

    def _serve(self, name: str) -> ServedPool:
        publish, pool = Publisher(), pool_of()
        served = serve_pool(pool, self.clock, name=name, counts_figures=True, publish=publish)
        publish.subscribe(served.view.figures.observers())
        served.service.notes_choices = True
        return served

    def backend(self, number: int = 1, **load: int | None) -> Backend:
        """One that is up."""
        backend = registered(self.pool, f"10.0.0.{number}")
        confirm(self.pool, backend, token=number, load=Load(**{"cpu": 17, "memory": 89, "tcp": 4, **load}))
        return backend

    def session(self, up: int = 0, down: int = 0) -> Session:
        """One that is connected."""
        session = Session(self.served[0].service, FakeLink(), "127.0.0.1:80")
        assert session.choose_backend() is not None
        session.connected()
        session.up, session.down = up, down
        return session

    def text(self) -> str:
        return b"".join(self.page.rendered()).decode()

    def samples(self) -> dict[Sample, float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parser.text_string_to_metric_families(self.text())
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """Of a metric of the service, with these further labels."""
        found = self.samples()
        return next(
            (
                found[key]
                for more in ({}, {"service": "web"})
                if (key := (name, frozenset({**labels, **more}.items()))) in found
            ),
            None,
        )

    def of_backend(self, name: str, **labels: str) -> float | None:
        """Of a metric of the first back-end."""
        return self.value(name, backend="10.0.0.1:80", **labels)


def test_promtool_finds_nothing_wrong() -> None:
    (promtool,) = need("promtool")
    bench = Bench("web", "api")
    bench.backend()
    bench.session().ended(Ending.CLOSED)
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=bench.text(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_family_is_shown_once_with_its_type() -> None:
    bench = Bench("web", "api")
    bench.backend()
    lines = bench.text().splitlines()
    typed = [line.split()[2:] for line in lines if line.startswith("# TYPE rproxy_") or "# TYPE process_" in line]
    assert typed == [[family.name, family.kind] for family in FAMILIES]


def test_names_are_those_of_no_other_family() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)


def test_python_tells_of_itself() -> None:
    assert {"python_info", "python_gc_collections_total"} <= {name for name, _ in Bench().samples()}


def test_a_back_end_has_exactly_one_state() -> None:
    bench = Bench()
    backend = bench.backend()
    states = ["registered", "up", "suspect", "down", "departed", "draining"]
    assert [bench.of_backend("rproxy_server_status", state=each) for each in states] == [0, 1, 0, 0, 0, 0]
    backend.draining = True
    assert [bench.of_backend("rproxy_server_status", state=each) for each in states] == [0, 0, 0, 0, 0, 1]


def test_sessions_and_bytes_are_those_of_the_status() -> None:
    bench = Bench()
    bench.backend()
    bench.session(up=3, down=5).ended(Ending.CLOSED)
    bench.session(up=30, down=50)
    Session(bench.served[0].service, FakeLink()).choose_backend()
    expected = {
        "rproxy_server_current_sessions": 2,
        "rproxy_server_sessions_total": 2,
        "rproxy_server_connection_attempts_total": 3,
        "rproxy_server_bytes_in_total": 3,
        "rproxy_server_bytes_out_total": 5,
    }
    assert {name: bench.of_backend(name) for name in expected} == expected
    of_service = {
        "rproxy_frontend_current_sessions": 2,
        "rproxy_frontend_sessions_total": 3,
        "rproxy_frontend_bytes_in_total": 3,
        "rproxy_backend_loadbalanced_total": 3,
        "rproxy_process_connections_total": 3,
        "rproxy_backend_total_time_seconds_count": 1,
    }
    assert {name: bench.value(name) for name in of_service} == of_service
    assert bench.value("rproxy_frontend_session_endings_total", ending="closed") == 1
    assert bench.value("rproxy_listener_sessions_total", listener="127.0.0.1:80") == 1


def test_failed_connects_are_counted_where_they_failed() -> None:
    bench = Bench()
    bench.backend(1)
    bench.backend(2)
    session = Session(bench.served[0].service, FakeLink())
    failed = session.choose_backend()
    assert failed is not None
    session.connect_failed()
    other = session.choose_backend()
    assert other is not None
    session.connected()
    counters = ("connection_attempts_total", "connection_errors_total", "redispatch_warnings_total", "sessions_total")
    shown = {
        each.name: [bench.value(f"rproxy_server_{name}", backend=each.name) for name in counters]
        for each in (failed, other)
    }
    assert shown == {failed.name: [1, 1, 1, 0], other.name: [1, 0, 0, 1]}
    assert bench.value("rproxy_backend_redispatch_warnings_total") == 1


def test_a_client_that_gives_up_is_an_attempt_and_no_error() -> None:
    bench = Bench()
    bench.backend()
    session = Session(bench.served[0].service, FakeLink())
    session.choose_backend()
    session.ended(Ending.CLIENT_GONE)
    assert bench.of_backend("rproxy_server_connection_attempts_total") == 1
    assert bench.of_backend("rproxy_server_connection_errors_total") == 0


def test_reported_percentages_are_ratios_and_times_are_seconds() -> None:
    bench = Bench()
    bench.backend(application=30)
    expected = {
        "rproxy_server_cpu_ratio": 0.17,
        "rproxy_server_memory_ratio": 0.89,
        "rproxy_server_load_ratio": 0.3,
        "rproxy_server_tcp_connections": 4,
        "rproxy_server_check_duration_seconds": 0.01,
        "rproxy_server_loss_ratio": 0,
        "rproxy_server_weight": 100,
    }
    assert {name: bench.of_backend(name) for name in expected} == pytest.approx(expected)


def test_what_is_not_known_is_left_out() -> None:
    bench = Bench()
    registered(bench.pool, "10.0.0.1")
    missing = {
        *("cpu_ratio", "memory_ratio", "load_ratio", "tcp_connections", "other_proxies_sessions", "score"),
        *("check_duration_seconds", "check_last_change_seconds", "limit_sessions", "report_age_seconds"),
    }
    shown = {name for name, labels in bench.samples() if ("backend", "10.0.0.1:80") in labels}
    all_names = {family.name for family in BACKEND_FAMILIES}
    assert all_names - shown == {f"rproxy_server_{name}" for name in missing}


def test_a_static_back_end_has_no_loss_and_its_own_weight() -> None:
    bench = Bench()
    bench.pool.static.put(("10.0.0.1", 80), StaticTerms(50, "connect"), 0.0)
    assert bench.of_backend("rproxy_server_weight") == 50
    assert bench.of_backend("rproxy_server_loss_ratio") is None


def test_time_down_goes_on_while_it_is_down() -> None:
    bench = Bench()
    backend = bench.backend()
    for token in (2, 3, 4):
        bench.pool.probe(backend, backend.registration, token, 0.0)
        bench.served[0].service.publish(bench.pool.lost(token, 0.0))
    bench.clock.advance(7)
    assert bench.of_backend("rproxy_server_downtime_seconds_total") == 7
    assert bench.of_backend("rproxy_server_check_last_change_seconds") == 7
    assert bench.of_backend("rproxy_server_check_up_down_total") == 1
    assert bench.of_backend("rproxy_server_check_failures_total") == 3


def test_a_histograms_buckets_add_up() -> None:
    bench = Bench()
    bench.backend()
    session = bench.session()
    bench.clock.advance(3)
    session.ended(Ending.CLOSED)
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in bench.samples().items()
        if name == "rproxy_backend_total_time_seconds_bucket"
    }
    assert (buckets["1.0"], buckets["5.0"], buckets["86400.0"], buckets["+Inf"]) == (0, 1, 1, 1)
    assert bench.value("rproxy_backend_total_time_seconds_sum") == 3


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\\nb", "ü", "\udc80"])
def test_labels_are_escaped(name: str) -> None:
    found = Bench(name).samples()
    assert ("rproxy_frontend_sessions_total", frozenset({("service", name.replace("\udc80", "?"))})) in found


def test_the_processes_totals_stay_when_a_service_goes_and_its_own_go() -> None:
    bench = Bench("web", "api")
    bench.backend()
    bench.session(up=3).ended(Ending.CLOSED)
    before = bench.value("rproxy_process_connections_total"), bench.value("rproxy_process_bytes_in_total")
    gone = bench.served.pop(0)
    bench.status.removed(gone.view)
    after = bench.value("rproxy_process_connections_total"), bench.value("rproxy_process_bytes_in_total")
    assert before == after == (1, 3)
    assert bench.value("rproxy_frontend_sessions_total") is None


def test_back_ends_come_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No piece has more lines than `AT_ONCE` back-ends, or a family's few of all services."""
    monkeypatch.setattr(metrics_page, "AT_ONCE", 4)
    monkeypatch.setattr(metrics_page, "AT_ONCE_SLOW", 2)
    bench = Bench()
    for number in range(1, 11):
        bench.backend(number)
    pieces = [piece.decode() for piece in bench.page.rendered()]
    of_backends = [[line for line in piece.splitlines() if "backend=" in line] for piece in pieces]
    one_a_line = [lines for lines in of_backends if lines and "rproxy_server_status" not in lines[0]]
    assert {len(lines) for lines in one_a_line} == {4, 2}
    assert max(map(len, of_backends)) == 2 * len(SHOWN_STATES)
    assert "".join(pieces).count("rproxy_server_score{") == 10


def test_one_that_is_forgotten_meanwhile_is_shown_no_more() -> None:
    bench = Bench()
    for number in (1, 2):
        bench.backend(number)
    pieces: Iterator[bytes] = bench.page.rendered()
    begun = [next(pieces), next(pieces)]
    assert b"10.0.0.2" in begun[1]
    bench.pool.unregister(("10.0.0.2", 5555), Unregister(80, 1), 0.0)
    rest = b"".join(pieces)
    assert b"10.0.0.1" in rest
    assert b"10.0.0.2" not in rest


def test_large_counts_lose_no_digit() -> None:
    bench = Bench()
    backend = bench.backend()
    bench.datagrams.dropped["late"] = backend.counts.bytes_up = 12_345_678_901
    assert bench.value("rproxy_datagrams_dropped_total", reason="late") == 12_345_678_901
    assert bench.of_backend("rproxy_server_bytes_in_total") == 12_345_678_901


def test_services_come_in_pieces_of_some_kilobytes() -> None:
    bench = Bench(*(f"service-{number}" for number in range(100)))
    pieces = [piece for piece in bench.page.rendered() if b'{service="' in piece]
    assert len(pieces) > 10
    assert max(map(len, pieces)) < 10 * metrics_page.PIECE_BYTES
    assert min(map(len, pieces[:-1])) >= metrics_page.PIECE_BYTES


def test_doubts_are_counted_by_service_and_kind() -> None:
    bench = Bench("web", "api")
    shown = [("web", HERDING), ("web", LOST_PROBES), ("web", LOST_PROBES), ("api", HERDING), ("", CLOCK)]
    bench.doubts = [{"service": service, "kind": kind} for service, kind in shown]
    counted = {kind: bench.value("rproxy_backend_doubts", kind=kind) for kind in SERVICE_KINDS}
    assert counted == {**dict.fromkeys(SERVICE_KINDS, 0), HERDING: 1, LOST_PROBES: 2}
    assert bench.value("rproxy_process_doubts", kind=CLOCK) == 1


def test_only_a_service_with_a_shadow_has_its_figures() -> None:
    bench = Bench()
    assert not [name for name, _ in bench.samples() if name.startswith("rproxy_shadow_")]
    shadow = Shadow(RoundRobinPolicy(), LeastConnectionsPolicy(), pytest.fail)
    bench.pool.replace_policy(shadow, 0.0)
    bench.compared = [ComparedPolicies("web", "round-robin", "least-connections", shadow)]
    for number in (1, 2):
        bench.backend(number)
    for _ in range(4):
        bench.session()
    shown = {name for name, _ in bench.samples() if name.startswith("rproxy_shadow_")}
    assert shown == {family.name for family in SHADOW_FAMILIES}
    assert bench.value("rproxy_shadow_choices_total") == 4
    assert bench.value("rproxy_shadow_differing_choices_total") == shadow.differed
    assert bench.value("rproxy_shadow_sessions_peak", role="acting") == 2
    deviation = bench.value("rproxy_shadow_sessions_deviation", role="shadow")
    assert deviation == pytest.approx(shadow.shadow_balance.recent(0)[0])


def test_the_version_is_shown_and_what_the_access_log_has_lost() -> None:
    bench = Bench()
    bench.lost_records = 3
    assert bench.value("rproxy_process_build_info", version="1.2") == 1
    assert bench.value("rproxy_process_dropped_logs_total") == 3


def test_choices_that_are_not_recorded_are_counted_where_they_are_recorded() -> None:
    bench = Bench()
    bench.backend()
    bench.session()
    assert bench.value("rproxy_backend_unrecorded_choices_total") is None
    bench.served[0].service.recorder = ChoiceBook(bench.clock.seconds).add("web", bench.pool)
    bench.pool.choose(0.0)
    assert bench.value("rproxy_backend_unrecorded_choices_total") == 1


def test_datagrams_are_counted_by_reason_even_those_that_did_not_happen() -> None:
    bench = Bench()
    bench.datagrams.dropped["late"] += 2
    assert bench.value("rproxy_datagrams_dropped_total", reason="late") == 2
    assert bench.value("rproxy_datagrams_dropped_total", reason="seal") == 0
    bench.datagrams.probes["held_back"] += 1
    assert bench.value("rproxy_probes_held_back_total") == 1
    causes: list[Any] = [dict(labels)["cause"] for name, labels in bench.samples() if name == "rproxy_probes_total"]
    assert sorted(causes) == ["on_demand", "periodic", "registration"]
