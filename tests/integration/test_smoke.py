"""The least that must work with every version of everything: the demo's answers, over TCP and over TLS."""

from __future__ import annotations

import http.client
import ssl

import pytest

from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Certificate, Starter, every_listener
from tests.integration.http_client import get
from tests.integration.logs import failures
from tests.integration.polling import READY_S, SOCKET_S, poll
from tests.integration.twistd import REACTORS


@pytest.mark.parametrize("reactor", REACTORS)
def test_the_demo_answers_on_a_plain_listener_and_on_a_tls_one(
    start: Starter, certificate: Certificate, reactor: str
) -> None:
    proxy = start.proxy(*every_listener(start.folder, certificate), "--demo", "2", reactor=reactor)
    poll(lambda: [row["state"] for row in proxy.backends().values()] == ["up"] * 2, READY_S, "both are up")
    plain, _, _, tls = proxy.listeners
    assert get(f"http://{plain}/").startswith(b"hello from demo back-end ")
    context = ssl.create_default_context(cafile=str(certificate.certificate))
    client = http.client.HTTPSConnection(LOOPBACK, int(tls.rpartition(":")[2]), timeout=SOCKET_S, context=context)
    client.request("GET", "/")
    assert client.getresponse().read().startswith(b"hello from demo back-end ")
    client.close()
    proxy.stop()
    assert failures(proxy.log) == []
