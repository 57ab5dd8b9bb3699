"""Which clients a service takes, and how many, as its configuration says."""

from __future__ import annotations

from typing import Any

from rproxy.carriers.carrier import Carrier
from rproxy.config.model import ServiceConfig
from rproxy.observe.service_log import logger_of
from rproxy.sessions.capacity import SESSIONS_MAX
from rproxy.sessions.client_gate import ClientGate, ClientRules
from rproxy.sessions.service import Service
from rproxy.sessions.session import Session
from rproxy.sessions.sweep import Sweep, of_service
from rproxy.tap.parts import Part


class ClientLimits(Part):
    """Sets the `gate` of a service, once there are rules, and the limit of its `capacity`."""

    def __init__(self, reactor: Any, config: ServiceConfig, service: Service, carrier: Carrier) -> None:
        self._service = service
        self.gate = ClientGate(reactor, rules_of(config))
        self.gate.log = logger_of(config.name, self.gate.log)
        self._counting = Sweep(reactor, of_service(carrier.slices, service), Session.count_client, lambda: None)
        self.apply(config)

    def apply(self, config: ServiceConfig) -> None:
        """Apply this configuration from now on. Sessions go on, and count."""
        rules, service = rules_of(config), self._service
        self.gate.apply(rules)
        if service.gate is None and not rules.are_none:
            service.gate = self.gate  # for good: it knows who has left
            if self.running:
                self._counting.begin()
        service.capacity.resize(SESSIONS_MAX if config.max_connections is None else config.max_connections)

    def stopService(self) -> None:
        super().stopService()
        self._counting.stop()
        self.gate.stop()


def rules_of(config: ServiceConfig) -> ClientRules:
    """The rules for clients that a configuration has."""
    return ClientRules(
        config.clients, config.deny, config.max_connections_per_client, config.connections_per_second_per_client
    )
