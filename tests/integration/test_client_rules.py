"""Which clients a service takes, and how many of each: those that it does not take are reset, counted and logged."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import BY_REPORT, Certificate, Starter, Variant, every_carrier
from tests.integration.polling import PROMPT_S, READY_S, poll
from tests.integration.pools import Pool
from tests.integration.servers import echo
from tests.integration.sockets import is_readable, receive, receive_all
from tests.integration.twistd import RESTING

pytestmark = every_carrier


def serving(start: Starter, variant: Variant, keys: str, listen: str = f"{LOOPBACK}:0") -> Pool:
    """At a proxy of its own, whose service has these keys."""
    file = start.folder / "rproxy.toml"
    file.write_text(f'[[service]]\nname = "web"\nlisten = ["{listen}"]\n{keys}\n', encoding="utf-8")
    return start.pool("--config", str(file), *BY_REPORT, *variant.tls_options)


def visit(pool: Pool, host: str = "127.0.0.9") -> socket.socket:
    client = pool.keep(socket.socket())
    client.bind((host, 0))
    client.settimeout(READY_S)
    client.connect(pool.proxy.address)
    return client


def is_reset(pool: Pool, host: str) -> bool:
    """Whether a client at `host` is, which need not say anything for that; its connect may have seen that already."""
    try:
        receive_all(visit(pool, host))
    except ConnectionResetError:
        return True
    return False


def is_served(pool: Pool, host: str = "127.0.0.9") -> bool:
    """Whether a client at `host`, which leaves then, is answered by the echo server, and not reset."""
    try:
        client = visit(pool, host)
    except ConnectionResetError:
        return False
    with client:
        return is_answered(client)


def is_served_at(address: tuple[str, int]) -> bool:
    """As `is_served`, from whatever address the kernel selects; a reset may come before connect() returns."""
    try:
        client = socket.create_connection(address, READY_S)
    except ConnectionResetError:
        return False
    with client:
        return is_answered(client)


def is_answered(client: socket.socket) -> bool:
    """Whether the echo server answers, and no reset comes."""
    try:
        client.sendall(b"hello")
        return receive(client, 5) == b"hello"
    except (ConnectionResetError, BrokenPipeError):
        return False


def refused(pool: Pool) -> dict[str, int]:
    counted: dict[str, int] = pool.proxy.status()["counters"]["refused"]
    return counted


def lines(pool: Pool) -> list[str]:
    return re.findall(r"\d+ client\(s\) refused: .*", pool.proxy.log)


def test_clients_of_other_networks_cost_no_back_end(start: Starter, variant: Variant) -> None:
    pool = serving(start, variant, 'clients = ["127.0.0.0/24"]\ndeny = ["127.0.0.8"]')
    for _ in range(2):
        pool.serve(echo)
    for _ in range(5):
        for host in ("127.0.0.8", "127.0.1.9"):
            assert is_reset(pool, host)
    assert refused(pool) == {"deny": 5, "clients": 5}
    assert pool.proxy.sessions() == {"denied": 10}
    assert [row["total"] for row in pool.proxy.backends().values()] == [0, 0]
    assert lines(pool) == ["1 client(s) refused: deny (1); most often 127.0.0.8 (1)"]
    assert is_answered(visit(pool))


def test_a_client_has_so_many_connections_at_once(start: Starter, variant: Variant) -> None:
    pool = serving(start, variant, "max-connections-per-client = 2")
    pool.serve(echo)
    clients = [visit(pool) for _ in range(2)]
    assert [is_answered(client) for client in clients] == [True, True]
    assert not is_served(pool)
    assert is_served(pool, "127.0.0.10")
    clients[0].close()
    poll(lambda: is_served(pool), PROMPT_S, "there is room for another one")
    assert refused(pool)["max-connections-per-client"] >= 1


def test_a_client_has_so_many_new_connections_a_second(start: Starter, variant: Variant) -> None:
    pool = serving(start, variant, "connections-per-second-per-client = 4")
    pool.serve(echo)
    served, began, deadline = 0, time.monotonic(), time.monotonic() + 2.0
    while time.monotonic() < deadline:
        served += is_served(pool)
    assert 4 + 4 <= served <= 4 + 4 * (time.monotonic() - began) + 1
    assert is_served(pool, "127.0.0.10")
    assert list(refused(pool)) == ["connections-per-second-per-client"]


def test_ipv6_clients_of_one_network_are_one(start: Starter, variant: Variant) -> None:
    """IPv4 clients of the same port are themselves."""
    pool = serving(start, variant, "max-connections-per-client = 1", listen="[::]:0")
    pool.serve(echo)
    for host in ("::1", LOOPBACK):
        address = (host, pool.proxy.address[1])
        first = pool.keep(socket.create_connection(address, READY_S))
        assert is_answered(first)
        assert not is_served_at(address)


def test_a_tls_client_is_refused_before_its_handshake(
    start: Starter, variant: Variant, certificate: Certificate
) -> None:
    files = f"privateKey={certificate.key}:certKey={certificate.certificate}"
    pool = serving(start, variant, 'deny = ["127.0.0.0/8"]', f"ssl:0:interface={LOOPBACK}:{files}")
    assert is_reset(pool, LOOPBACK)
    assert refused(pool) == {"deny": 1}


def test_clients_of_unix_sockets_have_no_address_and_are_taken(
    start: Starter, variant: Variant, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    pool = serving(start, variant, 'clients = ["10.0.0.0/8"]\nmax-connections-per-client = 1', f"unix:{path}")
    pool.serve(echo)
    clients = [pool.keep(socket.socket(socket.AF_UNIX)) for _ in range(2)]
    for client in clients:
        client.settimeout(READY_S)
        client.connect(str(path))
    assert [is_answered(client) for client in clients] == [True, True]


def test_a_service_has_so_many_sessions_and_further_clients_wait(start: Starter, variant: Variant) -> None:
    pool = serving(start, variant, "max-connections = 2")
    pool.serve(echo)
    clients = [visit(pool) for _ in range(2)]
    assert all(is_answered(client) for client in clients)
    waiting = visit(pool)
    waiting.sendall(b"hello")
    assert pool.proxy.share_of_a_core() < RESTING
    assert not is_readable(waiting)
    assert pool.proxy.status()["connections"]["now"] == 2
    clients[0].close()
    assert receive(waiting, 5) == b"hello"
