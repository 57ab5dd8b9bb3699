"""Mistakes in the TLS of a service are errors that name the key."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import pytest

from rproxy.config.model import SendTlsConfig, ServiceConfig, TlsConfig
from rproxy.config.tls import client_tls, server_tls
from rproxy.config.validators import ConfigError
from tests.certificates import Authority

PLAIN = ServiceConfig(prefix="service[1].", listen=("80", "443", "8443"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.root(tmp_path)


def test_without_tls_there_is_none() -> None:
    assert server_tls(PLAIN, "443") is None
    assert client_tls(PLAIN) is None


def test_a_listener_may_have_its_own(authority: Authority) -> None:
    one, two = (TlsConfig((authority.issue(name).pair,)) for name in ("one.example", "two.example"))
    config = attrs.evolve(PLAIN, tls=one, listen_tls={"8443": two})
    made = [server_tls(config, text) for text in ("443", "8443")]
    assert [each.config for each in made if each is not None] == [one, two]


def test_the_message_names_the_key_the_file_and_the_reason(authority: Authority, tmp_path: Path) -> None:
    good = authority.issue("one.example").pair
    none = str(tmp_path / "none")
    several, single = TlsConfig((good, (good[0], none))), TlsConfig(((none, none),))
    config = attrs.evolve(PLAIN, tls=several, listen_tls={"443": single})
    for text, key in [("80", "service[1].tls.key[1]"), ("443", "service[1].listen[1].tls.certificate")]:
        with pytest.raises(ConfigError) as caught:
            server_tls(config, text)
        assert str(caught.value) == f"{key} {none}: No such file or directory"
    with pytest.raises(ConfigError, match=r"^service\[1\]\.tls\.client-ca .*: no certificate there is that of an auth"):
        server_tls(attrs.evolve(PLAIN, tls=TlsConfig((good,), client_ca=good[0])), "80")
    for settings, key in [
        (SendTlsConfig(ca=none), "ca"),
        (SendTlsConfig(certificate=none), "certificate"),
        (SendTlsConfig(certificate=good[0], key=none), "key"),
    ]:
        with pytest.raises(ConfigError, match=rf"^service\[1\]\.send-tls\.{key} .*: No such file or directory$"):
            client_tls(attrs.evolve(PLAIN, send_tls=settings))


def test_without_pyopenssl_the_extra_is_named(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("OpenSSL", "service_identity")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("OpenSSL", "service_identity"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("rproxy.net.tls_")]:
        if name != "rproxy.net.tls_settings":
            monkeypatch.delitem(sys.modules, name)
    config = attrs.evolve(PLAIN, tls=TlsConfig((authority.issue("one").pair,)), send_tls=SendTlsConfig())
    expected = "TLS needs pyOpenSSL, which 'pip install rproxy[tls]' brings"
    with pytest.raises(ConfigError) as caught:
        server_tls(config, "80")
    assert str(caught.value) == f"service[1].tls: {expected}"
    with pytest.raises(ConfigError) as caught:
        client_tls(config)
    assert str(caught.value) == f"service[1].send-tls: {expected}"
