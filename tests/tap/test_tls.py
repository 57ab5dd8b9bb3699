"""A service's TLS is read again while it runs: what is in use stays where that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.logger import LogLevel

from rproxy.config.model import SendTlsConfig, ServiceConfig, TlsConfig
from rproxy.config.validators import ConfigError
from rproxy.tap.tls import ServiceTls
from tests.certificates import DAY, Authority, Files
from tests.fakes import logged, texts
from tests.net.handshakes import Client, trusting


@attrs.frozen
class Bench:
    authority: Authority
    files: Files
    config: ServiceConfig
    tls: ServiceTls

    def shown(self, text: str = "443") -> str:
        """The common name of the certificate that clients of a listener get."""
        server = self.tls.listener(text)
        assert server is not None
        return Client(server, trusting(self.authority.path), "one.example").shake_hands().common_name()

    def renew(self, common_name: str, **dates: Any) -> None:
        self.files.replace(self.authority.issue("one.example", file="renewed", common_name=common_name, **dates))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    authority = Authority.root(tmp_path)
    files = authority.issue("one.example", common_name="first")
    config = ServiceConfig(prefix="service[0].", listen=("443", "8443"), tls=TlsConfig((files.pair,)))
    return Bench(authority, files, config, ServiceTls(config))


def test_files_that_have_changed_are_used_from_now_on(bench: Bench) -> None:
    before = bench.tls.listener("443")
    bench.renew("renewed", ends=DAY * 3)
    with logged() as events:
        bench.tls.apply(bench.config)
    assert [bench.shown(text) for text in bench.config.listen] == ["renewed", "renewed"]
    assert bench.tls.listener("443") is before
    (line,) = texts(events)
    assert line.startswith(f"TLS certificates read again: 1; {bench.files.certificate} expires first, on 20")


def test_a_broken_file_keeps_what_there_was_and_is_one_line_for_each_listener(bench: Bench) -> None:
    bench.renew("renewed")
    bench.files.key.write_bytes(b"")
    with logged() as events:
        bench.tls.apply(attrs.evolve(bench.config, listen=("443",)))
    assert bench.shown() == "first"
    error, told = events
    assert error["log_level"] is LogLevel.error
    assert texts(events)[0] == (
        f"service[0].tls.key {bench.files.key}: there is no private key of the PEM format in it; "
        "clients get the certificates that they got before"
    )
    assert told["log_level"] is LogLevel.info
    assert bench.tls.kept == texts(events)[:1]
    bench.renew("renewed")
    bench.tls.apply(attrs.evolve(bench.config, listen=("443",)))
    assert bench.tls.kept == []


def test_what_is_new_must_be_good_or_nothing_changes(bench: Bench) -> None:
    bench.renew("renewed")
    broken = TlsConfig(((str(bench.files.key), str(bench.files.key)),))
    for config in [
        attrs.evolve(bench.config, listen=("443", "8443", "9443"), listen_tls={"9443": broken}),
        attrs.evolve(bench.config, send_tls=SendTlsConfig(ca=str(bench.files.key))),
    ]:
        with pytest.raises(ConfigError):
            bench.tls.apply(config)
        assert bench.shown() == "first"
    assert bench.tls.to_backends is None


def test_listeners_and_tls_come_and_go(bench: Bench) -> None:
    bench.tls.apply(attrs.evolve(bench.config, listen=("443", "9443"), send_tls=SendTlsConfig(verify=False)))
    assert bench.shown("9443") == "first"
    assert bench.tls.to_backends is not None
    bench.tls.apply(attrs.evolve(bench.config, tls=None))
    assert [bench.tls.listener(text) for text in bench.config.listen] == [None, None]
    assert bench.tls.to_backends is None


def test_tls_to_backends_is_replaced_within_and_kept_if_it_is_broken(bench: Bench) -> None:
    authority = bench.authority.path
    config = attrs.evolve(bench.config, tls=None, send_tls=SendTlsConfig(ca=str(authority)))
    tls = ServiceTls(config)
    kept = tls.to_backends
    assert kept is not None
    changed = SendTlsConfig(ca=str(authority), alpn=("h2",))
    tls.apply(attrs.evolve(config, send_tls=changed))
    assert (tls.to_backends, kept.config) == (kept, changed)
    authority.write_bytes(b"")
    with logged() as events:
        tls.apply(config)
    assert (tls.to_backends, kept.config) == (kept, changed)
    assert texts(events) == [
        f"service[0].send-tls.ca {authority}: there is no certificate of the PEM format in it; "
        "TLS to back-ends stays as it was"
    ]


def test_a_certificate_that_has_expired_is_a_warning_at_the_start_and_later(bench: Bench) -> None:
    bench.renew("old", ends=-DAY / 2)
    with logged() as events:
        tls = ServiceTls(bench.config)
    (event,) = events
    assert event["log_level"] is LogLevel.warn
    assert texts(events)[0].startswith(f"service[0].tls.certificate {bench.files.certificate}: the certificate has exp")
    with logged() as events:
        tls.apply(bench.config)
    assert [event["log_level"] for event in events] == [LogLevel.info, LogLevel.warn]
