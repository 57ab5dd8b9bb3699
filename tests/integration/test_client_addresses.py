"""A client is known by its address when its session has ended, whatever listener it came by and however it ended."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from rproxy.net.addresses import written
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Certificate, Variant, every_carrier
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import connect, receive, reset

pytestmark = every_carrier

HEADER: Final = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n"


@pytest.fixture(scope="module")
def proxy(variant: Variant, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    files = f"privateKey={certificate.key}:certKey={certificate.certificate}"
    listeners = [f"{LOOPBACK}:0", f"unix:{folder / 'socket'}"]
    listeners += [f"haproxy:tcp:0:interface={LOOPBACK}", f"ssl:0:interface={LOOPBACK}:{files}"]
    options = [word for text in listeners for word in ("--listen", text)]
    with Proxy(folder, *options, "--trace", *variant.tls_options) as proxy:
        yield proxy


@pytest.fixture
def pool(proxy: Proxy) -> Iterator[Pool]:
    pool = Pool(proxy)
    yield pool
    pool.close()


def of_tcp(proxy: Proxy) -> tuple[socket.socket, str]:
    client = connect(_address(proxy, 0))
    return client, written(client.getsockname())


def of_a_unix_socket(proxy: Proxy) -> tuple[socket.socket, str]:
    return connect(proxy.listeners[1]), "UNIX"


def of_a_header(proxy: Proxy) -> tuple[socket.socket, str]:
    client = connect(_address(proxy, 2))
    client.sendall(HEADER)
    return client, "192.0.2.1:1234"


def of_tls(proxy: Proxy) -> tuple[socket.socket, str]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = context.wrap_socket(connect(_address(proxy, 3)))
    return client, written(client.getsockname())


def _address(proxy: Proxy, number: int) -> tuple[str, int]:
    host, _, port = proxy.listeners[number].rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("client_of", [of_tcp, of_a_unix_socket, of_a_header, of_tls])
def test_the_clients_address_is_told_at_the_end(
    client_of: Callable[[Proxy], tuple[socket.socket, str]], resets: bool, pool: Pool
) -> None:
    pool.serve(echo)
    client, address = client_of(pool.proxy)
    client.sendall(b"word")
    assert receive(client, 4) == b"word"
    before = len(pool.proxy.log)
    if resets:
        reset(client)
    else:
        client.close()
    ended = re.compile(rf"session {re.escape(address)} -> \S+: [a-z-]+ after")
    poll(lambda: ended.search(pool.proxy.log, before), READY_S, f"the end of {address}'s session in the log")
