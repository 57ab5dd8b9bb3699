"""Who may send PROXY headers."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from twisted.internet.task import Clock

from rproxy.sessions.proxy_headers import ProxyHeaders


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%2", True),
        ("a name", False),
    ],
)
def test_a_host_of_one_of_the_networks_is_trusted(host: str, trusted: bool) -> None:
    networks = [ip_network(each) for each in ("10.0.0.0/8", "2001:db8::/32", "fe80::/10")]
    rules = ProxyHeaders(networks, Clock().seconds)
    assert [rules.trusts((host, port)) for port in (1, 2)] == [trusted] * 2


def test_the_permissions_of_a_unix_socket_decide_about_its_clients() -> None:
    assert ProxyHeaders([ip_network("10.0.0.0/8")], Clock().seconds).trusts(None)
