"""`twistd rproxy-agent`: the agent's options, and the one place that wires it."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from random import random
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from rproxy.monitoring.addresses import local_address
from rproxy.monitoring.agent import Agent, Resolve, Service
from rproxy.monitoring.loops import keep_looping
from rproxy.monitoring.sampler import FixedSampler, HostSampler, Sampler
from rproxy.monitoring.udp import listen_udp
from rproxy.pool.backend import Address, written
from rproxy.tap.keys import Keyring, at_signal, envelope, rotate
from rproxy.tap.options import (
    MONITOR_PORT,
    PORT_MAX,
    CommandOptions,
    cannot_listen,
    host_and_port,
    ip_of,
    keyring,
    number,
    use_monotonic_time,
    whole,
)
from rproxy.tap.process import ProcessService, process_of
from rproxy.wire.pdu import COUNT_MAX, UINT32_MAX, WEIGHT_MAX, WEIGHT_NORMAL

AGENT_PORT: Final = 5555
INTERVAL_MIN_S: Final = 0.001
"""The wire counts whole milliseconds."""
LOOK_S: Final = 1.0
"""How often it is looked whether the file of `--drain-file` is there."""
_REPORT_LIMITS: Final = {"cpu": 100, "memory": 100, "tcp": COUNT_MAX}


@attrs.frozen
class Settings:
    """Everything an agent is told. `report` replaces figures of the host's by name."""

    proxies: tuple[Address, ...]
    interval_s: float = 20.0
    port: int = AGENT_PORT
    service_port: int = 0
    weight: int = WEIGHT_NORMAL
    report: dict[str, int] = attrs.Factory(dict)
    keyring: Keyring | None = None
    """None for plain PDUs."""
    advertise: str | None = None
    """The address at which the proxies see this host, None for that of the route to each."""
    drain_file: str | None = None
    """While it is there, this host wants no new client."""
    trace: bool = False


class Options(CommandOptions):
    """The command line of `twistd rproxy-agent`."""

    command = "rproxy-agent"
    synopsis = "--proxy HOST[:PORT] [options]"
    longdesc = "Registers this host as a back-end with one or more proxies, and answers their probes of its load."

    optParameters = [
        ["interval", "i", "20", "seconds between registrations"],
        ["port", None, str(AGENT_PORT), "UDP port to answer probes on; 0 is any"],
        ["service-port", "s", "0", "TCP port of the service; 0 is the proxy's --backend-port"],
        ["keyring", "k", None, "file of keys: this agent's own (rproxy keygen --agent), or the proxy's"],
        ["advertise", None, None, "with --keyring: this host's address as the proxy sees it, where NAT changes it"],
        ["drain-file", None, None, "while this file is there, ask for no new clients; sessions go on"],
        ["weight", "w", str(WEIGHT_NORMAL), "share of clients relative to 100"],
        ["report", None, "", "report these instead of the host's, for tests: cpu=100,memory=100,tcp=100 or some"],
    ]
    optFlags = [["trace", None, "log every PDU"]]

    def __init__(self) -> None:
        super().__init__()
        self._proxies: list[Address] = []
        self.settings = Settings(())

    def opt_proxy(self, text: str) -> None:
        """HOST[:PORT] of a proxy to register with; repeatable (port 5555)"""
        host, port = host_and_port("proxy", text, port=MONITOR_PORT)
        if port == 0:
            raise usage.UsageError(f"--proxy {text}: must be from 1 to {PORT_MAX}")
        if "%" in host:
            raise usage.UsageError(
                f"--proxy {text}: an address that is good on one link only does not tell who answers"
            )
        self._proxies.append((host, port))

    opt_p = opt_proxy

    def postOptions(self) -> None:
        if not self._proxies:
            raise usage.UsageError("--proxy HOST is missing: the proxy to register with")
        keys = keyring(self, derived=True)
        if self["advertise"] is not None and keys is None:
            raise usage.UsageError("--advertise is of use only with --keyring")
        self.settings = Settings(
            proxies=tuple(dict.fromkeys(self._proxies)),
            interval_s=number("interval", self["interval"], INTERVAL_MIN_S, UINT32_MAX / 1000),
            port=whole("port", self["port"], 0, PORT_MAX),
            service_port=whole("service-port", self["service-port"], 0, PORT_MAX),
            weight=whole("weight", self["weight"], 1, WEIGHT_MAX),
            report=_report(self["report"]),
            keyring=keys,
            advertise=None if self["advertise"] is None else ip_of("advertise", self["advertise"]),
            drain_file=_drain_file(self["drain-file"]),
            trace=bool(self["trace"]),
        )
        self.own_pidfile()

    @property
    def name(self) -> str:
        """With the service's port where there is one: a second agent in the same folder is for another service."""
        port = self.settings.service_port
        return f"{self.command}-{port}" if port else self.command


def _drain_file(path: str | None) -> str | None:
    if path == "":  # an unset variable of a shell: the folder that this would mean is always there
        raise usage.UsageError("--drain-file: no file is named")
    return None if path is None else os.path.abspath(path)


def _report(text: str) -> dict[str, int]:
    report = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in _REPORT_LIMITS:
            raise usage.UsageError(f"--report {part}: not one of {', '.join(_REPORT_LIMITS)}")
        report[name] = whole(f"report {name}", value, 0, _REPORT_LIMITS[name])
    return report


def resolver(reactor: Any, family: socket.AddressFamily) -> Resolve:
    """Looks names up in a thread; an address of ours comes back as it is."""

    def look_up(host: str) -> str:
        return str(socket.getaddrinfo(host, None, family, socket.SOCK_DGRAM)[0][4][0])

    def resolve(host: str) -> Deferred[str]:
        try:
            return succeed(str(ip_address(host)))
        except ValueError:
            return deferToThreadPool(reactor, reactor.getThreadPool(), look_up, host)

    return resolve


class AgentService(ProcessService):
    """One agent on one UDP port, any local address."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings, *, host: str = "", sampler: Sampler | None = None) -> None:
        self._reactor = reactor
        self._settings = settings
        over_ipv6 = any(":" in proxy for proxy, _ in settings.proxies)
        self._host = host or ("::" if over_ipv6 else "")
        sampler = sampler or HostSampler(reactor.seconds)
        if settings.report:
            sampler = FixedSampler(sampler, **settings.report)
        instance = secrets.randbits(64) | 1  # never one whose tag is 0, which stands for any
        self.agent = Agent(
            Service(settings.interval_s, instance, settings.service_port, settings.weight),
            settings.proxies,
            sampler,
            reactor,
            resolver(reactor, socket.AF_UNSPEC if over_ipv6 else socket.AF_INET),
            random,
            envelope=envelope(settings.keyring),
            own_address=_own_address(settings),
            trace=settings.trace,
        )
        self.agent.draining = self._is_to_drain()
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        if self._port is None:
            self._bind()
        super().startService()
        self.log.info(
            "agent registers with {proxies} every {interval_s:g} s",
            proxies=_list(self._settings.proxies),
            interval_s=self._settings.interval_s,
        )
        if self._settings.drain_file is not None:
            if self.agent.draining:
                self._tell_draining()
            keep_looping(self._looking, LOOK_S, now=False, failed=self._failed)

    def _is_to_drain(self) -> bool:
        return self._settings.drain_file is not None and os.path.exists(self._settings.drain_file)

    def _look(self) -> None:
        draining = self._is_to_drain()
        if draining is not self.agent.draining:
            self.agent.drain(draining)
            self._tell_draining()

    def _tell_draining(self) -> None:
        self.log.info(
            "{file} is there: asking for no new clients" if self.agent.draining else "{file} is gone: clients may come",
            file=self._settings.drain_file,
        )

    def _failed(self, failure: Failure) -> None:
        self.log.failure("looking for {file}", failure, file=self._settings.drain_file)

    def _bind(self) -> None:
        port = self._settings.port
        try:
            self._port = listen_udp(self._reactor, port, self.agent, self._host)
        except Exception as error:
            raise cannot_listen(f"--port {port} (UDP)", error) from error

    def rotate_keys(self) -> None:
        """Use the keys that the key file holds now."""
        rotate(self._settings.keyring, self.agent)

    def stopService(self) -> Deferred[Any]:
        """A clean stop: every proxy is told, and sends nothing more."""
        super().stopService()
        if self._looking.running:
            self._looking.stop()
        if self._port is None:
            return succeed(None)
        self.agent.unregister()
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening)


def _own_address(settings: Settings) -> Callable[[Address, str], str] | None:
    advertised = settings.advertise
    if settings.keyring is None:
        return None
    return lambda proxy, asked_at: advertised or asked_at or local_address(proxy)


def _list(proxies: Sequence[Address]) -> str:
    return ", ".join(written(proxy) for proxy in proxies)


def makeService(options: Options) -> AgentService:
    """twistd's entry point."""
    process = process_of(options)
    from twisted.internet import reactor  # not before: a daemon's parent would have it, too

    use_monotonic_time(reactor)
    service = AgentService(reactor, options.settings)
    service.process = process
    if process is not None:
        process.run_on(reactor)
    at_signal(reactor, service.rotate_keys)
    return service
