"""The PROXY protocol with real senders and receivers: HAProxy, nginx and curl, on both sides of the proxy.

Each of the cases of HAProxy's reg-tests and of nginx's stream tests that a TCP proxy can have is here.
"""

from __future__ import annotations

import os
import random
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import pytest

from rproxy.net.addresses import Address, written
from rproxy.sessions.proxy_headers import HEADER_S
from rproxy.wire.proxy_header import ALPN, AUTHORITY, LOCAL, SIGNATURE, SSL, UNIQUE_ID, Header, encode, parse
from tests.conftest import need
from tests.integration.addresses import LOOPBACK, address_of
from tests.integration.conftest import Certificate, Starter, Variant, every_carrier
from tests.integration.other_proxies import free_ports, haproxy, nginx
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import connect, receive, receive_all, receive_until_reset, reset
from tests.integration.stopwatch import Stopwatch

pytestmark = every_carrier

SOURCE: Final = ("192.0.2.1", 1234)
DESTINATION: Final = ("192.0.2.2", 5678)
LINE: Final = encode(1, SOURCE, DESTINATION)
BINARY: Final = encode(2, SOURCE, DESTINATION, [(UNIQUE_ID, b"12345")])
REQUEST: Final = b"GET / HTTP/1.0\r\n\r\n"
_DATA_SEGMENTS_IN: Final = 152
"""Of tcpi_data_segs_in in TCP_INFO, linux/tcp.h."""
VERSIONS: Final = pytest.mark.parametrize("version", [1, 2])


def packets_to(sock: socket.socket) -> int:
    """Packets with data that a connection has received."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _DATA_SEGMENTS_IN + 4)
    return int.from_bytes(info[_DATA_SEGMENTS_IN:], "little")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process gets to see at once all that happens meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def configured(folder: Path, listen: str, *lines: str) -> Path:
    """A configuration of one service."""
    path = folder / "rproxy.toml"
    path.write_text("\n".join(["[[service]]", f"listen = {listen}", *lines, ""]))
    return path


@attrs.frozen
class Proxies:
    """One for every way to treat headers."""

    sending: dict[int, Proxy]
    """By the version that they send; they expect none."""
    relaying: Proxy
    """Expects headers from loopback, on IPv4 and a UNIX socket, and sends version 2."""
    receiving: Proxy
    """The same, and sends none."""
    distant: Proxy
    """Expects headers from elsewhere only."""


@pytest.fixture(scope="module")
def proxies(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    with ExitStack() as stack:

        def start(*lines: str) -> Proxy:
            folder = tmp_path_factory.mktemp("proxy")
            listen = f'["{LOOPBACK}:0", "[::1]:0", "unix:{folder / "socket"}"]'
            config = configured(folder, listen, *lines)
            return stack.enter_context(
                Proxy(folder, "--config", str(config), *variant.options, reactor=variant.reactor)
            )

        local = 'proxy-protocol-from = ["127.0.0.0/8", "::1/128"]'
        yield Proxies(
            {version: start(f"send-proxy = {version}") for version in (1, 2)},
            start(local, "send-proxy = 2"),
            start(local),
            start('proxy-protocol-from = ["192.0.2.0/24"]'),
        )


@pytest.fixture
def pools() -> Iterator[Callable[[Proxy], Pool]]:
    with ExitStack() as stack:

        def pool(proxy: Proxy) -> Pool:
            made = Pool(proxy)
            stack.callback(made.close)
            return made

        yield pool


def read_header(connection: socket.socket) -> tuple[Header, bytes]:
    """The header that a connection begins with, as it is and as bytes."""
    data = b""
    while (header := parse(data)) is None:
        piece = connection.recv(1)
        if not piece:  # its client is gone
            raise ConnectionResetError
        data += piece
    return header, data


def told(connection: socket.socket) -> None:
    """A back-end that says which header it gets, and then what follows."""
    header, data = read_header(connection)
    connection.sendall(f"{header.source} {header.destination} {data.hex()} ".encode())
    while data := connection.recv(65536):
        connection.sendall(data)


# --- sending


@VERSIONS
@pytest.mark.parametrize("ended", [False, True])
def test_the_header_leaves_with_the_first_data_in_one_packet(
    proxies: Proxies, pools: Callable[[Proxy], Pool], version: int, ended: bool
) -> None:
    pool = pools(proxies.sending[version])
    listener = pool.listen()
    for _ in range(10):
        with stopped(pool.proxy.pid):
            client = pool.connect()
            client.sendall(b"question")
            if ended:
                client.shutdown(socket.SHUT_WR)
        server = listener.accept()
        header = encode(version, address_of(client), pool.proxy.address)
        assert receive(server, len(header) + 8 + ended) == header + b"question"
        assert packets_to(server) == 1
        server.sendall(b"answer")
        server.close()
        assert receive_all(client) == b"answer"


@VERSIONS
def test_the_header_leaves_at_once_where_the_server_speaks_first(
    proxies: Proxies, pools: Callable[[Proxy], Pool], version: int
) -> None:
    pool = pools(proxies.sending[version])
    listener = pool.listen()
    client = pool.connect()
    server = listener.accept()
    watch = Stopwatch()
    header = encode(version, address_of(client), pool.proxy.address)
    assert receive(server, len(header)) == header
    assert watch.own_s < 0.15, "a corked packet leaves after 0.2 s"
    server.sendall(b"220 ready")
    assert receive(client, 9) == b"220 ready"
    for _ in range(3):
        client.sendall(b"question")
        assert receive(server, 8) == b"question"


@VERSIONS
def test_a_server_that_ends_at_once_is_replaced_and_the_other_gets_the_header_anew(
    proxies: Proxies, pools: Callable[[Proxy], Pool], version: int
) -> None:
    pool = pools(proxies.sending[version])
    listeners = [pool.listen(), pool.listen()]
    client = pool.connect()
    client.sendall(b"question")
    header = encode(version, address_of(client), pool.proxy.address)
    for reply in (b"", b"answer"):
        ready, _, _ = select.select([each._socket for each in listeners], [], [], READY_S)
        listener = next(each for each in listeners if each._socket in ready)
        server = listener.accept()
        assert receive(server, len(header) + 8) == header + b"question"
        server.sendall(reply)
        server.close()
        listeners.remove(listener)
    assert receive_all(client) == b"answer"


@pytest.mark.parametrize(("version", "header"), [(1, b"PROXY UNKNOWN\r\n"), (2, LOCAL)])
def test_a_client_of_a_unix_socket_has_no_address_to_tell(
    proxies: Proxies, pools: Callable[[Proxy], Pool], version: int, header: bytes
) -> None:
    pool = pools(proxies.sending[version])
    pool.serve(told)
    client = pool.keep(connect(pool.proxy.listeners[2]))
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == f"None None {header.hex()} question".encode()


@VERSIONS
def test_ipv6_clients_are_told_as_such(proxies: Proxies, pools: Callable[[Proxy], Pool], version: int) -> None:
    pool = pools(proxies.sending[version])
    pool.serve(told)
    address = ("::1", int(pool.proxy.listeners[1].rpartition(":")[2]))
    client = pool.keep(connect(address))
    header = encode(version, address_of(client), address)
    expected = f"{address_of(client)} {address} {header.hex()} ".encode()
    assert receive(client, len(expected)) == expected


@VERSIONS
def test_haproxy_and_nginx_read_what_is_sent(
    proxies: Proxies, pools: Callable[[Proxy], Pool], version: int, tmp_path: Path
) -> None:
    pool = pools(proxies.sending[version])
    port, streaming, web = free_ports(3)
    shown = "%[src]:%[src_port] %[dst]:%[dst_port]"
    config = f"""
frontend receiver
    mode http
    bind {LOOPBACK}:{port} accept-proxy
    http-request return status 200 content-type text/plain lf-string "{shown}"
"""
    trusted = f"set_real_ip_from {LOOPBACK};"
    servers = f"""
stream {{
    server {{
        listen {LOOPBACK}:{streaming} proxy_protocol;
        {trusted}
        return "$remote_addr:$remote_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
    }}
}}
http {{
    access_log off;
    server {{
        listen {LOOPBACK}:{web} proxy_protocol;
        {trusted}
        real_ip_header proxy_protocol;
        return 200 "$remote_addr:$remote_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
    }}
}}
"""
    where = written(pool.proxy.address)
    ready = [(LOOPBACK, port), (LOOPBACK, web), (LOOPBACK, streaming)]
    with haproxy(tmp_path, config, ready[0]), nginx(tmp_path, servers, *ready[1:]):
        for each in (port, web, streaming):
            agent = pool.register((LOOPBACK, each))
            client = pool.connect()
            if each != streaming:
                client.sendall(REQUEST)
            assert receive_all(client).endswith(f"{written(address_of(client))} {where}".encode())
            client.close()
            agent.close()
            poll(lambda: not pool.proxy.backends(), READY_S, "it has gone")


def test_nginx_sees_the_clients_address_in_its_log(
    proxies: Proxies, pools: Callable[[Proxy], Pool], tmp_path: Path
) -> None:
    pool = pools(proxies.sending[2])
    (port,) = free_ports(1)
    log = tmp_path / "access.log"
    config = f"""
http {{
    log_format pp "$remote_addr:$remote_port";
    access_log {log} pp;
    server {{
        listen {LOOPBACK}:{port} proxy_protocol;
        set_real_ip_from {LOOPBACK};
        real_ip_header proxy_protocol;
        return 200 "hello";
    }}
}}
"""
    with nginx(tmp_path, config, (LOOPBACK, port)):
        pool.register((LOOPBACK, port))
        client = pool.connect()
        client.sendall(REQUEST)
        assert receive_all(client).endswith(b"hello")
        poll(lambda: f"{written(address_of(client))}\n" in log.read_text(), READY_S, "the log has the client")


SESSIONS: Final = 20


def system_calls(pool: Pool, folder: Path, data: bytes) -> dict[str, int]:
    """System calls on sockets by name for each session, of clients that have sent `data` before they are accepted."""
    (strace,) = need("strace")
    listener = pool.listen()
    path = folder / f"{pool.proxy.pid}.strace"
    command = [strace, "-q", "-f", "-e", "trace=%net", "-o", str(path), "-p", str(pool.proxy.pid)]
    tracing = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        status = Path(f"/proc/{pool.proxy.pid}/status")
        poll(lambda: "TracerPid:\t0" not in status.read_text(), READY_S, "it is traced")
        with stopped(pool.proxy.pid):
            for client in [pool.connect() for _ in range(SESSIONS)]:
                client.sendall(data)
        servers = [listener.accept() for _ in range(SESSIONS)]
        for server in servers:
            assert server.recv(65536)
    finally:
        tracing.terminate()
        tracing.wait()
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", path.read_text(), re.MULTILINE))
    on_datagrams = {"sendmsg", "recvmsg", "recvmmsg"}
    return {name: round(number / SESSIONS) for name, number in calls.items() if name not in on_datagrams}


def test_a_header_costs_one_system_call_to_send_and_two_to_receive(
    proxies: Proxies, pools: Callable[[Proxy], Pool], variant: Variant, start: Starter, tmp_path: Path
) -> None:
    """Without the options, and with the splice carrier: that of the portable one has read ahead."""
    plain = system_calls(start.pool(*variant.options, reactor=variant.reactor), tmp_path, b"question")
    sending = system_calls(pools(proxies.sending[2]), tmp_path, b"question")
    if variant.carrier == "portable":  # looks for data that the reactor has not reported
        sending["recvfrom"] = min(sending["recvfrom"], plain["recvfrom"])
    assert Counter(sending) == Counter(plain) + Counter(getsockname=1)
    receiving = system_calls(pools(proxies.receiving), tmp_path, BINARY + b"question")
    assert Counter(receiving) == Counter(plain) + Counter(recvfrom=2 if variant.carrier == "splice" else 0)


# --- receiving


def dial(pool: Pool, data: bytes = b"", listener: int = 0) -> socket.socket:
    text = pool.proxy.listeners[listener]
    host, _, port = text.rpartition(":")
    client = pool.keep(connect(text if listener == 2 else (host.strip("[]"), int(port))))
    client.sendall(data)
    return client


def relayed(pool: Pool, data: bytes) -> bytes:
    """What comes back of `data` and the end of the stream from a back-end that says what it got."""
    client = dial(pool, data)
    client.shutdown(socket.SHUT_WR)
    return receive_all(client)


@pytest.mark.parametrize("header", [LINE, BINARY])
def test_a_header_may_come_in_single_bytes(proxies: Proxies, pools: Callable[[Proxy], Pool], header: bytes) -> None:
    pool = pools(proxies.relaying)
    pool.serve(told)
    client = dial(pool)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in header + b"question":
        client.sendall(bytes([byte]))
        time.sleep(0.002)
    client.shutdown(socket.SHUT_WR)
    came = parse(header)
    assert came is not None
    sent = encode(2, SOURCE, DESTINATION, came.tlvs)
    assert receive_all(client) == f"{SOURCE} {DESTINATION} {sent.hex()} question".encode()


def test_what_follows_a_header_is_carried_whole(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    pool = pools(proxies.receiving)
    pool.serve(lambda connection: connection.sendall(receive_all(connection)))
    data = bytes(range(256)) * 20_000
    client = dial(pool, BINARY + data)
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == data


def test_behind_a_header_alone_a_server_may_speak_first(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    pool = pools(proxies.receiving)
    listener = pool.listen()
    client = dial(pool, LINE)
    listener.accept().sendall(b"220 ready")
    assert receive(client, 9) == b"220 ready"


def endings(proxy: Proxy, before: dict[str, int]) -> dict[str, int]:
    """Sessions ended since, by ending."""
    return {name: number for name, all_ in proxy.sessions().items() if (number := all_ - before.get(name, 0))}


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (REQUEST, "bad-header"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "bad-header"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 01234 80\r\n", "bad-header"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\n" + REQUEST, "bad-header"),
        (BINARY[:12] + b"\x31" + BINARY[13:], "bad-header"),
        (SIGNATURE + b"\x21\x11\xff\xff", "bad-header"),
        (b"PROXY UNKNOWN " + b"x" * 100, "bad-header"),
        (SIGNATURE + b"\x21\x11\0\x13" + BINARY[16:28] + b"\3\0\x044321", "bad-header"),
    ],
)
def test_a_bad_header_is_refused(proxies: Proxies, pools: Callable[[Proxy], Pool], data: bytes, ending: str) -> None:
    pool = pools(proxies.receiving)
    pool.serve(echo)
    before = pool.proxy.sessions()
    assert receive_until_reset(dial(pool, data)) == b""
    assert endings(pool.proxy, before) == {ending: 1}


def test_a_header_that_does_not_come_and_a_reset_within_one(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    pool = pools(proxies.receiving)
    pool.serve(echo)
    before = pool.proxy.sessions()
    watch = Stopwatch()
    late = [dial(pool, data) for data in (b"", b"PROXY TCP4 192.0.2.1 ", BINARY[:20])]
    reset(dial(pool, b"PROXY "))
    for client in late:
        assert receive_until_reset(client) == b""
    assert watch.wall_s > HEADER_S - 0.5
    assert watch.own_s < HEADER_S + 2
    poll(lambda: endings(pool.proxy, before) == {"header-timeout": 3, "client-gone": 1}, READY_S, "they are counted")
    assert "sent no whole PROXY header within 5 s: refused" in pool.proxy.log


@pytest.mark.parametrize("data", [b"", BINARY, LINE + b"question", REQUEST])
def test_from_elsewhere_nothing_is_accepted(proxies: Proxies, pools: Callable[[Proxy], Pool], data: bytes) -> None:
    pool = pools(proxies.distant)
    pool.serve(echo)
    before = pool.proxy.sessions()
    with suppress(ConnectionError):  # the reset may come while it connects or sends
        assert receive_until_reset(dial(pool, data)) == b""
    assert endings(pool.proxy, before) == {"untrusted": 1}
    assert "is not of proxy-protocol-from: refused" in pool.proxy.log


def test_whatever_comes_is_answered_or_refused(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    """Headers with changed, lost and added bytes, in pieces, with an end or a reset; the pool's log has no error."""
    pool = pools(proxies.relaying)
    pool.serve(told)
    generator = random.Random(1)
    before = pool.proxy.sessions()
    for number in range(200):
        data = bytearray(generator.choice([LINE, BINARY, LOCAL, b"PROXY UNKNOWN\r\n"]) + b"question")
        for _ in range(generator.randrange(3)):
            place = generator.randrange(len(data))
            data[place : place + generator.randrange(3)] = generator.randbytes(generator.randrange(3))
        client = dial(pool)
        with suppress(ConnectionError):
            for start in range(0, len(data), size := generator.randrange(1, 60)):
                client.sendall(data[start : start + size])
            if number % 3:
                with suppress(OSError):  # it has been refused already
                    client.shutdown(socket.SHUT_WR)
                receive_all(client)
        reset(client)
    poll(lambda: sum(endings(pool.proxy, before).values()) == 200, READY_S, "all have ended")
    assert set(endings(pool.proxy, before)) >= {"closed", "bad-header"}


def test_curl_sends_a_header_by_itself(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    (curl,) = need("curl")
    pool = pools(proxies.relaying)

    def page(connection: socket.socket) -> None:
        header, _ = read_header(connection)
        while b"\r\n\r\n" not in connection.recv(65536):
            pass
        connection.sendall(f"HTTP/1.0 200 OK\r\n\r\n{header.source}".encode())

    pool.serve(page)
    command = [curl, "-s", "--noproxy", "*", "--haproxy-protocol", "-w", " %{local_port}"]
    said = subprocess.run([*command, f"http://{written(pool.proxy.address)}/"], capture_output=True, check=True).stdout
    found = re.fullmatch(rb"\('127\.0\.0\.1', (\d+)\) (\d+)", said)
    assert found is not None, said
    assert found[1] == found[2]


SENDERS: Final = {
    "send-proxy": [],
    "send-proxy-v2": [],
    "send-proxy-v2 proxy-v2-options crc32c": [],
    "send-proxy-v2 proxy-v2-options unique-id": [UNIQUE_ID],
    "send-proxy-v2-ssl": [SSL],
    "send-proxy-v2-ssl-cn": [SSL],
    "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id": [
        AUTHORITY,
        UNIQUE_ID,
        SSL,
    ],
}


@pytest.mark.parametrize("unix", [False, True], ids=["TCP", "UNIX"])
@pytest.mark.parametrize("options", SENDERS)
def test_haproxy_sends(
    proxies: Proxies,
    pools: Callable[[Proxy], Pool],
    certificate: Certificate,
    options: str,
    unix: bool,
    tmp_path: Path,
) -> None:
    """TLS ends in HAProxy; what it tells of that is passed on."""
    pool = pools(proxies.relaying)
    pool.serve(told)
    (port,) = free_ports(1)
    pem = tmp_path / "both.pem"
    pem.write_bytes(certificate.certificate.read_bytes() + certificate.key.read_bytes())
    target = f"unix@{pool.proxy.listeners[2]}" if unix else written(pool.proxy.address)
    config = f"""
listen sender
    bind {LOOPBACK}:{port} ssl crt {pem} ca-file {certificate.certificate} verify optional alpn h2,http/1.1
    unique-id-format TEST-12345
    server rproxy {target} {options}
"""
    context = ssl.create_default_context(cafile=str(certificate.certificate))
    context.load_cert_chain(certificate.certificate, certificate.key)
    context.check_hostname = False
    context.set_alpn_protocols(["http/1.1"])
    with haproxy(tmp_path, config, (LOOPBACK, port)):
        client = pool.keep(context.wrap_socket(connect((LOOPBACK, port)), server_hostname="example.org"))
        client.sendall(b"question")
        said = client.recv(65536)
        while not said.endswith(b"question"):
            said += client.recv(65536)
        source, destination, sent = re.fullmatch(rb"(\(.*\)) (\(.*\)) (\w+) question", said).groups()  # type: ignore[union-attr]
    assert (source.decode(), destination.decode()) == (str(address_of(client)), str((LOOPBACK, port)))
    header = parse(bytes.fromhex(sent.decode()))
    assert header is not None
    tlvs = dict(header.tlvs)
    version_2 = [ALPN] if "v2" in options else []
    assert sorted(tlvs) == sorted([*version_2, *SENDERS[options]])
    assert tlvs.get(ALPN, b"http/1.1") == b"http/1.1"
    assert tlvs.get(UNIQUE_ID, b"TEST-12345") == b"TEST-12345"
    assert tlvs.get(AUTHORITY, b"example.org") == b"example.org"
    if SSL in tlvs:
        assert tlvs[SSL][0] & 1
        assert b"\x21\0\7TLSv1.3" in tlvs[SSL]
        assert (b"\x22\0\x09127.0.0.1" in tlvs[SSL]) is ("cn" in options)


def test_nginx_sends(proxies: Proxies, pools: Callable[[Proxy], Pool], tmp_path: Path) -> None:
    pool = pools(proxies.relaying)
    pool.serve(told)
    (port,) = free_ports(1)
    config = f"""
stream {{
    proxy_protocol on;
    server {{ listen {LOOPBACK}:{port}; proxy_pass {written(pool.proxy.address)}; }}
    server {{ listen [::1]:{port}; proxy_pass {written(pool.proxy.address)}; }}
}}
"""
    with nginx(tmp_path, config, (LOOPBACK, port)):
        for host in (LOOPBACK, "::1"):
            client = pool.keep(connect((host, port)))
            client.sendall(b"question")
            header = encode(2, address_of(client), (host, port))
            expected = f"{address_of(client)} {(host, port)} {header.hex()} question".encode()
            assert receive(client, len(expected)) == expected


def test_a_check_of_haproxy_is_local_and_leaves_the_back_end_the_checkers_address(
    proxies: Proxies, pools: Callable[[Proxy], Pool], tmp_path: Path
) -> None:
    pool = pools(proxies.relaying)
    got: list[tuple[Address | None, bytes]] = []

    def note(connection: socket.socket) -> None:
        header, _ = read_header(connection)
        got.append((header.source, connection.recv(100)))
        connection.sendall(b"+PONG\r\n")

    pool.serve(note)
    (port,) = free_ports(1)
    before = pool.proxy.sessions()
    config = f"""
listen checker
    bind {LOOPBACK}:{port}
    option redis-check
    server rproxy {written(pool.proxy.address)} check inter 100ms send-proxy-v2 check-send-proxy
"""
    with haproxy(tmp_path, config):
        poll(lambda: len(got) > 1, READY_S, "it has checked")
    source, data = got[0]
    assert source is not None
    assert source[0] == LOOPBACK
    assert data.startswith(b"*1\r\n$4\r\nPING")
    poll(lambda: "bad-header" not in endings(pool.proxy, before), READY_S, "it was taken")


def test_tls_behind_a_header_ends_here_and_is_told(
    variant: Variant, certificate: Certificate, start: Starter, tmp_path: Path
) -> None:
    files = f"privateKey={certificate.key}:certKey={certificate.certificate}"
    listen = f'["ssl:0:interface={LOOPBACK}:{files}"]'
    config = configured(tmp_path, listen, 'proxy-protocol-from = ["127.0.0.0/8"]', "send-proxy = 2")
    pool = start.pool("--config", str(config), *variant.tls_options, reactor=variant.reactor)
    pool.serve(told)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = dial(pool, LINE)
    with context.wrap_socket(client, server_hostname="example.org") as secured:
        secured.sendall(b"question")
        tls = b"\1\0\0\0\1\x21\0\7TLSv1.3"
        header = encode(2, SOURCE, DESTINATION, [(SSL, tls), (AUTHORITY, b"example.org")])
        expected = f"{SOURCE} {DESTINATION} {header.hex()} question".encode()
        assert receive(secured, len(expected)) == expected
    assert receive_until_reset(dial(pool, REQUEST)) == b""


# --- HAProxy's reg-tests and nginx's stream tests, by their names

HEAD: Final = SIGNATURE + bytes.fromhex("2111")
ADDRESSES: Final = bytes.fromhex("7F0000017F000001002A0539")


def with_tlvs(tlvs: str, length: int | None = None) -> bytes:
    """A header for 127.0.0.1:42 to 127.0.0.1:1337; `length` is that of the TLVs as it says."""
    value = bytes.fromhex(tlvs)
    return HEAD + struct.pack("!H", 12 + (len(value) if length is None else length)) + ADDRESSES + value


def test_proxy_protocol_tlv_validation(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    pool = pools(proxies.relaying)
    pool.serve(told)
    authority = "02 00 05 31 32 33 34 35"
    for extra in (b"", bytes.fromhex("02 00 05 35 34 33 32 31")):  # behind the header: data
        said = relayed(pool, with_tlvs(authority) + extra + REQUEST)
        header = with_tlvs(authority)
        assert said == f"('127.0.0.1', 42) ('127.0.0.1', 1337) {header.hex()} ".encode() + extra + REQUEST
    for tlvs in ("02 00 0A 31 32 33 34 35 31 32 33 34 35", "02 00 04 31 32 33 34"):  # longer, and shorter
        assert receive_until_reset(dial(pool, with_tlvs(tlvs, 8) + REQUEST)) == b""


def test_proxy_protocol_tlv_embedded_nul_and_ssl_tlv(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    """Values are bytes, whatever is in them; custom types are not passed on."""
    pool = pools(proxies.relaying)
    pool.serve(told)
    kept = "020008 7075626c69630078 050008 7075626c69630078 200005 0000000000"
    said = relayed(pool, with_tlvs(kept + "e10008 7075626c69630078") + REQUEST)
    assert said.split()[4] == with_tlvs(kept).hex().encode()


def test_unique_id_from_proxy(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    pool = pools(proxies.relaying)
    pool.serve(told)
    unique = with_tlvs("05 00 05 31 32 33 34 35")
    assert relayed(pool, unique + REQUEST).split()[4] == unique.hex().encode()


def test_tlvs(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    """The TLVs of AWS, Azure and others, up to 128 bytes and more."""
    pool = pools(proxies.relaying)
    pool.serve(told)
    custom = "EA000B016177732D7670632D6964 EE0007014C494E4B4944 EB0006637573746F6D EC0080" + "3A" * 128 + "E20000"
    said = relayed(pool, with_tlvs(custom) + REQUEST)
    assert said == f"('127.0.0.1', 42) ('127.0.0.1', 1337) {with_tlvs('').hex()} ".encode() + REQUEST


def test_expect_proxy(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    pool = pools(proxies.relaying)
    pool.serve(told)
    said = relayed(pool, b"PROXY TCP4 192.168.0.1 10.0.0.2 1234 81\r\n" + REQUEST)
    assert said.startswith(b"('192.168.0.1', 1234) ('10.0.0.2', 81) ")
    for data in (REQUEST, b"PROXY TCP4 not an address at all\r\n" + REQUEST):
        assert receive_until_reset(dial(pool, data)) == b""


def echo_until_close(connection: socket.socket) -> None:
    """The server of nginx's tests."""
    data = b""
    while b"close" not in data:
        data = connection.recv(65536)
        connection.sendall(data)


def test_stream_proxy_protocol(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    """nginx's stream_proxy_protocol.t and stream_proxy_protocol_ipv6.t."""
    pool = pools(proxies.sending[1])
    pool.serve(echo_until_close)
    host, port = pool.proxy.address
    client = dial(pool, b"close")
    assert receive_all(client) == f"PROXY TCP4 {host} {host} {address_of(client)[1]} {port}\r\nclose".encode()
    client = dial(pool, b"close", listener=1)
    port = int(pool.proxy.listeners[1].rpartition(":")[2])
    assert receive_all(client) == f"PROXY TCP6 ::1 ::1 {address_of(client)[1]} {port}\r\nclose".encode()


def test_stream_proxy_protocol_ssl(variant: Variant, certificate: Certificate, start: Starter, tmp_path: Path) -> None:
    """TLS to the back-end begins behind the header."""
    config = configured(
        tmp_path, f'"{LOOPBACK}:0"', "send-proxy = 1", f'send-tls = {{ ca = "{certificate.certificate}" }}'
    )
    pool = start.pool("--config", str(config), *variant.tls_options, reactor=variant.reactor)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    def echo_all(connection: socket.socket) -> None:
        _, header = read_header(connection)
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.sendall(header + secured.recv(65536))
            secured.unwrap()

    pool.serve(echo_all)
    client = pool.connect()
    client.sendall(b"test")
    host, port = pool.proxy.address
    assert receive_all(client) == f"PROXY TCP4 {host} {host} {address_of(client)[1]} {port}\r\ntest".encode()


@pytest.mark.parametrize(
    ("header", "own"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 5678\r\n", False),
        (b"PROXY TCP6 2001:Db8::1 2001:Db8::2 1234 5678\r\n", False),
        (b"PROXY UNKNOWN\r\n", True),
        (b"PROXY UNKNOWN 1 2 3 4 5 6\r\n", True),
        (b"PROXY UNKNOWN TCP4 192.0.2.1 192.0.2.2 1234 5678\r\n", True),
        (SIGNATURE + b"\x21\x11\0\x15\xc0\0\2\1\xc0\0\2\2\x04\xd2\x16\x2e" + bytes(9), False),
        (SIGNATURE + b"\x21\x01\0\0", True),
    ],
)
def test_stream_realip(proxies: Proxies, pools: Callable[[Proxy], Pool], header: bytes, own: bool) -> None:
    pool = pools(proxies.relaying)
    pool.serve(told)
    client = dial(pool, header + b"close")
    client.shutdown(socket.SHUT_WR)
    source = address_of(client) if own else ("2001:db8::1" if b"TCP6" in header else "192.0.2.1", 1234)
    said = receive_all(client)
    assert said.startswith(str(source).encode())
    assert said.endswith(b" close")


def test_stream_realip_payload(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    pool = pools(proxies.receiving)
    pool.serve(echo_until_close)
    assert receive_all(dial(pool, b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 5678\r\nclose")) == b"close"


def test_stream_proxy_protocol2_tlv(proxies: Proxies, pools: Callable[[Proxy], Pool]) -> None:
    """Its TLVs, but for the checksum, which is wrong there: nginx does not verify it."""
    pool = pools(proxies.relaying)
    pool.serve(told)
    sub = b"".join(
        struct.pack("!BH", kind, len(text)) + text
        for kind, text in enumerate([b"TLSv1.2", b"example.com", b"AES256-SHA", b"SHA1", b"RSA512"], 0x21)
    )
    tlvs = [(ALPN, b"ALPN1"), (AUTHORITY, b"localhost"), (UNIQUE_ID, b"UNIQQ"), (SSL, b"\1\0\0\0\xff" + sub)]
    others = [(0x30, b"NETNS"), (0xAE, b"12345")]
    said = relayed(pool, encode(2, SOURCE, DESTINATION, tlvs + others) + b"question")
    assert said.split()[4] == encode(2, SOURCE, DESTINATION, tlvs).hex().encode()
