"""TLS towards back-ends: by which name they are asked for, which are trusted, and what is said of others."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
from OpenSSL import SSL

from rproxy.net.tls_client import ClientTls
from rproxy.net.tls_settings import SendTlsConfig, TlsFileError
from tests.certificates import DAY, Authority, Files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.root(tmp_path)


@attrs.define
class Outcome:
    """What came of a handshake with a back-end."""

    asked: str | None = None
    """The name that the back-end was asked for (SNI)."""
    distrust: list[str] = attrs.Factory(list)
    error: str = ""
    protocol: bytes = b""
    client: str = ""
    """The common name of our certificate."""


def shake_hands(
    config: SendTlsConfig, host: str, files: Files, client_ca: Path | None = None, alpn: str = ""
) -> Outcome:
    """Of a back-end on Python's own TLS that has the certificate in `files`."""
    context = files.server_context(client_ca, alpn)
    outcome = Outcome()

    def asked(_tls: Any, name: str | None, _own: Any) -> None:
        outcome.asked = name

    context.sni_callback = asked
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    backend = context.wrap_bio(incoming, outgoing, server_side=True)
    ours = ClientTls(config).to(host, outcome.distrust.append).clientConnectionForTLS(None)
    ours.set_connect_state()
    for _ in range(4):
        try:
            ours.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            outcome.error = str(error)
            return outcome
        with suppress(SSL.WantReadError):
            incoming.write(ours.bio_read(1 << 16))
        try:
            backend.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            outcome.error = str(error)
            return outcome
        if data := outgoing.read():
            ours.bio_write(data)
    outcome.protocol = ours.get_alpn_proto_negotiated()
    certificate: Any = backend.getpeercert() if client_ca is not None else None
    outcome.client = dict(pair for (pair,) in certificate["subject"])["commonName"] if certificate else ""
    return outcome


@pytest.mark.parametrize(
    ("host", "server_name", "asked", "trusted"),
    [
        ("10.1.1.9", None, None, True),
        ("2001:db8::9", None, None, True),
        ("10.1.1.8", None, None, False),
        ("backend.example", None, "backend.example", True),
        ("other.example", None, "other.example", False),
        ("10.1.1.8", "backend.example", "backend.example", True),
        ("10.1.1.8", "10.1.1.9", None, True),
        ("10.1.1.9", "other.example", "other.example", False),
        ("10.1.1.9", "a.wild.example", "a.wild.example", True),
        ("10.1.1.9", "b.a.wild.example", "b.a.wild.example", False),
    ],
)
def test_the_certificate_must_be_for_the_name_or_the_address_of_the_backend(
    host: str, server_name: str | None, asked: str | None, trusted: bool, authority: Authority
) -> None:
    files = authority.issue("backend.example", "10.1.1.9", "2001:db8::9", "*.wild.example")
    outcome = shake_hands(SendTlsConfig(ca=str(authority.path), server_name=server_name), host, files)
    assert outcome.asked == asked
    assert outcome.distrust == ([] if trusted else [f"its certificate is not for {server_name or host}"])
    assert bool(outcome.error) is not trusted


def test_a_zone_is_no_part_of_an_address(authority: Authority) -> None:
    outcome = shake_hands(SendTlsConfig(ca=str(authority.path)), "fe80::9%eth0", authority.issue("fe80::9"))
    assert (outcome.error, outcome.distrust) == ("", [])


def test_a_certificate_that_does_not_verify_is_refused_and_it_is_said_why(authority: Authority, tmp_path: Path) -> None:
    other = Authority.root(tmp_path, "other")
    config = SendTlsConfig(ca=str(authority.path))
    for files, reason in [
        (other.issue("10.1.1.9", file="strange"), "unable to get issuer cert locally"),
        (authority.issue("10.1.1.9", file="old", ends=-DAY / 2), "cert has expired"),
        (authority.issue("10.1.1.9", file="new", starts=DAY / 2), "cert not yet valid"),
    ]:
        outcome = shake_hands(config, "10.1.1.9", files)
        assert outcome.distrust == [f"its certificate does not verify: {reason}"]
        assert "certificate verify failed" in outcome.error


def test_without_ca_the_systems_authorities_are_trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    files = authority.issue("10.1.1.9")
    assert shake_hands(SendTlsConfig(), "10.1.1.9", files).distrust
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    assert shake_hands(SendTlsConfig(), "10.1.1.9", files).distrust == []


def test_an_intermediate_authority_may_be_the_one_to_trust(authority: Authority) -> None:
    between = authority.intermediate("between")
    assert shake_hands(SendTlsConfig(ca=str(between.path)), "10.1.1.9", between.issue("10.1.1.9")).distrust == []
    assert shake_hands(SendTlsConfig(ca=str(between.path)), "10.1.1.9", authority.issue("10.1.1.9")).distrust


def test_with_verify_off_any_certificate_will_do(authority: Authority) -> None:
    outcome = shake_hands(SendTlsConfig(verify=False), "10.1.1.8", authority.issue("other.example", ends=-DAY / 2))
    assert (outcome.error, outcome.distrust) == ("", [])


def test_our_certificate_is_shown_to_backends_that_ask_for_one(authority: Authority) -> None:
    ours = authority.issue("the proxy")
    config = SendTlsConfig(ca=str(authority.path), certificate=str(ours.certificate), key=str(ours.key))
    backend = authority.issue("10.1.1.9")
    assert shake_hands(config, "10.1.1.9", backend, authority.path).client == "the proxy"
    without = attrs.evolve(config, certificate=None, key=None)
    assert "did not return a certificate" in shake_hands(without, "10.1.1.9", backend, authority.path).error


@pytest.mark.parametrize(("spoken", "selected"), [("http/1.1", b"http/1.1"), ("smtp", b""), ("", b"")])
def test_protocols_are_offered(spoken: str, selected: bytes, authority: Authority) -> None:
    config = SendTlsConfig(ca=str(authority.path), alpn=("h2", "http/1.1"))
    assert shake_hands(config, "10.1.1.9", authority.issue("10.1.1.9"), alpn=spoken).protocol == selected


def test_files_are_read_again_and_a_broken_one_changes_nothing(authority: Authority, tmp_path: Path) -> None:
    other, backend = Authority.root(tmp_path, "other"), authority.issue("10.1.1.9")
    config = SendTlsConfig(ca=str(authority.path))
    tls = ClientTls(config)
    trusted = authority.path.read_bytes()
    authority.path.write_bytes(b"")
    with pytest.raises(TlsFileError, match="no certificate of the PEM format") as caught:
        tls.apply(config)
    assert caught.value.part == "ca"
    assert tls.config is config
    authority.path.write_bytes(other.path.read_bytes())
    assert shake_hands(config, "10.1.1.9", backend).distrust
    authority.path.write_bytes(trusted)
    assert shake_hands(config, "10.1.1.9", backend).distrust == []
