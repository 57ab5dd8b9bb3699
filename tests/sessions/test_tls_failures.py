"""Failed TLS handshakes are counted, and logged seldom."""

from __future__ import annotations

from twisted.internet.task import Clock

from rproxy.sessions.tls_failures import TlsFailures
from rproxy.timing.rate_limit import LOG_EVERY_S
from tests.fakes import logged, pool_with, run, texts


def test_those_with_clients_are_one_line_in_ten_seconds() -> None:
    clock = Clock()
    failures = TlsFailures(clock)
    with logged() as events:
        for number in range(5):
            failures.with_client(f"192.0.2.1:{number}", "no shared cipher")
        assert texts(events) == ["192.0.2.1:0: TLS handshake failed: no shared cipher"]
        run(clock, LOG_EVERY_S)
    assert texts(events)[1:] == [
        "192.0.2.1:4: TLS handshake failed: no shared cipher (the last of 4 since the line before)"
    ]


def test_those_with_backends_are_one_line_for_each_in_ten_seconds_and_few_in_all() -> None:
    clock = Clock()
    failures = TlsFailures(clock)
    backends = list(pool_with(20))
    with logged() as events:
        for backend in backends * 2:
            failures.with_backend(backend, "its certificate has expired")
        first, *_ = texts(events)
        assert first == f"back-end {backends[0].address}:80: TLS handshake failed: its certificate has expired"
        assert len(events) == 8
        run(clock, 60)
    assert len(events) == 20 + 8
    assert failures.with_backends == 40


def test_nothing_is_left_when_it_has_stopped() -> None:
    clock = Clock()
    failures = TlsFailures(clock)
    for _ in range(2):
        failures.with_client("192.0.2.1:1", "no shared cipher")
    assert clock.getDelayedCalls()
    for _ in range(2):
        failures.stop()
    assert not clock.getDelayedCalls()
