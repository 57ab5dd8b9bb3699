"""Listeners with a layer between socket and session: TLS, as clients of all kinds begin it, and PROXY headers."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from rproxy.carriers.portable.handshakes import HANDSHAKE_S
from rproxy.net.addresses import Address
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Certificate
from tests.integration.polling import READY_S, in_background
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.sockets import connect, digest, payload, receive, receive_all
from tests.integration.stopwatch import Stopwatch

PAGE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"
HEADER: Final = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n"
LARGE: Final = 3_000_000


def one_page(connection: socket.socket) -> None:
    """A web server of one page that ends."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    connection.sendall(PAGE)


@pytest.fixture(scope="module")
def proxy(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """With `ssl:`, and with `tls:`, where a folder holds certificates for names."""
    folder = tmp_path_factory.mktemp("proxy")
    names = folder / "certificates"
    names.mkdir()
    names.joinpath("localhost.pem").write_bytes(certificate.key.read_bytes() + certificate.certificate.read_bytes())
    files = f"privateKey={certificate.key}:certKey={certificate.certificate}"
    listeners = [f"ssl:0:interface={LOOPBACK}:{files}", f"haproxy:ssl:0:interface={LOOPBACK}:{files}"]
    listeners += [f"haproxy:tcp:0:interface={LOOPBACK}", f"haproxy:unix:{folder / 'socket'}"]
    with Proxy(folder, *(word for text in listeners for word in ("--listen", text))) as proxy:
        yield proxy


@pytest.fixture
def pool(proxy: Proxy) -> Iterator[Pool]:
    pool = Pool(proxy)
    yield pool
    pool.close()


def address(pool: Pool, number: int = 0) -> Address:
    host, _, port = pool.proxy.listeners[number].rpartition(":")
    return host, int(port)


OFFERS: Final = [["http/1.1"], ["h2"], ["h2", "http/1.1"], ["acme-tls/1"], []]


@pytest.mark.parametrize("offered", OFFERS, ids=lambda offered: "+".join(offered) or "nothing")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def test_whatever_protocols_a_tls_client_offers_it_is_served_and_told_of_none(
    version: ssl.TLSVersion, offered: Sequence[str], pool: Pool, certificate: Certificate
) -> None:
    pool.serve(one_page)
    context = ssl.create_default_context(cafile=str(certificate.certificate))
    context.minimum_version = context.maximum_version = version
    if offered:
        context.set_alpn_protocols(list(offered))
    with context.wrap_socket(connect(address(pool)), server_hostname=LOOPBACK) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert receive_all(client) == PAGE
        assert client.selected_alpn_protocol() is None


def run(*command: str, input: bytes = b"") -> bytes:  # noqa: A002 - subprocess's name
    done = subprocess.run(command, input=input, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def test_curl_is_served(pool: Pool, certificate: Certificate) -> None:
    need("curl")
    pool.serve(one_page)
    url = "https://{}:{}/".format(*address(pool))
    for protocol in ("--http1.1", "--http2", "--no-alpn"):
        assert (
            run("curl", "-s", "--noproxy", "*", protocol, "--cacert", str(certificate.certificate), url) == b"hello\n"
        )


def test_openssl_is_served(pool: Pool) -> None:
    need("openssl")
    pool.serve(one_page)
    where = "{}:{}".format(*address(pool))
    for offered in (["-alpn", "h2"], ["-alpn", "http/1.1,h2"], []):
        told = run("openssl", "s_client", "-connect", where, "-ign_eof", *offered, input=b"GET / HTTP/1.0\r\n\r\n")
        assert b"hello\n" in told
        assert b"ALPN negotiated" not in told or b"No ALPN negotiated" in told


def test_chromium_is_served(pool: Pool, tmp_path: Path) -> None:
    need("chromium")
    pool.serve(one_page)
    url = "https://{}:{}/".format(*address(pool))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--no-proxy-server"]
    told = run("chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", url)
    assert b"hello" in told


def test_a_tls_client_that_never_shakes_hands_holds_no_back_end_and_is_let_go(pool: Pool) -> None:
    """Nor one whose handshake comes a byte at a time."""
    listener = pool.listen()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    hello = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="example.org")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    silent, trickling = (pool.keep(connect(address(pool))) for _ in range(2))
    watch = Stopwatch()
    for byte in outgoing.read()[:60]:
        trickling.send(bytes([byte]))
        assert not select.select([silent, trickling], [], [], 0.1)[0]
    assert pool.proxy.backends()[listener.address]["connections"] == 0
    for client in (silent, trickling):
        client.settimeout(READY_S)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert watch.wall_s > HANDSHAKE_S - 1
    assert watch.own_s < HANDSHAKE_S + 5


def dial(pool: Pool, number: int) -> socket.socket:
    """A client of a listener that expects a PROXY header, which it has sent."""
    text = pool.proxy.listeners[number]
    client = pool.keep(connect(text if text.startswith("/") else address(pool, number)))
    client.sendall(HEADER)
    return client


def answer_at_the_end(connection: socket.socket) -> None:
    """Says nothing before the client has ended its stream."""
    request = receive_all(connection)
    connection.sendall(payload(LARGE))
    connection.sendall(request)


PLAIN_WRAPPED: Final = {"haproxy:tcp": 2, "haproxy:unix": 3}


@pytest.mark.parametrize("number", PLAIN_WRAPPED.values(), ids=PLAIN_WRAPPED)
def test_behind_a_proxy_header_a_half_close_passes_and_the_answer_comes_back(number: int, pool: Pool) -> None:
    pool.serve(answer_at_the_end)
    client = dial(pool, number)
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    assert digest(receive_all(client)) == digest(payload(LARGE) + b"request")


@pytest.mark.parametrize("number", PLAIN_WRAPPED.values(), ids=PLAIN_WRAPPED)
def test_behind_a_proxy_header_a_server_may_end_first(number: int, pool: Pool) -> None:
    listener = pool.listen()
    client = dial(pool, number)
    server = listener.accept()
    server.sendall(b"greeting")
    server.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b"greeting"
    data = payload(LARGE)
    received = in_background(receive_all, server)
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    assert digest(received.result()) == digest(data)


def test_behind_a_proxy_header_a_reset_passes(pool: Pool) -> None:
    listener = pool.listen()
    client = dial(pool, PLAIN_WRAPPED["haproxy:tcp"])
    server = listener.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_a_header_within_tls_is_served_where_the_server_speaks_first(pool: Pool, certificate: Certificate) -> None:
    listener = pool.listen()
    context = ssl.create_default_context(cafile=str(certificate.certificate))
    client = pool.keep(context.wrap_socket(connect(address(pool, 1)), server_hostname=LOOPBACK))
    server = listener.accept()
    server.sendall(b"220 ready")
    assert receive(client, 9) == b"220 ready"
    client.sendall(HEADER + b"request")
    assert receive(server, 7) == b"request"
    server.close()
    assert receive_all(client) == b""
