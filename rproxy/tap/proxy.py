"""`twistd rproxy`: wires the proxy."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import chain
from random import random
from time import monotonic, time
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger

from rproxy.carriers.carrier import Resources
from rproxy.carriers.registry import make_carrier
from rproxy.config.activation import activated
from rproxy.config.command_options import fail
from rproxy.config.file_errors import located
from rproxy.config.keyfile import envelope
from rproxy.config.model import ProxyConfig
from rproxy.config.options import ProxyOptions
from rproxy.config.validators import ConfigError
from rproxy.net.inherited import inherited_sockets, tell_twisted
from rproxy.net.own_listeners import OwnListeners
from rproxy.observe.choices import ChoiceBook
from rproxy.observe.doubts import Doubts
from rproxy.observe.history import History
from rproxy.observe.status_json import Status
from rproxy.sessions.capacity import Capacity, pipes_for
from rproxy.sessions.service import Service as SessionService
from rproxy.sources.agents.monitor import Monitor
from rproxy.sources.agents.monitor import Settings as MonitorSettings
from rproxy.sources.agents.service_agents import TOKEN_BITS
from rproxy.sources.saved.keeper import Restoring
from rproxy.sources.saved.rows import Rows, is_kept
from rproxy.sources.saved.state_file import StateFile
from rproxy.tap.access_log import AccessLogPart
from rproxy.tap.agents_port import AgentsPort
from rproxy.tap.carrier_part import CarrierPart
from rproxy.tap.demo import Demo
from rproxy.tap.draining import Draining
from rproxy.tap.garbage_collector import GarbageCollector
from rproxy.tap.key_rotation import at_signal, rotate, use_keys
from rproxy.tap.notify import DRAIN_MARGIN_S
from rproxy.tap.operators import Operators, Seen
from rproxy.tap.operators_listener import OperatorsListener
from rproxy.tap.page import LivePage
from rproxy.tap.parts import Part, Started, Timers
from rproxy.tap.pidfile import own_pidfile
from rproxy.tap.process import Process, ProcessService, process_of, reloading
from rproxy.tap.reload import in_force, waiting
from rproxy.tap.reload_report import Outcome, ReloadReport
from rproxy.tap.services import Services
from rproxy.tap.signals import at_second_stop
from rproxy.tap.startup import (
    StartupError,
    process_facts,
    raise_descriptor_limit,
    sessions_max,
    use_monotonic_time,
)
from rproxy.tap.state_keeper import StateKeeper
from rproxy.tap.steering import Steering
from rproxy.tap.surroundings import Surroundings
from rproxy.timing.rate_limit import LOG_EVERY_S
from rproxy.timing.wheel import Wheel
from rproxy.timing.work_queue import WorkQueue

__all__ = ["Options", "ProxyService", "makeService"]


class Options(ProxyOptions):
    """twistd's entry point for the command line."""

    def postOptions(self) -> None:
        super().postOptions()
        own_pidfile(self, takes_over=self.config.reuse_port)


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
        self.access_log = AccessLogPart(reactor, config, lambda: (self.capacity.sessions, self._services.sessions()))
        history, log = History(time), self.access_log
        shared = Surroundings(reactor, config, self.monitor, self.carrier, self._own, self._deadlines, history, log)
        self._services = Services(config.services, shared, lambda view: self._status.removed(view))
        views = self._services.views
        counters, interval_s = self.monitor.counters, config.timing.probe_interval_s
        self._doubts = Doubts(reactor, time, self._work, views, counters, history, interval_s)
        self._status = Status(views, counters, self.capacity, process_facts(), self._doubts.documents)
        self._page = LivePage(reactor, config, self._status, history, self._work)
        slices = self.carrier.slices
        self._steering = Steering(reactor, self._services, slices, self._work, history, time)
        choices, drops = shared.choices or ChoiceBook(time), self.monitor.drop_log
        seen = Seen(self._services, self._status, history, self._doubts, choices, slices, drops, lambda: log.lost)
        self._operators = Operators(reactor, config, seen, self._page, self._steering, self._work)
        self._descriptors = descriptors
        self._moving = Restoring({}, self.monitor, reactor, self._work)
        """Back-ends that are another service's since the last reload."""
        self._bound = False
        self._draining = Draining(reactor, self.capacity, config.drain_timeout_s, self._tell_draining)
        self.reread: Callable[[], ProxyConfig] | None = None
        """Reads the configuration's file again, and raises `ConfigError`; None without one."""
        self._report: ReloadReport | None = None
        self._add_parts(shared, descriptors)

    @property
    def service(self) -> SessionService:
        """The first service."""
        return self._services.configured[0].served.service

    def _add_parts(self, shared: Surroundings, descriptors: int) -> None:
        """In the order in which they start, and open their ports. They stop in the opposite order."""
        reactor, config, carrier, services = self._reactor, self._config, self.carrier, self._services
        self._agents_port = AgentsPort(reactor, config, self.monitor, carrier)
        self._admin = OperatorsListener(reactor, config, self._operators.site(descriptors), self._own)
        self._demo = Demo(reactor, config, self._agents_port)
        self._parts: list[Part] = [
            self.access_log,
            Timers(self._steering, self._work, self._deadlines, services),
            services.timers,
            self._agents_port,
            services.listeners,
            services.statics,
            self._page,
            Started(self._doubts),
            self._admin,
            self._demo,
            services.timeouts,  # after the listeners: ending a waiting client must not admit another one
            services.terms,
            CarrierPart(reactor, carrier, self.capacity, shared.exclude_loop),
        ]
        if config.state_file is not None:
            file, unsaved = StateFile(config.state_file, shared=config.reuse_port), lambda: self._demo.addresses
            state = StateKeeper(reactor, file, services, self.monitor, self._work, unsaved)
            self._steering.keeper = state.keeper
            self._parts.insert(0, state)
        for part in self._parts:
            part.setServiceParent(self)

    def status(self) -> dict[str, Any]:
        """The content of `/status.json`."""
        return self._status.document()

    def status_line(self) -> str:
        """What ``systemctl status`` shows."""
        pools = self._services.pools().values()
        eligible, backends = sum(len(pool.eligible) for pool in pools), sum(len(pool) for pool in pools)
        return f"{self.capacity.sessions} session(s), {eligible} of {backends} back-end(s) get clients"

    def rotate_keys(self) -> bool:
        """Read the key file again, and use the keys that it holds now. Returns whether they are in use."""
        return rotate(self._config.keyring, self.monitor, *self._demo.agents)

    def read_tls_again(self) -> None:
        """Read the files of certificates again, and use them for those who connect from now on."""
        for each in self._services:
            each.read_tls_again()

    def read_again(self) -> None:
        """Read the files of keys, of the configuration and of certificates again. Of a broken one nothing is used.

        That is logged, and reported to `rproxy reload`.
        """
        began_at = monotonic()
        outcome = self._read_again()
        if self._report is not None:
            self._report.write(began_at, outcome)

    def _read_again(self) -> Outcome:
        if self.reread is None or not self.running:
            rotated = (self._config.keyring is not None or self.reread is None) and self.rotate_keys()
            self.read_tls_again()
            self._operators.read_tokens_again()
            if self.reread is not None:
                return Outcome(False, "the proxy does not run: its file was not read again")
            return Outcome(
                rotated, "keys read again" if rotated else "no keys read again, and there is no --config FILE"
            )
        try:
            changes = self.apply(self.reread())
        except (ConfigError, StartupError) as error:
            said = located(self._config.file, error) if isinstance(error, ConfigError) else str(error)
            self.log.error("{error}; everything stays as it was", error=said)
            return Outcome(False, f"{said}; everything stays as it was")
        except Exception as error:
            self.log.failure("the configuration could not be applied")
            return Outcome(False, f"{type(error).__name__}: its log says more")
        if self._config.keyring is not None:
            self.rotate_keys()
        kept = [f"{each.config.name}: {why}" for each in self._services.configured for why in each.tls.kept]
        return Outcome(not kept, "; ".join([changes, *kept]))

    def apply(self, config: ProxyConfig) -> str:
        """Do what this configuration says from now on. Returns what has changed, in one line, which is logged, too.

        Sessions and listeners that stay do not notice. Keys of the process that a restart has to wait for stay as they
        are. Raises `ConfigError` or `StartupError` with one line, and has changed nothing then.
        """
        before, rows, overrides = self._config, self._rows(), self._steering.overrides()
        used = in_force(before, config, monitored=self._agents_port.is_open)
        capacity = sessions_max(used, self._descriptors)
        opened = used.takes_agents and not self._agents_port.is_open
        if opened:
            self._agents_port.open(used)
        try:
            with self.access_log.changing(used, self._services):
                changes = self._services.apply(used.services)
        except (ConfigError, StartupError):
            if opened:
                self._agents_port.close()
            raise
        if used.keyring is not None and before.keyring is not None and used.keyring.path != before.keyring.path:
            use_keys(used.keyring, self.monitor, *self._demo.agents)
        self.capacity.resize(capacity)
        self.monitor.allow = used.allow
        self._operators.use_tokens(used.admin_token_file)
        self._draining.timeout_s = used.drain_timeout_s
        self._move_agents(rows)
        self._steering.move(overrides)
        self._config = used
        if not before.lets_any_host_register:
            self._warn_of_open_services()
        text = f"{config.file} read again: {changes}"
        self.log.info("{text}", text=text)
        if not (keys := waiting(used, config)):
            return text
        wait = f"a restart has to come before these keys change: {', '.join(keys)}"
        self.log.warn("{wait}", wait=wait)
        return f"{text}; {wait}"

    def _rows(self) -> Rows:
        """The registrations of all back-ends."""
        backends = chain.from_iterable(service.pool for service in self._services)
        return {(each.address, each.port): each.registration for each in backends if is_kept(each)}

    def _move_agents(self, rows: Rows) -> None:
        """Have these back-ends be in the pools of those services that accept their agents now, and in no others."""
        self.monitor.exclude_others()
        self._moving.stop()
        self._moving = Restoring(rows, self.monitor, self._reactor, self._work)
        self._moving.start()

    def _bind(self) -> None:
        """Open every port or none. Raises `StartupError`."""
        self._bound = True
        try:
            MultiService.privilegedStartService(self)
        except StartupError:
            self._stop_accepting()
            self._stop_parts()
            raise

    def _made_pid_file(self, process: Process) -> None:
        process.files += self.access_log.files
        if self.reread is not None or self._config.keyring is not None:  # there is something to read again
            self._report = process.reload_report()
        process.gives.append(self._admin.give)

    def startService(self) -> None:
        if not self._bound:
            self._bind()
        super().startService()
        self._warn_of_open_services()

    def _warn_of_open_services(self) -> None:
        if self._config.lets_any_host_register:
            self.log.warn("any host may register as a back-end; --keyring FILE limits that")

    def stopService(self) -> Deferred[Any]:
        """Accept no more clients, give sessions `drain_timeout_s` to end, then end them. Fires when all is closed."""
        Service.stopService(self)
        self._operators.stopping = True
        self._moving.stop()
        self._draining.start()
        drained = self._stop_accepting().addCallback(lambda _: self._draining.wait())
        return drained.addCallback(lambda _: self._stop_parts())

    def _stop_accepting(self) -> Deferred[Any]:
        return DeferredList([maybeDeferred(part.stop_accepting) for part in self._parts])

    def stop_at_once(self) -> None:
        """End the sessions now, if `stopService` waits for them."""
        for part in self._parts:
            part.hurry()
        self._draining.end()

    def _tell_draining(self, sessions: int) -> None:
        if self.process is not None:
            self.process.notifier.draining(sessions, LOG_EVERY_S + DRAIN_MARGIN_S)

    def _stop_parts(self) -> Deferred[Any]:
        stopped: Deferred[Any] = MultiService.stopService(self)
        return stopped


def makeService(options: ProxyOptions) -> ProxyService:
    """twistd's entry point."""
    sockets = inherited_sockets()  # they are this process': a daemon's would have another id
    process = process_of(options)
    from twisted.internet import reactor  # only now: else a daemon's parent would install it, too

    use_monotonic_time(reactor)
    try:
        tell_twisted(sockets)
        config = activated(options.config, sockets)
        service = ProxyService(reactor, config, descriptors=raise_descriptor_limit())
    except ConfigError as error:
        fail(f"twistd {options.command}: {options.told(error)}")
    service.process = process
    if options.config.file is not None:
        service.reread = options.read_again
    if process is not None:
        service.access_log.is_daemon = process.is_daemon
        process.run_on(reactor, service.status_line, service.access_log.reopen)
        GarbageCollector(reactor).start()
    at_signal(reactor, reloading(process, service.read_again))
    at_second_stop(reactor, service.stop_at_once)
    return service
