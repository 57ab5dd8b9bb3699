"""`twistd rproxy-agent`: the agent's options, and the one place that wires it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from random import random
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python import usage

from rproxy.agent.agent import Agent
from rproxy.agent.agent_port import AgentPort
from rproxy.agent.check_loop import Check
from rproxy.agent.draining import Draining
from rproxy.agent.environment import Environment, OwnAddress
from rproxy.agent.registrar import Registration
from rproxy.agent.sampler import FixedSampler, HostSampler, Sampler
from rproxy.agent.service_checks import CommandCheck, ConnectCheck, HttpCheck, OwnAddresses
from rproxy.net.addresses import Address, written
from rproxy.net.lookups import Lookups
from rproxy.net.own_addresses import local_address
from rproxy.tap.check_spec import COMMAND, CONNECT, HTTP, NO_CHECK, check_of
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
_REPORT_LIMITS: Final = {"cpu": 100, "memory": 100, "tcp": COUNT_MAX}


@attrs.frozen
class Settings:
    """Everything an agent is told. `report` replaces figures of the host's by name."""

    proxies: tuple[Address, ...]
    interval_s: float = 20.0
    port: int | None = None
    """None for `AGENT_PORT`, or any while nobody probes there."""
    service_port: int = 0
    weight: int = WEIGHT_NORMAL
    report: dict[str, int] = attrs.Factory(dict)
    keyring: Keyring | None = None
    """None for plain PDUs."""
    advertise: str | None = None
    """The address at which the proxies see this host, None for that of the route to each."""
    drain_file: str | None = None
    """While it is there, this host wants no new client."""
    check: str = NO_CHECK
    """How the service is checked, as `--check` has it."""
    trace: bool = False


class Options(CommandOptions):
    """The command line of `twistd rproxy-agent`."""

    command = "rproxy-agent"
    synopsis = "--proxy HOST[:PORT] [options]"
    longdesc = "Registers this host as a back-end with one or more proxies, and answers their probes of its load."

    optParameters = [
        ["interval", "i", "20", "seconds between registrations"],
        [
            "port",
            None,
            None,
            f"UDP port to answer probes on; 0 is any [default: {AGENT_PORT}, or any while none come]",
        ],
        ["service-port", "s", "0", "TCP port of the service; 0 is the proxy's --backend-port"],
        ["keyring", "k", None, "file of keys: this agent's own (rproxy keygen --agent), or the proxy's"],
        ["advertise", None, None, "with --keyring: this host's address as the proxy sees it, where NAT changes it"],
        ["drain-file", None, None, "while this file is there, ask for no new clients; sessions go on"],
        ["check", None, None, "how to see that the service is well: connect, http:/path, command:CMD or none"],
        ["weight", "w", str(WEIGHT_NORMAL), "share of clients relative to 100"],
        ["report", None, None, "report these instead of the host's, for tests: cpu=100,memory=100,tcp=100 or some"],
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
        service_port = whole("service-port", self["service-port"], 0, PORT_MAX)
        self.settings = Settings(
            proxies=tuple(dict.fromkeys(self._proxies)),
            interval_s=number("interval", self["interval"], INTERVAL_MIN_S, UINT32_MAX / 1000),
            port=None if self["port"] is None else whole("port", self["port"], 0, PORT_MAX),
            service_port=service_port,
            weight=whole("weight", self["weight"], 1, WEIGHT_MAX),
            report=_report(self["report"]),
            keyring=keys,
            advertise=None if self["advertise"] is None else ip_of("advertise", self["advertise"]),
            drain_file=_drain_file(self["drain-file"]),
            check=check_of(self["check"], service_port),
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


def _report(text: str | None) -> dict[str, int]:
    report = {}
    for part in filter(None, (text or "").split(",")):
        name, _, value = part.partition("=")
        if name not in _REPORT_LIMITS:
            raise usage.UsageError(f"--report {part}: not one of {', '.join(_REPORT_LIMITS)}")
        report[name] = whole(f"report {name}", value, 0, _REPORT_LIMITS[name])
    return report


class AgentService(ProcessService):
    """One agent: its UDP port, its sampler and the checks of its service."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings, *, host: str = "", sampler: Sampler | None = None) -> None:
        """`host` is the IP address to open the port on, empty for every address; `sampler` is this host's by default.

        Opens nothing.
        """
        self._settings = settings
        sampler = sampler or HostSampler(reactor.seconds)
        if settings.report:
            sampler = FixedSampler(sampler, **settings.report)
        self.agent = Agent(
            Registration(settings.interval_s, _new_instance(), settings.service_port, settings.weight),
            settings.proxies,
            sampler,
            Environment(reactor, Lookups(reactor).resolve, random, _own_address(settings)),
            envelope=envelope(settings.keyring),
            trace=settings.trace,
        )
        check = _check(settings.check, reactor, settings.service_port, self.agent.own_addresses)
        self._draining = Draining(reactor, self.agent, settings.drain_file, check)
        self._number = AGENT_PORT if settings.port is None else settings.port
        self._port = AgentPort(reactor, self.agent, host, self._number, alternates=settings.port is None)

    def startService(self) -> None:
        """Register from now on. Raises `StartupError` if the port cannot be opened."""
        self._bind()
        super().startService()
        self.log.info(
            "agent registers with {proxies} every {interval_s:g} s",
            proxies=_list(self._settings.proxies),
            interval_s=self._settings.interval_s,
        )
        self._draining.start()
        self._port.start()

    def _bind(self) -> None:
        try:
            self._port.open()
        except Exception as error:
            raise cannot_listen(f"--port {self._number} (UDP)", error) from error

    def rotate_keys(self) -> None:
        """Read the key file again, and use the keys that it holds now."""
        rotate(self._settings.keyring, self.agent)

    def stopService(self) -> Deferred[Any]:
        """Stop cleanly: unregister with every proxy, then close the port. Fires when it is closed."""
        super().stopService()
        self._draining.stop()
        return self._port.stop()


def _new_instance() -> int:
    """A random 64-bit instance. It is odd, so that its tag is never 0, which would address any instance."""
    return secrets.randbits(64) | 1


def _own_address(settings: Settings) -> OwnAddress | None:
    """None without keys, which alone depend on it."""
    advertised = settings.advertise
    if settings.keyring is None:
        return None
    return lambda proxy, probed_at: advertised or probed_at or local_address(proxy)


def _check(spec: str, reactor: Any, port: int, own_addresses: OwnAddresses) -> Check | None:
    """The check that `--check` names; None for none. `port` is the service's."""
    if spec == NO_CHECK:
        return None
    if spec == CONNECT:
        return ConnectCheck(reactor, port, own_addresses)
    if spec.startswith(HTTP):
        return HttpCheck(reactor, port, own_addresses, spec.removeprefix(HTTP))
    return CommandCheck(reactor, spec.removeprefix(COMMAND))


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
