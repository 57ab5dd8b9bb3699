"""Named scenarios: hosts, clients, and the proxies between them. No policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from rproxy.study.agents import Network
from rproxy.study.hosts import Hog, HostSpec, Sink
from rproxy.study.proxies import Probing
from rproxy.study.traffic import (
    Bursts,
    Closed,
    Diurnal,
    Exponential,
    Gap,
    Long,
    Mixed,
    Pareto,
    Poisson,
    Short,
    Traffic,
)

WORK_S: Final = 0.1
"""The mean work of a session."""
SPEEDS: Final = (2.0, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.5)
HOG: Final = Hog()
WORK: Final = Exponential(WORK_S)
QUICK_WORK_S: Final = 0.008
QUICK_HOG: Final = Hog(off_s=4.0, on_s=2.0)
PLAIN: Final = HostSpec()
LOAD: Final = 0.75
"""The usual load, of what hogs leave on average."""
OVERTIME: Final = 10
CHECKING_HOSTS_MAX: Final = 1000
"""The all-knowing chooser looks at every host for every client: beyond this it takes too long."""


@attrs.frozen
class Held:
    """Sessions that one proxy holds on a host from the start: pieces of `work` with pauses of `pause_s` in between."""

    host: int
    sessions: int
    pause_s: float
    work: float = WORK_S


@attrs.frozen(kw_only=True)
class Scenario:
    """What is simulated for `seconds`, of which those before `warm_s` do not count. Times in s."""

    text: str
    """In one line."""
    hosts: tuple[HostSpec, ...]
    traffic: Traffic
    proxies: int = 1
    hog: Hog | None = HOG
    elsewhere: float = 0.0
    """Clients per second that no proxy knows of; their work is exponential."""
    probing: Probing = Probing()
    network: Network = Network()
    seconds: float = 460.0
    warm_s: float = 60.0
    tail_s: float = 0.0
    """How long it goes on after `seconds`, so that sessions that were opened before can end, and count."""
    begin_s: float = 1.0
    """When the first clients come: all agents have answered by then."""
    restart_s: float | None = None
    """When all proxies are restarted, and know their back-ends' addresses only."""
    joins: Mapping[int, float] = attrs.Factory(dict)
    """Hosts that register later than at the start, and when."""
    held: tuple[Held, ...] = ()
    completes: bool = False
    """Whether the run goes on after its time until all sessions have ended, for at most `OVERTIME` times as long."""

    @property
    def has_limit(self) -> bool:
        """Whether the all-knowing chooser is run, too."""
        return len(self.hosts) <= CHECKING_HOSTS_MAX


def unequal(
    text: str,
    *,
    speeds: Sequence[float] = SPEEDS,
    load: float = LOAD,
    work: Exponential | Pareto = WORK,
    gap: Callable[[float], Gap] = Poisson,
    hog: Hog | None = HOG,
    elsewhere: float = 0.0,
    host: HostSpec = PLAIN,
    **others: Any,
) -> Scenario:
    """Hosts of those speeds under `load`, of which the fraction `elsewhere` passes by the proxies."""
    hosts = tuple(attrs.evolve(host, speed=speed) for speed in speeds)
    left = 1 - hog.mean if hog is not None else 1.0
    rate = load * left * host.cores * sum(speeds) / work.mean
    traffic = Short(gap(rate * (1 - elsewhere)), work)
    scenario = Scenario(text=text, hosts=hosts, traffic=traffic, hog=hog, elsewhere=rate * elsewhere)
    return attrs.evolve(scenario, **others)


def quotas(text: str, **others: Any) -> Scenario:
    """Hosts, hogs and clients as those of the benchmark on real hosts."""
    return unequal(
        text,
        speeds=(0.3, 0.3, 0.15, 0.55),
        load=0.7,
        work=Exponential(QUICK_WORK_S),
        hog=QUICK_HOG,
        seconds=330.0,
        warm_s=30.0,
        **others,
    )


def long(
    text: str,
    *,
    load: float = 0.7,
    life_s: float = 60.0,
    busy: float = 0.1,
    pauses_s: tuple[float, float] = (0.3, 8.0),
    **others: Any,
) -> Scenario:
    """Sessions that last and work now and then: the fraction `busy` with the shorter pauses, the rest with the longer.

    The load is what they ask for on average, if no piece of work ever waited.
    """
    often_s, seldom_s = pauses_s
    demand = busy * WORK_S / (often_s + WORK_S) + (1 - busy) * WORK_S / (seldom_s + WORK_S)
    rate = load * (1 - HOG.mean) * sum(SPEEDS) / (demand * life_s)
    traffic = Long(Poisson(rate), Exponential(WORK_S), Exponential(life_s), Mixed(busy, often_s, seldom_s), WORK_S)
    scenario = Scenario(
        text=text,
        hosts=tuple(HostSpec(speed) for speed in SPEEDS),
        traffic=traffic,
        proxies=4,
        seconds=900.0,
        warm_s=180.0,
    )
    return attrs.evolve(scenario, **others)


def equal(text: str, count: int, **others: Any) -> Scenario:
    """Hosts of speed 1 without hogs."""
    return unequal(text, speeds=(1.0,) * count, hog=None, **others)


def _with(scenario: Scenario, numbers: Sequence[int], **changes: Any) -> Scenario:
    """The scenario with the hosts of those numbers changed."""
    hosts = [attrs.evolve(host, **changes) if i in numbers else host for i, host in enumerate(scenario.hosts)]
    return attrs.evolve(scenario, hosts=tuple(hosts))


def sinks(text: str, kind: Sink, **others: Any) -> Scenario:
    """20 equal hosts, two of which fail their sessions at once."""
    scenario = equal(text, 20, load=0.6, seconds=200.0, **others)
    return _with(scenario, (3, 11), sink=kind)


def weights(text: str, *given: int, load: float = 0.01) -> Scenario:
    """Idle equal hosts of those weights; 6,000 short clients."""
    work_s = 0.01
    rate = load * len(given) / work_s
    return Scenario(
        text=text,
        hosts=tuple(HostSpec(weight=weight) for weight in given),
        traffic=Short(Poisson(rate), Exponential(work_s)),
        hog=None,
        seconds=30 + 6000 / rate,
        warm_s=30.0,
    )


def large(text: str, *, hosts: int = 10_000, clients: int = 1_000_000, load: float = 0.7) -> Scenario:
    """Equal hosts, and so many clients from the end of slow start on, in 20 s."""
    begin_s, for_s = 12.0, 20.0
    rate = clients / for_s
    return Scenario(
        text=text,
        hosts=(HostSpec(),) * hosts,
        traffic=Short(Poisson(rate), Exponential(load * hosts / rate)),
        hog=None,
        seconds=begin_s + for_s,
        warm_s=begin_s,
        begin_s=begin_s,
    )


def _busy_and_idle() -> Scenario:
    text = "two hosts: a hundred idle sessions on one, ten busy ones on the other; short clients"
    held = (Held(0, 100, 1e6), Held(1, 10, 1.0))
    return equal(text, 2, load=0.3, seconds=200.0, warm_s=20.0, held=held)


def _closed(text: str, hosts: int, clients: int) -> Scenario:
    traffic = Closed(clients, Exponential(WORK_S), Exponential(0.2))
    return Scenario(text=text, hosts=(HostSpec(),) * hosts, traffic=traffic, hog=None, seconds=400.0)


SCENARIOS: Final[dict[str, Callable[[], Scenario]]] = {
    "one": lambda: unequal("ten unequal hosts with hogs, load 0.75; one proxy"),
    "four": lambda: unequal("ten unequal hosts with hogs, load 0.75; four proxies", proxies=4),
    "eight": lambda: unequal("ten unequal hosts with hogs, load 0.75; eight proxies", proxies=8),
    "eight-heavy": lambda: unequal(
        "eight proxies, work with a heavy tail (Pareto 1.5)", proxies=8, work=Pareto(WORK_S)
    ),
    "elsewhere": lambda: unequal("four proxies, 40 % of the load from elsewhere", proxies=4, elsewhere=0.4),
    "long": lambda: long("four proxies, sessions of 60 s that work now and then, a tenth of them often"),
    "long-one": lambda: long("one proxy, sessions of 60 s that work now and then, a tenth of them often", proxies=1),
    "medium": lambda: long(
        "four proxies, sessions of 5 s that work now and then", life_s=5.0, busy=0.2, pauses_s=(0.2, 1.0)
    ),
    "longest": lambda: long("four proxies, sessions of 240 s that work now and then", life_s=240.0, seconds=1800.0),
    "lossy": lambda: unequal("four proxies, 20 % of the probes lost", proxies=4, network=Network(loss=0.2)),
    "stale": lambda: unequal("four proxies, reports every 5 s only", proxies=4, probing=Probing(freshness_s=None)),
    "far": lambda: unequal("four proxies, agents 50 ms away", proxies=4, network=Network(0.05)),
    "sinks": lambda: sinks("20 equal hosts, two of which close connections at once", Sink.CLOSED),
    "sinks-silent": lambda: sinks("20 equal hosts, two of which answer all at once with errors", Sink.ERROR),
    "sinks-four": lambda: sinks(
        "four proxies, 20 equal hosts, two of which answer all at once with errors", Sink.ERROR, proxies=4
    ),
    "idle-pools": lambda: _with(
        unequal("four proxies; three hosts have 100 idle connections of their own", proxies=4),
        (0, 3, 5),
        idle_connections=100,
    ),
    "memory": lambda: _with(
        unequal("four proxies; three hosts use 75 % of their memory, which costs nothing", proxies=4),
        (0, 3, 5),
        memory=75,
    ),
    "paths": lambda: _with(
        unequal("four proxies; the paths to three agents take 20 ms more", proxies=4), (0, 3, 5), delay_s=0.01
    ),
    "lossy-paths": lambda: _with(
        unequal("four proxies; three agents lose 5 % of their probes", proxies=4), (0, 3, 5), loss=0.05
    ),
    "cores": lambda: unequal("four proxies, hosts of four cores", proxies=4, host=HostSpec(cores=4), seconds=200.0),
    "workers": lambda: unequal(
        "four proxies; services with four workers, accept queues of 64", proxies=4, host=HostSpec(workers=4, backlog=64)
    ),
    "bursts": lambda: unequal("four proxies, clients in bursts of ten", proxies=4, gap=Bursts),
    "diurnal": lambda: unequal("four proxies, a load that swings by 40 %", proxies=4, gap=Diurnal),
    "light": lambda: unequal("four proxies, load 0.2", load=0.2, proxies=4, seconds=900.0),
    "full": lambda: unequal("four proxies, load 0.9", load=0.9, proxies=4),
    "equal": lambda: equal("ten equal hosts without hogs; one proxy", 10),
    "equal-four": lambda: equal("ten equal hosts without hogs; four proxies", 10, proxies=4),
    "two": lambda: unequal("two hosts, one half as fast", speeds=(1.0, 0.5), seconds=1500.0),
    "quotas": lambda: quotas("four hosts of 30, 30, 15 and 55 % of a core, quick work and quick hogs; one proxy"),
    "quotas-four": lambda: quotas("the same with four proxies", proxies=4),
    "fifty": lambda: unequal("eight proxies, 50 unequal hosts", speeds=SPEEDS * 5, proxies=8, seconds=160.0),
    "hundreds": lambda: unequal(
        "four proxies, 300 unequal hosts", speeds=SPEEDS * 30, proxies=4, seconds=50.0, warm_s=25.0
    ),
    "busy-and-idle": _busy_and_idle,
    "restarted": lambda: unequal(
        "four proxies, all restarted at 200 s; the 20 s after", proxies=4, seconds=220.0, warm_s=200.0, restart_s=200.0
    ),
    "added": lambda: unequal(
        "four proxies, load 0.9, one of ten hosts comes at 200 s; the 60 s after",
        load=0.9,
        proxies=4,
        seconds=260.0,
        warm_s=200.0,
        joins={3: 200.0},
    ),
    "three-clients": lambda: _closed("two equal hosts, three clients", 2, 3),
    "single": lambda: _closed("a pool of one, three clients", 1, 3),
    "light-three": lambda: weights("three idle equal hosts", 100, 100, 100, load=0.003),
    "weights-5": lambda: weights("three idle equal hosts of weights 100, 100, 5", 100, 100, 5),
    "weights-200": lambda: weights("three idle equal hosts of weights 100, 100, 200", 100, 100, 200),
    "large": lambda: large("10,000 equal hosts, 1,000,000 clients"),
}
