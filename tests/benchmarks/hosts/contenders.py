"""What is compared: proxies that choose among the hosts, each as several processes in namespaces of their own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from rproxy.config.model import ServiceConfig
from rproxy.net.addresses import Address
from tests.benchmarks.hosts.farm import CHECK_PORT, LAN, SERVICE_PORT, Farm, Place
from tests.benchmarks.hosts.figures import HAPROXY
from tests.benchmarks.hosts.helpers import Helper
from tests.benchmarks.peers import programs
from tests.benchmarks.peers.programs import HAPROXY_DEFAULTS, ProgramFailed
from tests.benchmarks.proxies import quiet
from tests.integration.polling import READY_S, poll
from tests.integration.programs import end
from tests.integration.twistd import Twistd, environment

PORT: Final = 80
MONITOR_PORT: Final = 5555
"""The agents' default."""
OURS: Final = "rproxy-"
"""What the names of our own contenders begin with."""
DEFAULT: Final = str(attrs.fields_dict(ServiceConfig)["policy"].default)
"""The policy of `twistd rproxy` without --policy."""
AGENT_START_S: Final = 3 * READY_S
"""An agent starts on 15 % of a core."""
LOOK_S: Final = 0.05

_HAPROXY: Final = """\
global
    nbthread 1
{defaults}listen proxy
    bind {address}:{port} backlog 4096
    balance {balance}
{servers}
"""
_SERVER: Final = "    server {name} {address}:{port} check weight 100{agent}"
_AGENT: Final = f" agent-check agent-port {CHECK_PORT} agent-inter 500ms"
"""Twice a second, which is how often our agent looks at the CPU."""
_BALANCES: Final = {
    "leastconn": ("leastconn", ""),
    "random": ("random(2)", ""),
    "roundrobin": ("roundrobin", ""),
    "agent": ("leastconn", _AGENT),
}
"""What comes after `HAPROXY`, with the algorithm and each server's options."""


@contextmanager
def _haproxies(farm: Farm, number: int, folder: Path, balance: str, agent: str) -> Iterator[list[Address]]:
    with ExitStack() as stack:
        if agent:
            checks = [
                stack.enter_context(Helper(each.place.running(), "agent_check", each.place.address, CHECK_PORT))
                for each in farm.servers
            ]
            for check in checks:
                check.hear(AGENT_START_S)
        servers = "\n".join(
            _SERVER.format(name=each.name, address=each.place.address, port=SERVICE_PORT, agent=agent)
            for each in farm.servers
        )
        for place in farm.proxies[:number]:
            config = folder / f"{place.net.name}.cfg"
            config.write_text(
                _HAPROXY.format(
                    defaults=HAPROXY_DEFAULTS, address=place.address, port=PORT, balance=balance, servers=servers
                )
            )
            stack.enter_context(_haproxy(place, config))
        yield [(place.address, PORT) for place in farm.proxies[:number]]


@contextmanager
def _haproxy(place: Place, config: Path) -> Iterator[None]:
    """Entered once it accepts connections."""
    said = config.with_suffix(".err")
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*place.running(), programs.path("haproxy"), "-db", "-f", str(config)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def listens() -> bool:
        if process.poll() is not None:
            raise ProgramFailed(f"haproxy has ended: {said.read_text(errors='replace').strip()}")
        return _listens(process.pid)

    try:
        poll(listens, READY_S, "haproxy listens", every_s=LOOK_S)
        yield
    finally:
        end(process)


def _listens(pid: int) -> bool:
    """Whether there is a listening socket at `PORT` in the namespace of that process."""
    with suppress(FileNotFoundError):
        return bool(re.search(rf":{PORT:04X} 0+:0000 0A ", Path(f"/proc/{pid}/net/tcp").read_text()))
    return False


@contextmanager
def _ours(farm: Farm, number: int, folder: Path, policy: str) -> Iterator[list[Address]]:
    """Proxies and agents start together; entered once every proxy has all hosts up."""
    places = farm.proxies[:number]
    with ExitStack() as stack:
        proxies = [stack.enter_context(quiet(_proxy(place, folder, policy))) for place in places]
        for server in farm.servers:
            stack.enter_context(quiet(_agent(server.place, folder, places)))
        for proxy in proxies:
            _wait_until_up(proxy, len(farm.servers))
        yield [(place.address, PORT) for place in places]


def _proxy(place: Place, folder: Path, policy: str) -> Twistd:
    options = ["--listen", f"{place.address}:{PORT}", "--monitor", f"{place.address}:{MONITOR_PORT}", "--allow", LAN]
    options += ["--backend-port", f"{SERVICE_PORT}", "--policy", *policy.split()]
    return _twistd(place, folder, "rproxy", *options)


def _agent(place: Place, folder: Path, proxies: Sequence[Place]) -> Twistd:
    options = [option for proxy in proxies for option in ("--proxy", proxy.address)]
    return _twistd(place, folder, "rproxy-agent", "--service-port", f"{SERVICE_PORT}", *options)


def _twistd(place: Place, folder: Path, *command: str) -> Twistd:
    home = folder / place.net.name
    home.mkdir()
    return Twistd(home, *command, prefix=place.entering, wrapper=place.joining)


def _wait_until_up(proxy: Twistd, servers: int) -> None:
    """Return once so many back-ends have been up."""

    def are_up() -> bool:
        if not proxy.running:
            raise ProgramFailed(f"a proxy has ended: {proxy.log}{proxy.errors}")
        return len(set(re.findall(r"back-end (\S+): \w+ -> up ", proxy.log))) == servers

    poll(are_up, AGENT_START_S, "all back-ends are up", every_s=LOOK_S)


Contender = Callable[[Farm, int, Path], AbstractContextManager[list[Address]]]
"""Runs so many proxies, with their files in a folder that is empty. Yields their addresses."""


def contenders(balances: Sequence[str], policies: Sequence[str]) -> Mapping[str, Contender]:
    """By name, for these keys of `_BALANCES` and these policies, each perhaps followed by options of the proxy."""

    def haproxies(balance: str, agent: str) -> Contender:
        return lambda farm, number, folder: _haproxies(farm, number, folder, balance, agent)

    def ours(policy: str) -> Contender:
        return lambda farm, number, folder: _ours(farm, number, folder, policy)

    return {HAPROXY + name: haproxies(*_BALANCES[name]) for name in balances} | {
        OURS + policy: ours(policy) for policy in policies
    }


BALANCES: Final = tuple(_BALANCES)
POLICIES_COMPARED: Final = tuple(dict.fromkeys(["least-connections", "report", DEFAULT]))
"""Without --policies."""
