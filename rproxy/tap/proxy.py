"""`twistd rproxy`: wires the proxy."""

from __future__ import annotations

import secrets
import signal
from random import random
from typing import Any, Final

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rproxy.carriers.carrier import Resources
from rproxy.carriers.registry import make_carrier
from rproxy.config.command_options import fail
from rproxy.config.keyfile import envelope
from rproxy.config.model import ProxyConfig
from rproxy.config.options import ProxyOptions
from rproxy.config.validators import ConfigError
from rproxy.net.own_listeners import OwnListeners
from rproxy.observe.documents import Document, Folder
from rproxy.observe.http_server import AdminSite
from rproxy.observe.snapshots import Snapshots
from rproxy.observe.status_json import CONTENT_TYPE, Status
from rproxy.sessions.capacity import Capacity, pipes_for
from rproxy.sessions.service import Service as SessionService
from rproxy.sources.agents.monitor import Monitor
from rproxy.sources.agents.monitor import Settings as MonitorSettings
from rproxy.sources.agents.service_agents import TOKEN_BITS
from rproxy.sources.saved.keeper import Keeper, in_thread
from rproxy.sources.saved.state_file import StateFile
from rproxy.tap.agents_port import AgentsPort
from rproxy.tap.carrier_part import CarrierPart
from rproxy.tap.demo import Demo
from rproxy.tap.key_rotation import at_signal, rotate
from rproxy.tap.listeners import OperatorsListener
from rproxy.tap.parts import Group, Part, Timers
from rproxy.tap.pidfile import own_pidfile
from rproxy.tap.process import ProcessService, process_of
from rproxy.tap.service_wiring import ServiceWiring, Surroundings
from rproxy.tap.startup import (
    StartupError,
    operators_max,
    raise_descriptor_limit,
    sessions_max,
    tune_garbage_collector,
    use_monotonic_time,
)
from rproxy.tap.state_keeper import StateKeeper
from rproxy.timing.wheel import Wheel
from rproxy.timing.work_queue import WorkQueue

__all__ = ["Options", "ProxyService", "makeService"]

DRAIN_S: Final = 1.0
"""How long sessions may go on after the proxy has begun to stop."""
_DRAIN_POLL_S: Final = 0.05


class Options(ProxyOptions):
    """twistd's entry point for the command line."""

    def postOptions(self) -> None:
        super().postOptions()
        own_pidfile(self)


class ProxyService(ProcessService, MultiService):
    """A whole proxy: wires its parts, starts them in order, and stops them in two steps (see `Part`)."""

    log = Logger()

    def __init__(self, reactor: Any, config: ProxyConfig, *, descriptors: int = 1024) -> None:
        """`descriptors` is how many the process may have open. Opens nothing. Raises `ConfigError`."""
        MultiService.__init__(self)
        self._reactor = reactor
        self._config = config
        self._own = OwnListeners(reactor.seconds)
        self._deadlines = Wheel(reactor)
        self._work = WorkQueue(reactor)
        self.capacity = Capacity(sessions_max(config, descriptors), reactor.seconds)
        resources = Resources(reactor, self._deadlines, self.capacity, pipes_for(descriptors))
        self.carrier = make_carrier(config.carrier, resources)
        self.monitor = Monitor(
            reactor,
            lambda: secrets.randbits(TOKEN_BITS),
            random,
            envelope(config.keyring),
            MonitorSettings(config.timing, config.allow, self._own.leads_here, config.trace),
        )
        shared = Surroundings(reactor, config, self.monitor, self.carrier, self._own, self._deadlines)
        self._services = [ServiceWiring(each, shared) for each in config.services]
        views = lambda: [each.served.view for each in self._services]  # noqa: E731
        self._status = Status(views, self.monitor.counters, self.capacity)
        self._bound = False
        self.stop_at_once = False
        """Whether a stop ends the sessions at once."""
        self._add_parts(descriptors)

    @property
    def service(self) -> SessionService:
        """The first service."""
        return self._services[0].served.service

    def _add_parts(self, descriptors: int) -> None:
        """In the order in which they start, and open their ports. They stop in the opposite order."""
        reactor, config, carrier = self._reactor, self._config, self.carrier
        agents = AgentsPort(reactor, config, self.monitor, carrier)
        self._demo = Demo(reactor, config, agents)
        timers, listeners, statics, timeouts, terms = Group(), Group(), Group(), Group(), Group()
        for each in self._services:
            each.timers.setServiceParent(timers)
            each.listeners.setServiceParent(listeners)
            each.static.setServiceParent(statics)
            each.timeouts.setServiceParent(timeouts)
            each.outbound.setServiceParent(terms)
            each.clients.setServiceParent(terms)
        self._parts: list[Part] = [
            Timers(self._work, self._deadlines),
            timers,
            agents,
            listeners,
            statics,
            OperatorsListener(reactor, config, self._site(descriptors), self._own),
            self._demo,
            timeouts,  # after the listeners: ending a waiting client must not admit another one
            terms,
            CarrierPart(reactor, carrier, self.capacity, self.monitor, self._own),
        ]
        if config.state_file is not None:
            self._parts.append(StateKeeper(reactor, self._keeper(config.state_file)))
        for part in self._parts:
            part.setServiceParent(self)

    def _site(self, descriptors: int) -> AdminSite:
        shown = Snapshots(self._status.rendered, self._work, self._reactor.seconds)
        root = Folder()
        root.putChild(b"status.json", Document(CONTENT_TYPE, shown, self._work))
        return AdminSite(root, self._reactor, self._work, self._config.admin_names, operators_max(descriptors))

    def _keeper(self, path: str) -> Keeper:
        return Keeper(
            StateFile(path),
            lambda: [each.pool for each in self._services],
            self.monitor,
            self._reactor,
            self._work,
            in_thread(self._reactor),
            lambda: self._demo.addresses,
        )

    def status(self) -> dict[str, Any]:
        """The content of `/status.json`."""
        return self._status.document()

    def rotate_keys(self) -> None:
        """Read the key file again, and use the keys that it holds now."""
        rotate(self._config.keyring, self.monitor, *self._demo.agents)

    def read_tls_again(self) -> None:
        """Read the files of certificates again, and use them for those who connect from now on."""
        for each in self._services:
            each.read_tls_again()

    def read_again(self) -> None:
        """Read the key file and those of certificates again."""
        self.rotate_keys()
        self.read_tls_again()

    def _bind(self) -> None:
        """Open every port or none. Raises `StartupError`."""
        self._bound = True
        try:
            MultiService.privilegedStartService(self)
        except StartupError:
            self._stop_accepting()
            self._stop_parts()
            raise

    def startService(self) -> None:
        if not self._bound:
            self._bind()
        super().startService()
        if self._config.lets_any_host_register:
            self.log.warn("any host may register as a back-end; --keyring FILE limits that")

    def stopService(self) -> Deferred[Any]:
        """Accept no more clients, give sessions `DRAIN_S` to end, then end them. Fires when all ports are closed."""
        Service.stopService(self)
        drained = self._stop_accepting().addCallback(lambda _: self._drain())
        return drained.addCallback(lambda _: self._stop_parts())

    def _stop_accepting(self) -> Deferred[Any]:
        return DeferredList([maybeDeferred(part.stop_accepting) for part in self._parts])

    def _drain(self) -> Deferred[Any]:
        """Fires once no session is left, or their time is over."""
        deadline = self._reactor.seconds() + DRAIN_S
        loop = LoopingCall(lambda: self._stop_draining(loop, deadline))
        loop.clock = self._reactor
        return loop.start(_DRAIN_POLL_S)

    def _stop_draining(self, loop: LoopingCall, deadline: float) -> None:
        if not self.capacity.sessions or self.stop_at_once or self._reactor.seconds() >= deadline:
            loop.stop()

    def _stop_parts(self) -> Deferred[Any]:
        stopped: Deferred[Any] = MultiService.stopService(self)
        return stopped


def _stop_at_once_at_second_signal(service: ProxyService) -> None:
    """Have a second SIGINT or SIGTERM end the sessions at once. Twisted would log an error, and go on waiting."""

    def stop_at_once(*_: object) -> None:
        service.stop_at_once = True

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop_at_once)


def makeService(options: ProxyOptions) -> ProxyService:
    """twistd's entry point."""
    process = process_of(options)
    from twisted.internet import reactor  # only now: else a daemon's parent would install it, too

    use_monotonic_time(reactor)
    try:
        service = ProxyService(reactor, options.config, descriptors=raise_descriptor_limit())
    except ConfigError as error:
        fail(f"twistd {options.command}: {error}")
    service.process = process
    if process is not None:
        process.run_on(reactor)
    tune_garbage_collector()
    at_signal(reactor, service.read_again)
    reactor.addSystemEventTrigger("before", "shutdown", _stop_at_once_at_second_signal, service)
    return service
