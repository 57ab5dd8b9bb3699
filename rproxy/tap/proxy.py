"""`twistd rproxy`: the one place that wires the proxy."""

from __future__ import annotations

import secrets
import signal
from random import Random, random
from typing import Any, Final

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rproxy.carriers.carrier import Resources
from rproxy.carriers.registry import make_carrier
from rproxy.config.command_options import fail
from rproxy.config.keyfile import envelope
from rproxy.config.model import ProxyConfig, ServiceConfig
from rproxy.config.options import ProxyOptions
from rproxy.config.validators import ConfigError
from rproxy.net.own_listeners import OwnListeners
from rproxy.observe.documents import Document, Folder
from rproxy.observe.http_server import AdminSite
from rproxy.observe.pool_log import PoolLog
from rproxy.observe.publisher import Publisher
from rproxy.observe.snapshots import Snapshots
from rproxy.observe.status_json import CONTENT_TYPE, Status
from rproxy.pool.pool import Pool
from rproxy.sessions.capacity import Capacity, pipes_for
from rproxy.sources.agents.monitor import Monitor
from rproxy.sources.agents.monitor import Settings as MonitorSettings
from rproxy.sources.saved.keeper import Keeper, in_thread
from rproxy.sources.saved.state_file import StateFile
from rproxy.sources.slow_start import SlowStart
from rproxy.tap.agents_port import AgentsPort
from rproxy.tap.demo import Demo
from rproxy.tap.key_rotation import at_signal, rotate
from rproxy.tap.listeners import ClientListeners, OperatorsListener
from rproxy.tap.parts import Part
from rproxy.tap.pidfile import own_pidfile
from rproxy.tap.policies import Complaints, policy_of
from rproxy.tap.process import ProcessService, process_of
from rproxy.tap.service import serve_pool, terms_of
from rproxy.tap.session_watches import SessionWatches
from rproxy.tap.startup import (
    StartupError,
    operators_max,
    raise_descriptor_limit,
    sessions_max,
    spare_collector,
    use_monotonic_time,
)
from rproxy.tap.state_keeper import StateKeeper
from rproxy.timing.wheel import Wheel
from rproxy.timing.work_queue import WorkQueue

__all__ = ["Options", "ProxyService", "makeService"]

DRAIN_S: Final = 1.0
"""How long sessions may go on once the proxy stops."""
_DRAIN_LOOK_S: Final = 0.05


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
        (only,) = config.services  # options describe one; with several, what is made of `only` is made for each
        self._own = OwnListeners(reactor.seconds)
        self._deadlines = Wheel(reactor)
        self._work = WorkQueue(reactor)
        pool = Pool(
            policy_of(only, Random()),
            Complaints(reactor.seconds),
            only.backend_port,
            config.timing.probe_timeout_s,
            config.limits,
        )
        self._publisher = Publisher()
        self.monitor = Monitor(
            pool,
            reactor,
            self._publisher,
            lambda: secrets.randbits(64),
            random,
            envelope(config.keyring),
            MonitorSettings(config.timing, tuple(config.allow), self._own.leads_here, config.trace),
        )
        self._slow_start = SlowStart(reactor, pool)
        self._pool_log = PoolLog(reactor, config.limits.confirmed, trace=config.trace)
        self._publisher.subscribe(self.monitor.observers())
        self._publisher.subscribe(self._slow_start.observers())
        self._publisher.subscribe(self._pool_log.observers())
        self._served = serve_pool(
            pool,
            reactor,
            terms_of(only),
            saturation=only.saturation,
            trace=config.trace,
            publish=self._publisher,
            may_self_connect=self._own.may_self_connect,
        )
        self.service = self._served.service
        most = sessions_max(only, descriptors, has_operators=config.admin is not None)
        self.capacity = Capacity(most, reactor.seconds)
        self._status = Status([self._served.view], self.monitor.counters, self.capacity)
        resources = Resources(reactor, self._deadlines, self.capacity, pipes_for(descriptors))
        self.carrier = make_carrier(config.carrier, resources)
        self._bound = False
        self.hurried = False
        """Whether a stop ends the sessions at once."""
        self._add_parts(only, descriptors)

    def _add_parts(self, only: ServiceConfig, descriptors: int) -> None:
        """In the order in which they start, and open their ports."""
        reactor, config = self._reactor, self._config
        agents = AgentsPort(reactor, config, self.monitor, self.carrier)
        self._demo = Demo(reactor, config, agents)
        self._parts: list[Part] = [
            agents,
            ClientListeners(reactor, only, self.service, self.carrier, self._own, freebind=config.freebind),
            OperatorsListener(reactor, config, self._site(descriptors), self._own),
            self._demo,
            # after the listeners: ending a waiting client must not make room for another one
            SessionWatches(
                reactor, only, self._served, self.carrier, self.capacity, self.monitor, self._own, self._publisher
            ),
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
            self.service.pool,
            self.monitor,
            self._reactor,
            self._work,
            in_thread(self._reactor),
            lambda: self._demo.addresses,
        )

    def status(self) -> dict[str, Any]:
        """What `/status.json` shows."""
        return self._status.document()

    def rotate_keys(self) -> None:
        """Read the key file again, and use the keys that it holds now."""
        rotate(self._config.keyring, self.monitor, *self._demo.agents)

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
        allow = self._config.allow
        if self._config.is_open and (not allow or any(network.prefixlen == 0 for network in allow)):
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
        return loop.start(_DRAIN_LOOK_S)

    def _stop_draining(self, loop: LoopingCall, deadline: float) -> None:
        if not self.capacity.sessions or self.hurried or self._reactor.seconds() >= deadline:
            loop.stop()

    def _stop_parts(self) -> Deferred[Any]:
        stopped: Deferred[Any] = MultiService.stopService(self)
        self._slow_start.stop()
        self._pool_log.stop()
        self._work.stop()
        self._deadlines.stop()
        return stopped


def _hurry_at_second_signal(service: ProxyService) -> None:
    """A second SIGINT or SIGTERM ends the sessions at once. Twisted would log an error, and go on waiting."""

    def hurry(*_: object) -> None:
        service.hurried = True

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, hurry)


def makeService(options: ProxyOptions) -> ProxyService:
    """twistd's entry point."""
    process = process_of(options)
    from twisted.internet import reactor  # not earlier: a daemon's parent would have it, too

    use_monotonic_time(reactor)
    try:
        service = ProxyService(reactor, options.config, descriptors=raise_descriptor_limit())
    except ConfigError as error:
        fail(f"twistd {options.command}: {error}")
    service.process = process
    if process is not None:
        process.run_on(reactor)
    spare_collector()
    at_signal(reactor, service.rotate_keys)
    reactor.addSystemEventTrigger("before", "shutdown", _hurry_at_second_signal, service)
    return service
