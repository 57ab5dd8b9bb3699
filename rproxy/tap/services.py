"""The services of the process, which come, change and go while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from rproxy.config.model import ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.observe.shadow_json import ComparedPolicies
from rproxy.observe.status_json import ServiceView
from rproxy.pool.pool import Pool
from rproxy.tap.listener_changes import ListenerChanges
from rproxy.tap.parts import Group
from rproxy.tap.service_wiring import ServiceWiring
from rproxy.tap.startup import StartupError
from rproxy.tap.surroundings import Surroundings

LOOK_EVERY_S: Final = 1.0
"""Services that are leaving are looked at this often."""


class Services:
    """The services that are configured, and those that are leaving: they go once their last session has ended.

    `timers`, `listeners`, `statics`, `timeouts` and `terms` are the parts of all of them.
    """

    log = Logger()

    def __init__(
        self, configs: Sequence[ServiceConfig], shared: Surroundings, gone: Callable[[ServiceView], None]
    ) -> None:
        """Opens nothing. `gone` is called with each service that has gone. Raises `ConfigError`."""
        self._shared = shared
        self.timers, self.listeners, self.statics, self.timeouts, self.terms = (Group() for _ in range(5))
        self._groups = (self.timers, self.listeners, self.statics, self.timeouts, self.terms, self.terms)
        self._gone = gone
        self.configured: list[ServiceWiring] = []
        """In the order of the configuration."""
        self.leaving: list[ServiceWiring] = []
        self._look: IDelayedCall | None = None
        for config in configs:
            self._add(ServiceWiring(config, shared))

    def _add(self, service: ServiceWiring) -> None:
        self.configured.append(service)
        for part, group in zip(service.parts, self._groups, strict=True):
            part.setServiceParent(group)

    def __iter__(self) -> Iterator[ServiceWiring]:
        """All of them, those that are leaving last."""
        yield from self.configured
        yield from self.leaving

    def views(self) -> list[ServiceView]:
        """Of all of them."""
        return [each.served.view for each in self]

    def compared(self) -> list[ComparedPolicies]:
        """Of those that have a shadow policy."""
        return [compared for each in self if (compared := each.compared) is not None]

    def pools(self) -> dict[str, Pool]:
        """Of those that are configured, by name."""
        return {each.config.name: each.pool for each in self.configured}

    def sessions(self) -> dict[str, int]:
        """How many each has now, by name."""
        return {each.config.name: each.served.service.sessions for each in self}

    def apply(self, configs: Sequence[ServiceConfig]) -> Changes:
        """Have these services from now on, whose names differ.

        Raises `ConfigError`, or `StartupError` if a new listener cannot be opened, and has changed nothing then.
        """
        known = {each.config.name: each for each in self}
        added: list[ServiceWiring] = []
        try:
            for config in configs:
                if config.name not in known:
                    known[config.name] = ServiceWiring(config, self._shared)
                    added.append(known[config.name])
            wanted = [(known[config.name], config) for config in configs]
            applying = [service.prepared(config) for service, config in wanted]
            listeners = ListenerChanges(
                [(service.listeners, service.listeners.named_by(config)) for service, config in wanted],
                [service.listeners for service in self],
            )
            listeners.open()
        except (ConfigError, StartupError):
            for service in added:
                service.release()
            raise
        changes = self._changes([service for service, _ in wanted], added, configs)
        for apply in applying:
            apply()
        listeners.take_over()
        listeners.close()
        self._replace([service for service, _ in wanted], added)
        return changes

    def _changes(
        self, services: Sequence[ServiceWiring], added: Sequence[ServiceWiring], configs: Sequence[ServiceConfig]
    ) -> Changes:
        return Changes(
            added=[each.config.name for each in added],
            changed=[
                each.config.name
                for each, config in zip(services, configs, strict=True)
                if each not in added and (each.config != config or each.is_leaving)
            ],
            removed=[each.config.name for each in self.configured if each not in services],
        )

    def _replace(self, services: list[ServiceWiring], added: Sequence[ServiceWiring]) -> None:
        gone = [each for each in self.configured if each not in services]
        self.leaving = [*(each for each in self.leaving if each not in services), *gone]
        self.configured = [each for each in services if each not in added]
        for each in added:
            self._add(each)
        self.configured = services
        self._shared.monitor.arrange([each.agents for each in services])
        for each in gone:
            each.is_leaving = True
        self._release_idle()

    def _release_idle(self) -> None:
        """Release those whose sessions have all ended, and look again while others have some."""
        self.stop()
        for service in [each for each in self.leaving if not each.is_busy]:
            self.leaving.remove(service)
            service.release()
            self._gone(service.served.view)
            self.log.info("service {name}: removed, and its last session has ended", name=service.config.name)
        if self.leaving:
            self._look = self._shared.reactor.callLater(LOOK_EVERY_S, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._release_idle()

    def stop(self) -> None:
        """Cancel the timer. May be called twice."""
        if self._look is not None:
            self._look.cancel()
            self._look = None


@attrs.frozen
class Changes:
    """What a reload has done, by the services' names."""

    added: Sequence[str]
    changed: Sequence[str]
    removed: Sequence[str]

    def __str__(self) -> str:
        """For a log line."""
        kinds = {"added": self.added, "changed": self.changed, "removed": self.removed}
        told = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
        return "; ".join(told) or "no service has changed"
