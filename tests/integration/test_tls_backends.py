"""TLS towards back-ends: whom the proxy trusts, as whom it comes, and what it says of others."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from rproxy.net.addresses import written
from tests.certificates import DAY, Authority, Files
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import BY_REPORT, Starter
from tests.integration.fake_agents import BUSY
from tests.integration.http_client import get
from tests.integration.polling import PROMPT_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import Server, echo
from tests.integration.sockets import connect, digest, payload, receive, receive_all, receive_until_reset
from tests.integration.stopwatch import Stopwatch
from tests.integration.tls import (
    client_context,
    config_file,
    haproxy,
    nginx,
    one_page,
    table,
    tls_connect,
    tls_server,
    tls_table,
)
from tests.integration.twistd import REACTORS, run_twistd

LARGE: Final = 5_000_000


@attrs.frozen
class Sending:
    """A proxy that connects with TLS, as a client of its own name, and the authority of it and its back-ends."""

    proxy: Proxy
    authority: Authority
    backend: Files


@pytest.fixture(scope="module", params=REACTORS)
def sending(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sending]:
    folder = tmp_path_factory.mktemp("proxy")
    authority = Authority.root(folder)
    ours = authority.issue("the proxy")
    sent = table(
        "service.send-tls", ca=authority.path, certificate=ours.certificate, key=ours.key, alpn=["http/1.1", "h2"]
    )
    with Proxy(folder, "--config", str(config_file(folder, sent)), *BY_REPORT, reactor=request.param) as proxy:
        yield Sending(proxy, authority, authority.issue(LOOPBACK, "backend.example"))


@pytest.fixture
def pool(sending: Sending) -> Iterator[Pool]:
    pool = Pool(sending.proxy)
    yield pool
    pool.close()


def test_a_backend_sees_our_certificate_and_protocols(sending: Sending, pool: Pool) -> None:
    seen = []

    def serve(tls: ssl.SSLSocket) -> None:
        seen.append((tls.getpeercert(), tls.selected_alpn_protocol(), tls.version()))
        echo(tls)

    server = tls_server(sending.backend, serve, client_ca=sending.authority.path, alpn="h2")
    pool.use(server)
    with pool.connect() as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
    ((certificate, protocol, version),) = seen
    assert certificate is not None
    assert certificate["subject"] == ((("commonName", "the proxy"),),)
    assert (protocol, version) == ("h2", "TLSv1.3")


def test_nginx_and_haproxy_are_backends_that_verify_us(sending: Sending, pool: Pool, tmp_path: Path) -> None:
    files, ca = sending.backend, sending.authority.path
    both = tmp_path / "both.pem"
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    page = Server(one_page)
    directives = {
        "ssl_certificate": str(files.certificate),
        "ssl_certificate_key": str(files.key),
        "ssl_client_certificate": str(ca),
        "ssl_verify_client": "on",
        "return": '200 "I am nginx"',
    }
    listening = f"ssl crt {both} verify required ca-file {ca}"
    with nginx(tmp_path, "ssl", **directives) as one, haproxy(tmp_path, listening, written(page.address)) as other:
        for address, answer in [(one, b"I am nginx"), (other, b"hello\n")]:
            agent = pool.register(address)
            assert get(f"http://{written(pool.proxy.address)}/") == answer
            agent.close()
            poll(lambda: not pool.proxy.backends(), PROMPT_S, "it has gone")
    page.close()


def test_bulk_arrives_whole_both_ways(sending: Sending, pool: Pool) -> None:
    def serve(tls: ssl.SSLSocket) -> None:
        tls.sendall(receive(tls, LARGE)[::-1])

    pool.use(tls_server(sending.backend, serve))
    with pool.connect() as client:
        client.sendall(payload(LARGE))
        assert digest(receive_all(client)) == digest(payload(LARGE)[::-1])


def test_a_clients_half_close_is_close_notify_and_the_answer_still_comes(sending: Sending, pool: Pool) -> None:
    pool.use(tls_server(sending.backend, lambda tls: tls.sendall(digest(receive_all(tls))[1].encode())))
    with pool.connect() as client:
        client.sendall(payload(LARGE))
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client).decode() == digest(payload(LARGE))[1]


def test_a_backends_end_without_close_notify_is_a_reset_after_everything(sending: Sending, pool: Pool) -> None:
    """Else a truncated answer would look complete."""

    def serve(tls: ssl.SSLSocket) -> None:
        tls.sendall(payload(LARGE))
        tls.shutdown(socket.SHUT_RDWR)
        raise OSError

    pool.use(tls_server(sending.backend, serve))
    with pool.connect() as client:
        assert digest(receive_until_reset(client)) == digest(payload(LARGE))


WRONG: Final = {
    "for another name": (lambda authority: authority.issue("other.example"), "its certificate is not for 127.0.0.1"),
    "expired": (
        lambda authority: authority.issue(LOOPBACK, file="old", ends=-DAY / 2),
        "its certificate does not verify: cert has expired",
    ),
    "of another authority": (
        lambda authority: Authority.root(authority.folder, "other").issue(LOOPBACK, file="strange"),
        "its certificate does not verify: unable to get issuer cert locally",
    ),
}


@pytest.mark.parametrize(("make", "reason"), WRONG.values(), ids=WRONG)
def test_a_certificate_that_does_not_verify_is_a_failed_connect(
    make: Callable[[Authority], Files], reason: str, sending: Sending, pool: Pool
) -> None:
    """The client is given to a back-end whose certificate does; the next ones, too."""
    wrong = pool.use(tls_server(make(sending.authority), echo))
    good = pool.use(tls_server(sending.backend, echo), BUSY)
    before = pool.proxy.status()["counters"]["tls_connect_failures"]
    for _ in range(3):
        with pool.connect() as client:
            client.sendall(b"hello")
            assert receive(client, 5) == b"hello"
    assert pool.proxy.backends()[good.address]["total"] == 3
    assert pool.proxy.status()["counters"]["tls_connect_failures"] > before
    pool.proxy.logged(rf"(back-end {written(wrong.address)}: TLS handshake failed: {reason})")


def test_a_backend_without_tls_is_a_failed_connect(pool: Pool) -> None:
    plain = pool.serve(lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n"))
    with pool.connect() as client:
        assert receive_all(client) == b""
    pool.proxy.logged(rf"(back-end {written(plain.address)}: TLS handshake failed: wrong version number)")


def test_a_backend_that_says_nothing_is_a_failed_connect(pool: Pool) -> None:
    silent = pool.listen()
    watch = Stopwatch()
    with pool.connect() as client:
        assert receive_all(client) == b""
    assert watch.wall_s > 1.5
    assert watch.own_s < 6.0
    pool.proxy.logged(rf"(back-end {written(silent.address)}: TLS handshake failed: it took too long)")


def test_tls_on_both_sides(start: Starter, tmp_path: Path) -> None:
    authority = Authority.root(tmp_path)
    files = authority.issue(LOOPBACK, "backend.example")
    sent = table("service.send-tls", ca=authority.path, server_name="backend.example")
    pool = start.pool("--config", str(config_file(start.folder, tls_table(files), sent)), "--carrier", "auto")
    pool.use(tls_server(files, echo))
    with tls_connect(pool.proxy.address, client_context(authority)) as client:
        client.sendall(payload(100_000))
        assert digest(receive(client, 100_000)) == digest(payload(100_000))


def test_the_splice_carrier_alone_takes_no_tls_to_backends(tmp_path: Path) -> None:
    path = config_file(tmp_path, table("service.send-tls", verify=False))
    done = run_twistd(tmp_path, "rproxy", "--config", str(path), "--carrier", "splice", "--monitor", f"{LOOPBACK}:0")
    assert done.returncode == 1
    assert (
        "service[0].send-tls: the splice carrier takes plain sockets only; --carrier auto takes TLS, too" in done.stderr
    )


def test_verify_may_be_off(start: Starter, tmp_path: Path) -> None:
    files = Authority.root(tmp_path).issue("other.example", ends=-DAY / 2)
    pool = start.pool("--config", str(config_file(start.folder, table("service.send-tls", verify=False))))
    pool.use(tls_server(files, echo))
    with connect(pool.proxy.address) as client:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
