"""Why a real proxy chose what it chose, and why a back-end gets no clients."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rproxy.net.addresses import Address, written
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import greeting, serve, start_agent, wait_until_up
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.http_client import get
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.sockets import connect

pytestmark = every_carrier
CLIENTS = 10


def asked(proxy: Proxy, path: str, **query: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(get(f"http://{written(proxy.admin)}/api/{path}?{urlencode(query)}"))
    return document


def choices(proxy: Proxy, **query: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked(proxy, "choices", **query)["choices"]
    return found


def why(proxy: Proxy, backend: Address) -> str:
    (explained,) = asked(proxy, "explain", backend=written(backend))["explanations"]
    return str(explained["text"])


def test_choices_are_recorded_with_their_clients_and_their_reasons(start: Starter, variant: Variant) -> None:
    proxy = start.proxy(*variant.options, "--policy", "p2c", reactor=variant.reactor)
    services = [serve(start, word) for word in (b"one", b"two")]
    for service in services:
        start_agent(start, proxy, service)
    wait_until_up(proxy, *services)
    with connect(proxy.address) as client:
        client.recv(3)
        (last,) = choices(proxy, limit=1)
        assert last["client"] == written(client.getsockname())
        assert [each["id"] for each in asked(proxy, "sessions")["sessions"]] == [last["session"]]
    for _ in range(CLIENTS):
        assert greeting(proxy)
    recorded = choices(proxy, client="127.0.0.0/8", service="default")
    assert len(recorded) == CLIENTS + 1
    for choice in recorded:
        assert choice["recomputed"] == choice["chosen"]
        assert choice["rule"] == "less-loaded"
        assert len(choice["candidates"]) == 2
        assert choice["why"].startswith("it was drawn ")
    assert asked(proxy, "choices")["services"] == {"default": {"kept": CLIENTS + 1, "unrecorded": 0}}
    chosen = [choice["chosen"] for choice in recorded]
    for service in services:
        times = chosen.count(written(service))
        assert f"chosen for {times} of {CLIENTS + 1} clients in the last " in why(proxy, service)


def test_a_back_end_without_clients_says_why(start: Starter, variant: Variant, tmp_path: Path) -> None:
    proxy = start.proxy(*variant.options, reactor=variant.reactor)
    service, nowhere = serve(start, b"one"), (LOOPBACK, 1)
    drain_file = tmp_path / "drain"
    agent = start_agent(start, proxy, service, "--drain-file", str(drain_file))
    wait_until_up(proxy, service)
    assert why(proxy, service).startswith(("up; ", "in slow start"))
    assert why(proxy, nowhere) == f"not registered: nobody has registered it; of this host there is {written(service)}"
    drain_file.touch()
    poll(lambda: "its agent says so" in why(proxy, service), READY_S, "it drains")
    agent.close()
    poll(lambda: why(proxy, service).startswith("gone since "), READY_S, "it goes")
    with suppress(ConnectionError):
        assert greeting(proxy) == b""
    (last,) = choices(proxy, limit=1)
    assert (last["chosen"], last["why"]) == (None, "no back-end could get the client")
