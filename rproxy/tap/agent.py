"""`twistd rproxy-agent`: wires the agent."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from random import random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rproxy.agent.agent import Agent
from rproxy.agent.agent_port import AgentPort
from rproxy.agent.application_load import ApplicationLoad, ApplicationSampler
from rproxy.agent.check_loop import Check
from rproxy.agent.drain_wait import DrainWait
from rproxy.agent.draining import Draining
from rproxy.agent.environment import Environment, OwnAddress
from rproxy.agent.load_sources import AcceptQueueLoad, CommandLoad, FileLoad
from rproxy.agent.registrar import Registration
from rproxy.agent.sampler import FixedSampler, HostSampler, Sampler
from rproxy.agent.scope import Scope, figures
from rproxy.agent.service_checks import CommandCheck, ConnectCheck, HttpCheck, OwnAddresses
from rproxy.config.keyfile import envelope
from rproxy.config.model import AGENT_PORT, COMMAND_CHECK, CONNECT_CHECK, HTTP_CHECK, NO_CHECK, AgentConfig
from rproxy.config.options import AgentOptions
from rproxy.net.addresses import Address, written
from rproxy.net.lookups import Lookups
from rproxy.net.own_addresses import local_address
from rproxy.tap.key_rotation import at_signal, rotate
from rproxy.tap.notify import DRAIN_MARGIN_S
from rproxy.tap.pidfile import own_pidfile
from rproxy.tap.process import ProcessService, process_of, reloading
from rproxy.tap.signals import at_second_stop
from rproxy.tap.startup import cannot_listen, use_monotonic_time
from rproxy.timing.rate_limit import LOG_EVERY_S


class Options(AgentOptions):
    """twistd's entry point for the command line."""

    def postOptions(self) -> None:
        super().postOptions()
        own_pidfile(self)


class AgentService(ProcessService):
    """One agent: its UDP port, its sampler and the checks of its service."""

    log = Logger()

    def __init__(self, reactor: Any, config: AgentConfig, *, host: str = "", sampler: Sampler | None = None) -> None:
        """`host` is the IP address to open the port on, empty for every address; `sampler` is this host's by default.

        Opens nothing.
        """
        self._config = config
        self._host = None if sampler else HostSampler(reactor.seconds, figures(Scope(config.scope)))
        sampler = sampler or self._host
        assert sampler is not None
        if config.report:
            sampler = FixedSampler(sampler, **config.report)
        self._load = _application_load(config, reactor, lambda: self.agent.own_addresses())
        self.agent = Agent(
            Registration(
                config.interval_s, _new_instance(), config.service_port, config.weight, config.max_connections
            ),
            config.proxies,
            sampler if self._load is None else ApplicationSampler(sampler, self._load),
            Environment(reactor, Lookups(reactor).resolve, random, _own_address(config)),
            envelope=envelope(config.keyring),
            trace=config.trace,
        )
        check = _check(config.check, reactor, config.service_port, self.agent.own_addresses)
        self._draining = Draining(reactor, self.agent, config.drain_file, check)
        self._drain_wait = DrainWait(reactor, self.agent, config.drain_wait_s, self._tell_draining)
        self._number = AGENT_PORT if config.port is None else config.port
        self._port = AgentPort(reactor, self.agent, host, self._number, alternates=config.port is None)

    def startService(self) -> None:
        """Register from now on. Raises `StartupError` if the port cannot be opened."""
        self._bind()
        super().startService()
        self.log.info(
            "agent registers with {proxies} every {interval_s:g} s",
            proxies=_list(self._config.proxies),
            interval_s=self._config.interval_s,
        )
        if self._load is not None:
            self._load.start()
        self._draining.start()
        self._port.start()

    def _bind(self) -> None:
        try:
            self._port.open()
        except Exception as error:
            raise cannot_listen(f"--port {self._number} (UDP)", error) from error

    def rotate_keys(self) -> None:
        """Read the key file again, and use the keys that it holds now."""
        rotate(self._config.keyring, self.agent)

    def stopService(self) -> Deferred[Any]:
        """Stop cleanly: let sessions end, unregister with every proxy, then close the port. Fires when it is closed."""
        super().stopService()
        self._draining.stop()
        return self._drain_wait.start().addCallback(lambda _: self._close())

    def stop_at_once(self) -> None:
        """Wait for no sessions, if `stopService` does."""
        self._drain_wait.end()

    def _tell_draining(self, sessions: int) -> None:
        if self.process is not None:
            self.process.notifier.draining(sessions, LOG_EVERY_S + DRAIN_MARGIN_S)

    def _close(self) -> Deferred[Any]:
        if self._load is not None:
            self._load.stop()
        if self._host is not None:
            self._host.close()
        return self._port.stop()


def _new_instance() -> int:
    """A random 64-bit instance. It is odd, so that its tag is never 0, which would address any instance."""
    return secrets.randbits(64) | 1


def _own_address(config: AgentConfig) -> OwnAddress | None:
    """How this host's address is found; None without keys, which alone need it."""
    advertised = config.advertise
    if config.keyring is None:
        return None
    return lambda proxy, probed_at: advertised or probed_at or local_address(proxy)


def _application_load(config: AgentConfig, reactor: Any, own_addresses: OwnAddresses) -> ApplicationLoad | None:
    """Where the service's load comes from; None if only the proxy knows which port is the service's."""
    if config.load_command is not None:
        return CommandLoad(reactor, config.load_command)
    if config.load_file is not None:
        return FileLoad(reactor.seconds, config.load_file)
    return AcceptQueueLoad(reactor.seconds, config.service_port, own_addresses) if config.service_port else None


def _check(spec: str, reactor: Any, port: int, own_addresses: OwnAddresses) -> Check | None:
    """The check that `--check` names; None for none. `port` is the service's."""
    if spec == NO_CHECK:
        return None
    if spec == CONNECT_CHECK:
        return ConnectCheck(reactor, port, own_addresses)
    if spec.startswith(HTTP_CHECK):
        return HttpCheck(reactor, port, own_addresses, spec.removeprefix(HTTP_CHECK))
    return CommandCheck(reactor, spec.removeprefix(COMMAND_CHECK))


def _list(proxies: Sequence[Address]) -> str:
    return ", ".join(written(proxy) for proxy in proxies)


def makeService(options: AgentOptions) -> AgentService:
    """twistd's entry point."""
    process = process_of(options)
    from twisted.internet import reactor  # only now: else a daemon's parent would install it, too

    use_monotonic_time(reactor)
    service = AgentService(reactor, options.config)
    service.process = process
    if process is not None:
        process.run_on(reactor)
    at_second_stop(reactor, service.stop_at_once)
    at_signal(reactor, reloading(process, service.rotate_keys))
    return service
