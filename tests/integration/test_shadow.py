"""A second policy beside the one in use, on real sessions: what it would have done is told, and that is all."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.integration.conftest import BY_REPORT, CARRIERS, Starter, carrier_options
from tests.integration.fake_agents import BUSY, IDLE
from tests.integration.http_client import get
from tests.integration.polling import READY_S, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import receive


def compared(proxy: Proxy) -> dict[str, Any]:
    host, port = proxy.admin
    (service,) = json.loads(get(f"http://{host}:{port}/api/shadow"))["services"]
    return dict(service)


def sessions(proxy: Proxy) -> dict[str, list[int]]:
    """Of each policy, those of every back-end, the fewest first."""
    rows = compared(proxy)["backends"]
    return {who: sorted(row[who]["sessions"] for row in rows) for who in ("acting", "shadow")}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_shadow_spreads_what_the_other_one_heaps(start: Starter, carrier: str) -> None:
    pool = Pool(start.proxy(*carrier_options(carrier), *BY_REPORT, "--shadow", "least-connections"))
    start.closing(pool.close)
    pool.serve(echo, IDLE)
    for _ in range(2):
        pool.serve(echo, BUSY)
    clients = [pool.connect() for _ in range(9)]
    for client in clients:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
    assert sessions(pool.proxy) == {"acting": [0, 0, 9], "shadow": [3, 3, 3]}
    found = compared(pool.proxy)
    assert (found["choices"], found["differed"], found["failures"]) == (9, 6, 0)
    assert (found["acting"]["policy"], found["shadow"]["policy"]) == ("report", "least-connections")
    assert found["acting"]["sessions"]["now"]["deviation"] == pytest.approx(4.243, abs=0.001)
    assert found["shadow"]["sessions"]["now"] == {"mean": 3.0, "max": 3.0, "deviation": 0.0}
    for client in clients:
        client.close()
    poll(lambda: sessions(pool.proxy) == {"acting": [0, 0, 0], "shadow": [0, 0, 0]}, READY_S, "all have ended")


def test_a_reload_brings_changes_and_ends_the_shadow_and_no_session_notices(start: Starter) -> None:
    file = start.folder / "rproxy.toml"

    def write(shadow: str) -> None:
        file.write_text(f'[[service]]\nlisten = "127.0.0.1:0"\npolicy = "round-robin"\n{shadow}')

    def reload(shadow: str, times: int) -> None:
        write(shadow)
        pool.proxy.send_signal(signal.SIGHUP)
        poll(lambda: pool.proxy.log.count("read again: ") == times, READY_S, "it has read it")

    write("")
    pool = Pool(start.proxy("--config", str(file)))
    start.closing(pool.abandon)  # the mistake below is logged as one
    for _ in range(2):
        pool.serve(echo)
    before = [pool.connect() for _ in range(4)]
    for client in before:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
    reload('shadow = { name = "p2c", choices = 2 }', 1)
    assert sessions(pool.proxy) == {"acting": [2, 2], "shadow": [2, 2]}
    reload('shadow = "least-connections"', 2)
    for _ in range(4):
        client = pool.connect()
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
    assert sessions(pool.proxy) == {"acting": [4, 4], "shadow": [4, 4]}
    found = compared(pool.proxy)
    assert (found["choices"], found["shadow"]["policy"]) == (4, "least-connections")
    reload('shadow = "random-walk"', 2)
    poll(lambda: "no such policy" in pool.proxy.log, READY_S, "the mistake is told")
    assert compared(pool.proxy)["choices"] == 4
    reload("", 3)
    host, port = pool.proxy.admin
    assert json.loads(get(f"http://{host}:{port}/api/shadow")) == {"services": []}
    for client in before:
        client.sendall(b"still")
        assert receive(client, 5) == b"still"
