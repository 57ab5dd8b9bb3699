"""What a configuration says about PROXY headers reaches its service."""

from __future__ import annotations

from ipaddress import ip_network

from twisted.internet.task import Clock

from rproxy.config.model import ServiceConfig
from rproxy.sessions.endings import Ending
from rproxy.sessions.service import Service
from rproxy.tap.service import use_proxy_headers
from tests.fakes import logged, pool_with, texts

HEADERS = ServiceConfig("web", proxy_protocol_from=(ip_network("10.0.0.0/8"),), send_proxy=2)


def service_of(*configs: ServiceConfig) -> Service:
    """One that has been given these, one after the other."""
    service = Service(pool_with(1), Clock())
    for config in configs:
        use_proxy_headers(service, config, Clock())
    return service


def test_by_default_there_are_none_and_later_ones_end() -> None:
    for configs in ([ServiceConfig()], [HEADERS, ServiceConfig()]):
        service = service_of(*configs)
        assert (service.proxy_headers, service.outbound.send_proxy) == (None, 0)


def test_networks_and_the_version_are_taken_over_and_lines_name_the_service() -> None:
    service = service_of(HEADERS)
    assert service.outbound.send_proxy == 2
    assert service.proxy_headers is not None
    assert [service.proxy_headers.trusts((host, 1)) for host in ("10.1.1.1", "11.1.1.1")] == [True, False]
    with logged() as events:
        service.proxy_headers.refused(Ending.UNTRUSTED, ("11.1.1.1", 1))
    assert texts(events) == ["web: 11.1.1.1:1 is not of proxy-protocol-from: refused"]
