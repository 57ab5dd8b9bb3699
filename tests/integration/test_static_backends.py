"""Static back-ends of real proxies: by address and by name, checked by connects and by agent-checks."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Final

from rproxy.net.addresses import Address, written
from rproxy.wire.proxy_header import LOCAL
from tests.conftest import need
from tests.integration.addresses import LOOPBACK, RefusingPort
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.fake_agents import FakeAgent
from tests.integration.haproxies import AgentCheck, answering
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.servers import Server
from tests.integration.sockets import connect

pytestmark = every_carrier

DOWN_S: Final = 10.0
"""Three checks, one every 2 s, and some time on a busy machine."""


def named(word: bytes, host: str = LOOPBACK, *, port: int = 0) -> Server:
    """A service that says its name."""
    return Server(lambda connection: connection.sendall(word), host, port=port)


def proxy_of(start: Starter, variant: Variant, *backends: str, more: str = "", options: tuple[str, ...] = ()) -> Proxy:
    tables = "".join(f"[[service.backend]]\n{backend}\n" for backend in backends)
    text = f'{more}[[service]]\nlisten = ["{LOOPBACK}:0"]\n{tables}'
    path: Path = start.folder / "rproxy.toml"
    path.write_text(text, encoding="utf-8")
    return start.proxy("--config", str(path), *variant.options, *options, reactor=variant.reactor)


def backend(address: Address, more: str = "") -> str:
    return f'address = "{written(address)}"\n{more}'


def says(proxy: Proxy) -> bytes:
    with connect(proxy.address) as client:
        return b"".join(iter(lambda: client.recv(100), b""))


def up(proxy: Proxy, *addresses: Address) -> None:
    poll(lambda: all(proxy.state(each) == "up" for each in addresses), READY_S, f"{addresses} are up")


def test_clients_are_shared_by_static_back_ends_and_one_with_an_agent(start: Starter, variant: Variant) -> None:
    servers = {word: named(word) for word in (b"one", b"two", b"agent")}
    static = [servers[word].address for word in (b"one", b"two")]
    proxy = proxy_of(start, variant, backend(static[0]), backend(static[1], 'check = "none"\n'))
    agent = FakeAgent(proxy.monitor, servers[b"agent"].address[1])
    up(proxy, *static, agent.backend)
    served = [says(proxy) for _ in range(90)]
    assert {word: served.count(word) >= 10 for word in servers} == dict.fromkeys(servers, True)
    rows = proxy.backends()
    assert [rows[address]["check"] for address in (*static, agent.backend)] == ["connect", "none", "agent"]
    agent.close()
    proxy.stop()
    assert failures(proxy.log) == []


def test_one_that_closes_goes_down_and_clients_wait_for_none(start: Starter, variant: Variant) -> None:
    stays, goes = named(b"stays"), named(b"goes")
    proxy = proxy_of(start, variant, backend(stays.address), backend(goes.address))
    up(proxy, stays.address, goes.address)
    gone = goes.address
    goes.close()
    assert {says(proxy) for _ in range(10)} == {b"stays"}
    poll(lambda: proxy.state(gone) == "down", DOWN_S, "it is down")
    assert "checks in a row failed" in proxy.log or "connects in a row failed" in proxy.log


def test_every_address_of_a_name_is_a_back_end(start: Starter, variant: Variant) -> None:
    over_ipv4 = named(b"IPv4")
    port = over_ipv4.address[1]
    over_ipv6 = named(b"IPv6", "::1", port=port)
    found = {info[4][0] for info in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    proxy = proxy_of(start, variant, f'address = "localhost:{port}"')
    addresses = [(str(host), port) for host in found]
    up(proxy, *addresses)
    assert set(proxy.backends()) == set(addresses)
    assert {says(proxy) for _ in range(20)} == {b"IPv6" if ":" in str(host) else b"IPv4" for host in found}
    over_ipv6.close()


def test_a_name_that_is_not_found_is_logged_once_and_holds_up_nothing(start: Starter, variant: Variant) -> None:
    server = named(b"word")
    proxy = proxy_of(start, variant, 'address = "no.such.name.invalid:80"', backend(server.address))
    up(proxy, server.address)
    assert says(proxy) == b"word"
    poll(lambda: "no.such.name.invalid: cannot be looked up: " in proxy.log, READY_S, "it is not found")
    assert proxy.log.count("cannot be looked up") == 1


def test_checks_leave_nothing_and_clients_see_nothing_of_them(start: Starter, variant: Variant) -> None:
    received: list[bytes | type[Exception]] = []

    def note(connection: socket.socket) -> None:
        try:
            received.append(connection.recv(10))
        except OSError as error:
            received.append(type(error))

    server = Server(note)
    proxy = proxy_of(start, variant, backend(server.address))
    up(proxy, server.address)
    before = proxy.descriptors("socket")
    poll(lambda: len(received) >= 3, DOWN_S, "there were checks")
    assert set(received) == {ConnectionResetError}
    assert proxy.descriptors("socket") <= before
    table = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    kept = [line for line in table if line.split()[2].endswith(f":{server.address[1]:04X}") and line.split()[3] == "06"]
    assert kept == []  # in TIME_WAIT


def test_what_an_agent_check_says_counts(start: Starter, variant: Variant) -> None:
    server, other, agent = named(b"word"), named(b"other"), AgentCheck("up 50%\n")
    check = f'weight = 80\ncheck = "agent-check:{agent.address[1]}"\n'
    proxy = proxy_of(start, variant, backend(server.address, check), backend(other.address))
    up(proxy, server.address, other.address)
    poll(lambda: proxy.backends()[server.address]["weight"] == 40, DOWN_S, "it has half its weight")
    agent.line = "drain\n"
    poll(lambda: proxy.state(server.address) == "draining", DOWN_S, "it drains")
    assert {says(proxy) for _ in range(10)} == {b"other"}
    agent.line = "ready stopped # backup at night\n"
    poll(lambda: proxy.state(server.address) == "down", DOWN_S, "it is down")
    assert proxy.backends()[server.address]["said"] == "stopped (backup at night), weight 40"
    agent.line = "up 100%\n"
    poll(lambda: proxy.state(server.address) == "up", DOWN_S, "it is up again")
    agent.close()
    poll(lambda: "its agent-check at" in proxy.log, DOWN_S, "it is told that the agent-check is gone")
    assert proxy.state(server.address) == "up"
    assert failures(proxy.log) == []


def test_a_haproxy_that_is_an_agent_check_is_understood(start: Starter, variant: Variant) -> None:
    need("haproxy")
    server = named(b"word")
    haproxy, address = answering(start.folder, "25% maxconn:30 ready up")
    start.closing(haproxy.close)
    proxy = proxy_of(start, variant, backend(server.address, f'check = "agent-check:{address[1]}"\n'))
    up(proxy, server.address)
    poll(lambda: proxy.backends()[server.address]["said"] == "weight 25, maxconn 30", DOWN_S, "it is heard")


def test_an_agent_cannot_register_what_is_configured(start: Starter, variant: Variant) -> None:
    server = named(b"word")
    proxy = proxy_of(start, variant, backend(server.address))
    up(proxy, server.address)
    agent = FakeAgent(proxy.monitor, server.address[1])
    poll(lambda: proxy.status()["counters"]["dropped"].get("static"), READY_S, "its REGISTER is refused")
    assert proxy.backends()[server.address]["check"] == "connect"
    agent.close()


def test_the_state_file_leaves_them_out(start: Starter, variant: Variant) -> None:
    server, registered = named(b"word"), named(b"other")
    state = start.folder / "state"
    proxy = proxy_of(start, variant, backend(server.address), options=("--state-file", str(state)))
    agent = FakeAgent(proxy.monitor, registered.address[1])
    up(proxy, server.address, agent.backend)
    proxy.stop()
    kept = json.loads(state.read_text(encoding="utf-8"))["backends"]
    assert [(row["address"], row["port"]) for row in kept] == [agent.backend]
    agent.close(unregister=False)


def test_one_that_is_the_proxys_own_listener_is_refused(start: Starter, variant: Variant) -> None:
    taken = RefusingPort()
    port = taken.address[1]
    taken.close()
    server = named(b"word")
    path = start.folder / "rproxy.toml"
    loop = f'[[service.backend]]\naddress = "{LOOPBACK}:{port}"\n[[service.backend]]\n{backend(server.address)}'
    path.write_text(f'[[service]]\nlisten = ["{LOOPBACK}:{port}"]\n{loop}\n', encoding="utf-8")
    proxy = start.proxy("--config", str(path), *variant.options, reactor=variant.reactor)
    up(proxy, server.address)
    assert set(proxy.backends()) == {server.address}
    assert f"no back-end: {LOOPBACK}:{port} leads to this proxy itself" in proxy.log
    assert says(proxy) == b"word"


def test_checks_begin_with_local_where_the_service_sends_proxy_headers(start: Starter, variant: Variant) -> None:
    received: list[bytes] = []
    servers = [Server(lambda connection: received.append(connection.recv(100))) for _ in range(2)]
    path = start.folder / "rproxy.toml"
    static = [backend(servers[0].address), backend(servers[1].address, "send-proxy = 0")]
    tables = "".join(f"[[service.backend]]\n{each}\n" for each in static)
    path.write_text(f'[[service]]\nlisten = ["{LOOPBACK}:0"]\nsend-proxy = 2\n{tables}', encoding="utf-8")
    proxy = start.proxy("--config", str(path), *variant.options, reactor=variant.reactor)
    up(proxy, *(server.address for server in servers))
    poll(lambda: received, DOWN_S, "a check has arrived")
    assert set(received) == {LOCAL}
