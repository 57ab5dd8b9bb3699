"""The hosts, their services and their hogs; and the namespaces of proxies and of the client."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any, Final

import attrs

from rproxy.net.addresses import Address
from tests.benchmarks.hosts.cgroups import WEIGHT, Group, new_group
from tests.benchmarks.hosts.figures import Answers, Conditions, delivered
from tests.benchmarks.hosts.helpers import Helper
from tests.benchmarks.hosts.schedule import Phase, Session, hog_phases
from tests.benchmarks.hosts.service import Served
from tests.benchmarks.peers.pacing import percentile
from tests.hosts.net import Host, Wiring
from tests.integration.polling import READY_S

QUOTAS: Final = (0.30, 0.30, 0.15, 0.55)
"""Of each host, in cores."""
PROXIES_MAX: Final = 8
SERVICE_PORT: Final = 8000
CHECK_PORT: Final = 8001
LAN: Final = "10.77.0.0/24"
HOG_NICENESS: Final = -10
"""A hog gets its share though the service is busy: so it leaves as much to every contender."""
START_S: Final = 0.5
"""From telling what a run is to its start."""
PATIENCE_S: Final = 10.0
"""How long clients wait for answers after the end of a run."""


@attrs.frozen
class Place:
    """Where programs run: a network namespace, a cgroup, and those of this machine's CPUs that they may use."""

    net: Host
    group: Group
    cpus: Sequence[int]

    @property
    def address(self) -> str:
        return self.net.address

    @property
    def entering(self) -> list[str]:
        """The start of a command line that runs in the namespace. `ip netns exec` would hide the cgroups' files."""
        return ["nsenter", f"--net=/run/netns/{self.net.namespace}"]

    @property
    def joining(self) -> list[str]:
        """The start of a command line that runs in the cgroup."""
        return [*self.group.joining, "taskset", "-c", ",".join(map(str, self.cpus))]

    def running(self, niceness: int = 0) -> list[str]:
        """The start of a command line that runs in the place."""
        return [*self.entering, *self.joining, "nice", "-n", f"{niceness}"]


@attrs.frozen(eq=False)
class Server:
    """A host with its service and its hog."""

    place: Place
    quota: float
    service: Helper
    hog: Helper

    @property
    def name(self) -> str:
        return self.place.net.name

    @property
    def address(self) -> Address:
        return self.place.address, SERVICE_PORT

    def served(self) -> Served:
        """What the service has done since it was last asked."""
        self.service.tell("served")
        return Served(**self.service.hear())

    def hogged(self, start: float, within_s: float) -> float:
        """The share that the hog had of the CPU time that it wanted in the run with this start."""
        while (said := self.hog.hear(within_s))[0] != start:
            pass  # that run has failed
        _, wanted_s, had_s = said
        return float(had_s / wanted_s) if wanted_s else 1.0


@attrs.frozen
class Run:
    """What a run is made of: all contenders of a round and a case have the same."""

    sessions: Sequence[Session]
    hogs: Mapping[str, Sequence[Phase]]
    """By host's name."""
    seconds: float


@attrs.frozen
class Played:
    """What came of a run."""

    answers: Answers
    conditions: Conditions
    work_s: float
    """CPU time that clients got from all services."""


@attrs.frozen
class Farm:
    servers: Sequence[Server]
    proxies: Sequence[Place]
    client: Place

    def hogs(self, rng: Random, seconds: float) -> dict[str, Sequence[Phase]]:
        """The hogs' phases in a round."""
        return {server.name: hog_phases(rng, seconds) for server in self.servers}

    def play(self, run: Run, targets: Sequence[Address], patience_s: float = PATIENCE_S) -> Played:
        """Carry out a run, whose clients go to these proxies."""
        with Helper(self.client.running(), "client") as client:
            for server in self.servers:
                server.served()
            start = time.monotonic() + START_S
            for server in self.servers:
                server.hog.tell([start, [attrs.astuple(phase) for phase in run.hogs[server.name]]])
            client.tell(_plan(run, start, targets, patience_s))
            said = client.hear(START_S + run.seconds + patience_s + READY_S)
        served = {server: server.served() for server in self.servers}
        late_s = sorted(said["late_s"])
        conditions = Conditions(
            late_s=percentile(late_s, 0.99) if late_s else 0.0,
            delivered={each.name: delivered(told.busy_s, told.used_s, each.quota) for each, told in served.items()},
            hogged={each.name: each.hogged(start, run.seconds + READY_S) for each in self.servers},
        )
        return Played(said["answers"], conditions, sum(told.work_s for told in served.values()))


def _plan(run: Run, start: float, targets: Sequence[Address], patience_s: float) -> dict[str, Any]:
    return {
        "start": start,
        "sessions": [session.as_json for session in run.sessions],
        "proxies": targets,
        "patience_s": patience_s,
    }


@contextmanager
def built(proxies: int) -> Iterator[Farm]:
    """The farm, with namespaces for so many proxies; it is removed at the end, with all that runs in it."""
    with ExitStack() as stack:
        groups = _Groups(stack)
        wiring = Wiring()
        stack.callback(wiring.close)
        switch = wiring.host("switch")
        wiring.bridge(switch, "lan")
        cpus = sorted(os.sched_getaffinity(0))

        def place(name: str, number: int, group: Group, cpus: Sequence[int]) -> Place:
            host = wiring.host(name, f"10.77.0.{number}")
            wiring.plug(host, host.address, switch, "lan")
            return Place(host, group, cpus)

        servers = []
        for n, quota in enumerate(QUOTAS):
            name = f"host{n + 1}"
            home = place(name, n + 1, groups.made(name), [cpus[n * len(cpus) // len(QUOTAS)]])
            servers.append(_server(home, quota, stack))
        others = groups.made("others")
        others.weigh(WEIGHT)  # proxies and client stand for other machines, and do not wait for the hosts' CPU
        yield Farm(
            servers=servers,
            proxies=[place(f"proxy{n}", 100 + n, others, cpus) for n in range(1, proxies + 1)],
            client=place("client", 200, others, cpus),
        )


class _Groups:
    """Makes groups, which are removed with the stack, within one that has a greater weight than other groups."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._top = new_group(f"rproxy{os.getpid()}")
        stack.callback(self._top.remove)
        self._top.weigh(WEIGHT)

    def made(self, name: str) -> Group:
        group = self._top.child(name)
        self._stack.callback(group.remove)
        return group


def _server(place: Place, quota: float, stack: ExitStack) -> Server:
    """A host. Its quota holds once its programs are ready."""
    arguments = (place.address, SERVICE_PORT, place.net.name, place.group.usage)
    service = stack.enter_context(Helper(place.running(), "service", *arguments))
    hog = stack.enter_context(Helper(place.running(HOG_NICENESS), "hog", quota))
    for helper in (service, hog):
        helper.hear()
    place.group.limit(quota)
    return Server(place, quota, service, hog)
