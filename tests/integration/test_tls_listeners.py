"""TLS towards clients by a configuration file: clients of all kinds, certificates by name, and reloads."""

from __future__ import annotations

import re
import select
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from rproxy.carriers.portable.handshakes import HANDSHAKE_S
from rproxy.net.addresses import written
from tests.certificates import DAY, Authority, Files, ec_key, pem, rsa_key
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter
from tests.integration.http_client import get
from tests.integration.polling import PROMPT_S, READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import connect, digest, payload, receive, receive_all, receive_until_reset, reset
from tests.integration.stopwatch import Stopwatch
from tests.integration.tls import (
    client_context,
    common_name,
    config_file,
    curl,
    haproxy,
    nginx,
    one_page,
    run,
    tls_connect,
    tls_table,
)
from tests.integration.twistd import REACTORS, run_twistd

LARGE: Final = 5_000_000
VERSIONS: Final = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}
every_version: Final = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)


@attrs.frozen
class Served:
    """A proxy with certificates for several names."""

    proxy: Proxy
    authority: Authority

    def client(
        self, name: str | None = LOOPBACK, *, suppress_ragged_eofs: bool = True, **settings: Any
    ) -> ssl.SSLSocket:
        context = client_context(self.authority, **settings)
        return context.wrap_socket(
            connect(self.proxy.address), server_hostname=name, suppress_ragged_eofs=suppress_ragged_eofs
        )


@pytest.fixture(scope="module", params=REACTORS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("proxy")
    authority = Authority.root(folder)
    files = [
        authority.issue("first.example", LOOPBACK),
        authority.issue("*.wild.example", key=rsa_key()),
        authority.intermediate("between").issue("second.example"),
    ]
    path = config_file(folder, tls_table(*files, alpn=["http/1.1", "acme-tls/1"]))
    with Proxy(folder, "--config", str(path), reactor=request.param) as proxy:
        yield Served(proxy, authority)


@pytest.fixture
def pool(served: Served) -> Iterator[Pool]:
    pool = Pool(served.proxy)
    yield pool
    pool.close()


@every_version
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("first.example", "first.example"),
        ("SECOND.example", "second.example"),
        ("a.wild.example", "*.wild.example"),
        ("a.b.wild.example", "first.example"),
        ("unknown.example", "first.example"),
        (None, "first.example"),
    ],
)
def test_a_client_gets_the_certificate_for_the_name_that_it_asks_for(
    asked: str | None, shown: str, version: ssl.TLSVersion, served: Served, pool: Pool
) -> None:
    pool.serve(echo)
    settings: Any = {"check_hostname": False, "minimum_version": version, "maximum_version": version}
    with served.client(asked, **settings) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
        assert (common_name(client), client.selected_alpn_protocol()) == (shown, None)


def test_curl_is_served_whatever_it_offers(served: Served, pool: Pool) -> None:
    pool.serve(one_page)
    for offer in ("--http1.1", "--http2", "--no-alpn"):
        for name in ("first.example", "x.wild.example", "second.example"):
            assert curl(served.proxy.address, served.authority, offer, name=name) == b"hello\n"
    assert curl(served.proxy.address, served.authority, name="other.example", status=60) == b""


def test_openssl_sees_the_protocol_the_chain_and_the_name(served: Served, pool: Pool) -> None:
    (openssl,) = need("openssl")
    pool.serve(one_page)
    command = [openssl, "s_client", "-connect", written(served.proxy.address), "-ign_eof", "-verify_return_error"]
    command += ["-CAfile", str(served.authority.path), "-servername", "second.example"]
    for offered, answered in (["-alpn", "h2,http/1.1"], b"ALPN protocol: http/1.1"), ([], b"No ALPN negotiated"):
        told = run(*command, *offered, input=b"GET / HTTP/1.0\r\n\r\n")
        assert all(part in told for part in (b"hello\n", answered, b"CN = between", b"CN = second.example"))


def test_chromium_is_served(served: Served, pool: Pool, tmp_path: Path) -> None:
    (chromium,) = need("chromium")
    pool.serve(one_page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--no-proxy-server"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    assert b"hello" in run(chromium, *options, profile, "--dump-dom", f"https://{written(served.proxy.address)}/")


def test_haproxy_and_nginx_are_served_as_clients_that_verify(served: Served, pool: Pool, tmp_path: Path) -> None:
    pool.serve(one_page)
    where, ca = written(served.proxy.address), served.authority.path
    with haproxy(
        tmp_path, server=f"{where} ssl verify required ca-file {ca} sni str(second.example) alpn http/1.1"
    ) as at:
        assert get(f"http://{written(at)}/") == b"hello\n"
    proxied = {
        "proxy_ssl_verify": "on",
        "proxy_ssl_trusted_certificate": str(ca),
        "proxy_ssl_server_name": "on",
        "proxy_ssl_name": "y.wild.example",
    }
    with nginx(tmp_path, **proxied, location=f"/ {{ proxy_pass https://{where}; }} #") as at:
        assert get(f"http://{written(at)}/") == b"hello\n"


def test_a_client_that_offers_no_protocol_of_ours_is_refused(served: Served, pool: Pool) -> None:
    listener = pool.listen()
    context = client_context(served.authority)
    context.set_alpn_protocols(["smtp"])
    before = served.proxy.sessions().get("handshake", 0)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        tls_connect(served.proxy.address, context)
    poll(lambda: served.proxy.sessions().get("handshake", 0) == before + 1, PROMPT_S, "it is counted")
    assert listener.accepted == []


def test_a_client_of_an_old_version_or_of_none_at_all_is_refused(served: Served, pool: Pool) -> None:
    listener = pool.listen()
    (openssl,) = need("openssl")
    command = [openssl, "s_client", "-connect", written(served.proxy.address), "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]
    assert b"alert protocol version" in run(*command, status=None)
    with connect(served.proxy.address) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert not b"".join(iter(lambda: _some(client), b"")).startswith(b"HTTP")
    assert listener.accepted == []


def _some(client: socket.socket) -> bytes:
    try:
        return client.recv(4096)
    except ConnectionResetError:
        return b""


@every_version
def test_renegotiation_is_refused(version: ssl.TLSVersion, served: Served, pool: Pool) -> None:
    (openssl,) = need("openssl")
    pool.serve(echo)
    option = {ssl.TLSVersion.TLSv1_2: "-tls1_2", ssl.TLSVersion.TLSv1_3: "-tls1_3"}[version]
    command = [openssl, "s_client", "-connect", written(served.proxy.address), option]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        client.stdin.write(b"R\n")
        client.stdin.flush()
        time.sleep(0.5)
        told, _ = client.communicate(b"Q\n", timeout=READY_S)
    assert told.count(b"BEGIN CERTIFICATE") == 1
    if version is ssl.TLSVersion.TLSv1_2:
        assert b"no renegotiation" in told


def test_bulk_arrives_whole_both_ways_at_once(served: Served, pool: Pool) -> None:
    listener = pool.listen()
    client = pool.keep(served.client())
    assert isinstance(client, ssl.SSLSocket)
    server = listener.accept()
    up, down = payload(LARGE), payload(LARGE + 1)[::-1]
    sending = in_background(server.sendall, down)
    receiving = in_background(receive, server, len(up))
    client_receiving = in_background(receive, client, len(down))
    client.sendall(up)
    assert digest(receiving.result()) == digest(up)
    assert digest(client_receiving.result()) == digest(down)
    sending.result()


def test_the_servers_end_arrives_after_everything_as_close_notify(served: Served, pool: Pool) -> None:
    pool.serve(lambda connection: connection.sendall(payload(LARGE)))
    with served.client(suppress_ragged_eofs=False) as client:
        assert digest(receive_all(client)) == digest(payload(LARGE))


def test_resets_pass_both_ways(served: Served, pool: Pool) -> None:
    listener = pool.listen()
    client = pool.keep(served.client(suppress_ragged_eofs=False))
    server = listener.accept()
    server.sendall(b"half an answer")
    assert receive(client, 14) == b"half an answer"
    reset(server)
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        receive_all(client)
    client = served.client()
    server = listener.accept()
    reset(client)
    assert receive_until_reset(server) == b""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.root(tmp_path)


@every_version
def test_clients_without_a_certificate_of_the_authority_are_refused(
    version: ssl.TLSVersion, start: Starter, authority: Authority
) -> None:
    ours, other = Authority.root(authority.folder, "ours"), Authority.root(authority.folder, "other")
    tables = tls_table(authority.issue(LOOPBACK), client_ca=str(ours.path))
    pool = start.pool("--config", str(config_file(start.folder, tables)))
    pool.serve(echo)

    def call(files: Files | None) -> bytes:
        context = client_context(authority, files, maximum_version=version)
        with tls_connect(pool.proxy.address, context) as client:
            client.sendall(b"hello")
            return receive(client, 5)

    assert call(ours.issue("a client")) == b"hello"
    assert call(ours.intermediate("between").issue("another client")) == b"hello"
    refused = [None, other.issue("a stranger"), ours.issue("was a client", ends=-DAY / 2)]
    for files in refused:
        assert is_refused(lambda files=files: call(files))  # type: ignore[misc]
    poll(lambda: pool.proxy.sessions().get("handshake") == len(refused), PROMPT_S, "they are counted")
    pool.proxy.logged(r"(TLS handshake failed: peer did not return a certificate)")
    assert sum(row["total"] for row in pool.proxy.backends().values()) == 2


def is_refused(call: Callable[[], bytes]) -> bool:
    """With TLS 1.3, a client learns that only after its handshake."""
    try:
        return not call()
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return True


def renew(proxy: Proxy, files: Files, other: Files) -> None:
    """Replace a certificate, and have the proxy read it."""
    files.replace(other)
    proxy.send_signal(signal.SIGHUP)


@every_version
def test_a_reload_gives_new_clients_the_new_certificate_and_keeps_sessions(
    version: ssl.TLSVersion, start: Starter, authority: Authority
) -> None:
    files = authority.issue(LOOPBACK, common_name="first")
    pool = start.pool("--config", str(config_file(start.folder, tls_table(files))))
    pool.serve(echo)
    address, context = pool.proxy.address, client_context(authority, maximum_version=version)
    kept = pool.keep(tls_connect(address, context))
    assert isinstance(kept, ssl.SSLSocket)
    kept.sendall(b"before")
    assert receive(kept, 6) == b"before"  # the tickets of TLS 1.3 have come, too
    renew(pool.proxy, files, authority.issue(LOOPBACK, file="next", common_name="second"))
    pool.proxy.logged(r"(TLS certificates read again: 1; )")
    with tls_connect(address, context) as client:
        assert common_name(client) == "second"
    with tls_connect(address, context, session=kept.session) as client:
        assert client.session_reused
    kept.sendall(b"after")
    assert receive(kept, 5) == b"after"


def test_a_broken_file_keeps_the_certificate_and_is_one_line(start: Starter, authority: Authority) -> None:
    files = authority.issue(LOOPBACK, common_name="first")
    proxy = start.proxy("--config", str(config_file(start.folder, tls_table(files))))
    mismatched = authority.issue(LOOPBACK, file="next", common_name="second")
    mismatched.key.write_bytes(pem(ec_key()))
    renew(proxy, files, mismatched)
    proxy.logged(rf"(service\[0\]\.tls\.key\S* {files.key}: the key is not that of the first certificate in )")
    with tls_connect(proxy.address, client_context(authority)) as client:
        assert common_name(client) == "first"


def test_half_open_handshakes_leave_room_for_others(start: Starter, authority: Authority) -> None:
    most = 20
    path = config_file(start.folder, tls_table(authority.issue(LOOPBACK)))
    pool = start.pool("--config", str(path), "--max-connections", str(most))
    pool.serve(echo)
    watch = Stopwatch()
    flood = [pool.keep(connect(pool.proxy.address)) for _ in range(5 * most)]
    with tls_connect(pool.proxy.address, client_context(authority)) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
    assert watch.own_s < HANDSHAKE_S / 2
    pool.proxy.logged("(TLS handshake failed: too many others began one meanwhile)")
    assert len(select.select(flood, [], [], 0)[0]) >= len(flood) - most // 2 - 1


def spoiled(damage: Callable[[Files], object]) -> Callable[[Authority], str]:
    """A table of TLS whose file was damaged."""

    def make(authority: Authority) -> str:
        files = authority.issue(LOOPBACK)
        damage(files)
        return tls_table(files)

    return make


MISTAKES: Final[dict[str, tuple[Callable[[Authority], str], str]]] = {
    "a missing certificate": (
        spoiled(lambda files: files.certificate.unlink()),
        r"service\[0\]\.tls\.certificate\[0\]: \S+: No such file or directory",
    ),
    "a missing key": (
        spoiled(lambda files: files.key.unlink()),
        r"service\[0\]\.tls\.key\[0\]: \S+: No such file or directory",
    ),
    "another's key": (
        spoiled(lambda files: files.key.write_bytes(pem(ec_key()))),
        r'service\[0\]\.tls\.key: "\S+\.key": the key is not that of the first certificate in \S+\.pem',
    ),
    "a passphrase": (
        spoiled(lambda files: files.key.write_bytes(pem(ec_key(), "secret"))),
        r'service\[0\]\.tls\.key: "\S+\.key": the key has a passphrase',
    ),
    "authorities that are none": (
        lambda authority: tls_table(files := authority.issue(LOOPBACK), client_ca=str(files.certificate)),
        r'service\[0\]\.tls\.client-ca: "\S+": no certificate there is that of an authority',
    ),
    "back-ends' authorities that are none": (
        lambda authority: f'[service.send-tls]\nca = "{authority.issue(LOOPBACK).key}"',
        r'service\[0\]\.send-tls\.ca: "\S+": there is no certificate of the PEM format in it',
    ),
}


@pytest.mark.parametrize(("make", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_the_start_with_one_line_that_names_the_key(
    make: Callable[[Authority], str], message: str, authority: Authority, tmp_path: Path
) -> None:
    path = config_file(tmp_path, make(authority))
    done = run_twistd(tmp_path, "rproxy", "--config", str(path), "--monitor", f"{LOOPBACK}:0")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert re.search(message, done.stderr), done.stderr


def test_an_expired_certificate_is_a_warning(start: Starter, authority: Authority) -> None:
    files = authority.issue(LOOPBACK, ends=-DAY / 2)
    proxy = start.proxy("--config", str(config_file(start.folder, tls_table(files))))
    assert f"{files.certificate}: the certificate has expired on 20" in proxy.log
