"""TLS towards clients: which certificate they get, what is negotiated, and what a reload changes."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest
from OpenSSL import SSL

from rproxy.net.tls_server import ServerTls
from rproxy.net.tls_settings import TlsConfig, TlsFileError
from tests.certificates import DAY, Authority, Files, rsa_key
from tests.net.handshakes import Client, trusting

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.root(tmp_path)


@attrs.frozen
class Names:
    """Certificates for several names, and a server that has them."""

    first: Files
    wildcard: Files
    second: Files
    server: ServerTls


@pytest.fixture
def names(authority: Authority) -> Names:
    first, wildcard = authority.issue("first.example", "localhost"), authority.issue("*.wild.example", "wild.example")
    second = authority.issue("second.example", "special.wild.example")
    config = TlsConfig((first.pair, wildcard.pair, second.pair))
    return Names(first, wildcard, second, ServerTls(config))


def shown(server: ServerTls, authority: Authority, name: str | None, **settings: Any) -> str:
    """The common name of the certificate that a client which asks for `name` gets."""
    context = trusting(authority.path, check_hostname=False, **settings)
    return Client(server, context, name).shake_hands().common_name()


@VERSIONS
@pytest.mark.parametrize(
    ("asked", "common_name"),
    [
        (None, "first.example"),
        ("first.example", "first.example"),
        ("localhost", "first.example"),
        ("SECOND.Example", "second.example"),
        ("wild.example", "*.wild.example"),
        ("a.wild.example", "*.wild.example"),
        ("special.wild.example", "second.example"),
        ("b.a.wild.example", "first.example"),
        ("unknown.example", "first.example"),
        ("example", "first.example"),
    ],
)
def test_the_name_that_a_client_asks_for_selects_the_certificate(
    asked: str | None, common_name: str, version: ssl.TLSVersion, names: Names, authority: Authority
) -> None:
    assert shown(names.server, authority, asked, minimum_version=version, maximum_version=version) == common_name


def test_intermediate_certificates_are_sent(authority: Authority) -> None:
    server = ServerTls(TlsConfig((authority.intermediate("between").issue("one.example").pair,)))
    assert shown(server, authority, "one.example") == "one.example"


@pytest.mark.parametrize(
    ("signatures", "kind"), [(b"ECDHE-ECDSA-AES128-GCM-SHA256", "ec"), (b"ECDHE-RSA-AES128-GCM-SHA256", "rsa")]
)
def test_of_two_kinds_for_the_same_names_a_client_gets_what_it_supports(
    signatures: bytes, kind: str, authority: Authority
) -> None:
    pairs = tuple(authority.issue("one.example", file=f"one-{key}", key=key).pair for key in (None, rsa_key()))
    server = ServerTls(TlsConfig(pairs))
    context = trusting(authority.path, maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(signatures.decode())
    client = Client(server, context, "one.example").shake_hands()
    cipher = client.tls.cipher()
    assert cipher is not None
    assert ("ECDSA" in cipher[0]) is (kind == "ec")


def test_of_two_of_a_kind_for_the_same_names_the_first_is_used(authority: Authority) -> None:
    pairs = tuple(authority.issue("one.example", file=name, common_name=name).pair for name in ("former", "latter"))
    assert shown(ServerTls(TlsConfig(pairs)), authority, "one.example") == "former"


@pytest.mark.parametrize(
    ("ours", "offered", "selected"),
    [
        (("h2", "http/1.1"), ["http/1.1", "h2"], "h2"),
        (("h2", "http/1.1"), ["http/1.1"], "http/1.1"),
        (("h2", "http/1.1"), [], None),
        ((), ["h2"], None),
        ((), [], None),
    ],
)
def test_of_the_protocols_offered_the_first_of_ours_is_selected(
    ours: tuple[str, ...], offered: list[str], selected: str | None, authority: Authority
) -> None:
    context = trusting(authority.path)
    if offered:
        context.set_alpn_protocols(offered)
    server = ServerTls(TlsConfig((authority.issue("one.example").pair,), alpn=ours))
    assert Client(server, context, "one.example").shake_hands().tls.selected_alpn_protocol() == selected


def test_a_client_that_offers_no_protocol_of_ours_is_refused_with_an_alert(authority: Authority) -> None:
    context = trusting(authority.path)
    context.set_alpn_protocols(["smtp"])
    server = ServerTls(TlsConfig((authority.issue("one.example").pair,), alpn=("h2",)))
    client = Client(server, context, "one.example")
    with pytest.raises(SSL.Error, match="no application protocol in common"):
        client.shake_hands()
    client.to_client()
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        client.tls.do_handshake()


@pytest.mark.parametrize(("least", "served"), [("1.2", True), ("1.3", False)])
def test_no_older_version_than_the_lowest_is_spoken(least: str, served: bool, authority: Authority) -> None:
    server = ServerTls(TlsConfig((authority.issue("one.example").pair,), min_version=least))
    client = Client(server, trusting(authority.path, maximum_version=ssl.TLSVersion.TLSv1_2), "one.example")
    if served:
        assert client.shake_hands().tls.version() == "TLSv1.2"
        return
    with pytest.raises(SSL.Error, match="unsupported protocol"):
        client.shake_hands()


def own_certificate(context: ssl.SSLContext, files: Files) -> ssl.SSLContext:
    context.load_cert_chain(*files.pair)
    return context


@VERSIONS
def test_with_client_ca_clients_must_have_a_certificate_of_that_authority(
    version: ssl.TLSVersion, authority: Authority, tmp_path: Path
) -> None:
    ours, other = Authority.root(tmp_path, "ours"), Authority.root(tmp_path, "other")
    config = TlsConfig(
        (authority.issue("one.example").pair, authority.issue("two.example").pair), client_ca=str(ours.path)
    )
    server = ServerTls(config)

    def client(files: Files | None, name: str = "one.example") -> Client:
        context = trusting(authority.path, maximum_version=version)
        return Client(server, context if files is None else own_certificate(context, files), name)

    for name in ("one.example", "two.example"):
        for issuer in (ours, ours.intermediate("between")):
            assert client(issuer.issue("a client"), name).shake_hands().send(b"hello") == b"hello"
    for files, reason in [
        (None, "peer did not return a certificate"),
        (other.issue("a stranger"), "certificate verify failed"),
        (ours.issue("was a client", ends=-DAY / 2), "certificate verify failed"),
    ]:
        with pytest.raises(SSL.Error, match=reason):
            client(files).shake_hands()


@VERSIONS
def test_sessions_are_resumed_even_after_a_reload(version: ssl.TLSVersion, names: Names, authority: Authority) -> None:
    context = trusting(authority.path, maximum_version=version)
    first = Client(names.server, context, "first.example").shake_hands()
    assert not first.tls.session_reused
    again = Client(names.server, context, "first.example", first.tls.session).shake_hands()
    assert again.tls.session_reused
    names.first.replace(authority.issue("first.example", "localhost", file="renewed", common_name="renewed"))
    names.server.apply(names.server.config)
    later = Client(names.server, context, "first.example", first.tls.session).shake_hands()
    assert later.tls.session_reused
    assert shown(names.server, authority, "first.example") == "renewed"


@pytest.mark.parametrize("change", ["alpn", "min_version", "client_ca", "the authorities' file"])
def test_what_clients_must_meet_anew_ends_the_sessions_that_could_be_resumed(
    change: str, authority: Authority, tmp_path: Path
) -> None:
    ours, next_one = Authority.root(tmp_path, "ours"), Authority.root(tmp_path, "next")
    config = TlsConfig((authority.issue("one.example").pair,), client_ca=str(ours.path))
    server = ServerTls(config)
    context = own_certificate(trusting(authority.path), ours.issue("a client"))
    session = Client(server, context, "one.example").shake_hands().tls.session
    assert Client(server, context, "one.example", session).shake_hands().tls.session_reused
    if change == "the authorities' file":
        ours.path.write_bytes(ours.path.read_bytes() + next_one.path.read_bytes())
        server.apply(config)
    else:
        value: Any = {"alpn": ("h2",), "min_version": "1.3", "client_ca": None}[change]
        server.apply(attrs.evolve(config, **{change: value}))
    assert not Client(server, context, "one.example", session).shake_hands().tls.session_reused


def test_a_handshake_that_has_begun_ends_as_it_began(names: Names, authority: Authority) -> None:
    begun = Client(names.server, trusting(authority.path), "first.example")
    with pytest.raises(ssl.SSLWantReadError):
        begun.tls.do_handshake()
    config = attrs.evolve(names.server.config, min_version="1.3", alpn=("h2",))
    names.server.apply(config)
    assert begun.shake_hands().common_name() == "first.example"
    assert begun.send(b"still there") == b"still there"


def test_a_broken_file_changes_nothing(names: Names, authority: Authority) -> None:
    names.first.replace(authority.issue("first.example", file="renewed", common_name="renewed"))
    names.second.key.write_bytes(b"")
    with pytest.raises(TlsFileError, match="no private key") as caught:
        names.server.apply(names.server.config)
    assert (caught.value.part, caught.value.number) == ("key", 2)
    assert shown(names.server, authority, "first.example") == "first.example"
    assert [each.path for each in names.server.identities] == [
        str(each.certificate) for each in (names.first, names.wildcard, names.second)
    ]
