"""The rules behind doubts, and what is remembered of each back-end from one look to the next.

Pure: times are in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs

from rproxy.pool.backend import Backend
from rproxy.pool.health import FALL
from rproxy.pool.pool import Pool
from rproxy.pool.states import Administration, State

LOOK_EVERY_S: Final = 10.0
MINUTE: Final = 6
"""Looks in a minute."""
ROWS: Final = 50
"""Back-ends looked at in one go."""

HERDING: Final = "herding"
OLD_REPORTS: Final = "old-reports"
FIXED_FIGURES: Final = "fixed-figures"
LOST_PROBES: Final = "lost-probes"
OLD_AGENT: Final = "old-agent"
CLOCK: Final = "clock"

SERVICE_KINDS: Final = (HERDING, OLD_REPORTS, FIXED_FIGURES, LOST_PROBES, OLD_AGENT)
PROCESS_KINDS: Final = (CLOCK, OLD_AGENT)
"""Kinds of suspicions about a service or its back-ends, and about the whole process."""

HERD: Final = 3.0
"""Herding: a back-end takes more than this multiple of its share of the clients, and has more than twice its share of
the sessions.
"""
HERD_CLIENTS_MIN: Final = 50
"""Fewest clients that count: by chance, one of 10,000 back-ends gets three times its share of these once in years."""
HERD_SESSIONS_MIN: Final = 10
HERD_FREER: Final = 20.0
"""Percentage points of CPU or application load. A host this far below the mean is right to take more clients."""
OLD_INTERVALS: Final = 3
"""Probe intervals after which a report is old: two probes at least have been lost by then."""
FIXED_LOOKS: Final = 12
FIXED_SESSIONS: Final = 5
"""Figures are fixed if they are the same at `FIXED_LOOKS` looks while our sessions varied by at least this many."""
LOSS: Final = 0.2
LOSS_ELSEWHERE: Final = 0.1
"""Lost fractions of probes: at least, of the one back-end; below, of all others on average."""
UNANSWERED_S: Final = 30.0
"""How long an agent that registers must have left probes unanswered."""
TELLING_MIN: Final = 2
TELLING: Final = 2 / 3
"""An agent that does not report other proxies' sessions is old if at least this many, and this fraction, of all do."""
JUMP_S: Final = 2.0
"""Smallest jump of the clock that counts. One that is adjusted gradually moves by less between two looks."""
JUMP_TOLD_S: Final = 600.0

Key = tuple[str, str, str]
"""Kind, service and back-end; the last is empty where it may be another one at each look."""


@attrs.frozen
class Suspicion:
    """What one look has found; with the same `key` as at another look, it is the same."""

    key: Key
    backend: str
    """address:port; empty if it is about the whole service or process."""
    text: str
    """A sentence without its subject: the back-end if there is one, else the service, else the proxy."""

    @property
    def kind(self) -> str:
        return self.key[0]

    @property
    def service(self) -> str:
        """Empty if it is about the whole process."""
        return self.key[1]


@attrs.define(eq=False)
class _Seen:
    """What is remembered of one back-end. Numbers of looks are in a row, up to the last one."""

    totals: deque[int] = attrs.field(init=False, factory=lambda: deque(maxlen=MINUTE + 1))
    """Its sessions so far, at the looks at which it could get clients like any other."""
    answered_at: float | None = attrs.field(init=False, default=None)
    figures: tuple[int | None, ...] = attrs.field(init=False, default=())
    same: int = attrs.field(init=False, default=0)
    """Looks at which a new report had the same figures."""
    fewest: int = attrs.field(init=False, default=0)
    most: int = attrs.field(init=False, default=0)
    """Of our sessions that were counted in these reports."""
    lossy: int = attrs.field(init=False, default=0)
    """Looks at which many probes were lost."""
    silent: int = attrs.field(init=False, default=0)
    """Looks at which it said nothing of other proxies."""

    def note(self, backend: Backend) -> None:
        """Look at it once more."""
        comparable = backend.eligible and backend.state is State.UP and not backend.passed_over
        if comparable and not backend.health.refusals:
            self.totals.append(backend.counts.total)
        else:
            self.totals.clear()
        if backend.answered_at == self.answered_at:
            return
        self.answered_at = backend.answered_at
        report = backend.report
        figures = report.cpu, report.memory, report.tcp
        if figures != self.figures or report.tcp is None:
            self.figures, self.same = figures, 0
            self.fewest = self.most = report.counted
        self.same += 1
        self.fewest, self.most = min(self.fewest, report.counted), max(self.most, report.counted)
        self.silent = self.silent + 1 if report.others is None else 0


@attrs.define
class _Herd:
    """The back-ends that could get clients during the last `looks`, and the one that took most for its weight."""

    looks: int
    number: int = attrs.field(init=False, default=0)
    weights: float = attrs.field(init=False, default=0.0)
    clients: int = attrs.field(init=False, default=0)
    sessions: int = attrs.field(init=False, default=0)
    connections: float = attrs.field(init=False, default=0.0)
    busy: float = attrs.field(init=False, default=0.0)
    worst: Backend | None = attrs.field(init=False, default=None)
    worst_clients: int = attrs.field(init=False, default=0)

    def add(self, backend: Backend, totals: deque[int]) -> None:
        if len(totals) <= self.looks:
            return
        clients = totals[-1] - totals[-1 - self.looks]
        self.number += 1
        self.weights += backend.weight
        self.clients += clients
        self.sessions += backend.connections
        self.connections += _connections(backend)
        self.busy += _busy(backend)
        worst = self.worst
        if worst is None or clients * worst.weight > self.worst_clients * backend.weight:
            self.worst, self.worst_clients = backend, clients

    def suspicion(self, service: str) -> Suspicion | None:
        worst, clients = self.worst, self.worst_clients
        if worst is None or clients < HERD_CLIENTS_MIN:
            return None
        fair, sessions = worst.weight / self.weights, worst.connections
        times = clients / (fair * self.clients)
        if times <= HERD or sessions < HERD_SESSIONS_MIN or sessions <= 2 * fair * self.sessions:
            return None
        if _connections(worst) <= 2 * fair * self.connections or _busy(worst) + HERD_FREER < self.busy / self.number:
            return None  # the other hosts have more to do
        text = (
            f"takes {100 * clients / self.clients:.0f} % of the clients, {times:.1f} times its share by weight, and "
            f"has {sessions} of {self.sessions} sessions"
        )
        return Suspicion((HERDING, service, ""), worst.name, text)


def _connections(backend: Backend) -> float:
    """Of its host; not fewer than we have there, whatever its agent says."""
    return max(backend.tcp, backend.connections)


def _busy(backend: Backend) -> float:
    """How busy its host is, in percent."""
    return max(backend.cpu, backend.load)


@attrs.define
class _Agents:
    """The agents of a service together."""

    backends: list[Backend] = attrs.field(init=False, factory=list)
    losses: float = attrs.field(init=False, default=0.0)
    telling: int = attrs.field(init=False, default=0)
    """Those that tell of sessions of other proxies."""
    usable: int = attrs.field(init=False, default=0)
    newest_at: float = attrs.field(init=False, default=0.0)
    """When one of a back-end that can get clients has last answered."""

    def add(self, backend: Backend) -> None:
        if backend.answered_at is None or backend.state is State.DEPARTED:
            return
        self.backends.append(backend)
        self.losses += backend.losses.rate
        self.telling += backend.report.others is not None
        if backend.usable:
            self.usable += 1
            self.newest_at = max(self.newest_at, backend.answered_at)

    def losses_besides(self, backend: Backend) -> float:
        """The fraction of the probes of all others that is lost, on average."""
        others = len(self.backends) - 1
        return (self.losses - backend.losses.rate) / others if others else 0.0

    @property
    def most_tell(self) -> bool:
        return self.telling >= max(TELLING_MIN, TELLING * len(self.backends))


class ServiceWatch:
    """Looks at the back-ends of one service. `interval_s` is the time between two probes of one."""

    def __init__(self, service: str, interval_s: float) -> None:
        self._service = service
        self._interval_s = interval_s
        self._seen: dict[Backend, _Seen] = {}

    def look(self, pool: Pool, now: float, *, by_client: bool) -> Iterator[list[Suspicion]]:
        """What is suspicious, in one list for each slice of the back-ends.

        Where the policy chooses `by_client`, who takes how many is up to the clients.
        """
        seen, agents = {}, _Agents()
        herds = [] if by_client else [_Herd(1), _Herd(MINUTE)]
        for number, backend in enumerate(list(pool)):
            if number and number % ROWS == 0:
                yield []
            known = seen[backend] = self._seen.get(backend) or _Seen()
            known.note(backend)
            for herd in herds:
                herd.add(backend, known.totals)
            if backend.has_agent:
                agents.add(backend)
        self._seen = seen
        herding = (herd.suspicion(self._service) for herd in herds)
        yield [suspicion for suspicion in herding if suspicion is not None]
        yield self._old_reports(agents, now)
        for start in range(0, len(agents.backends), ROWS):
            yield [each for backend in agents.backends[start : start + ROWS] for each in self._of(backend, agents, now)]

    def _old_reports(self, agents: _Agents, now: float) -> list[Suspicion]:
        age_s = now - agents.newest_at
        if agents.usable < 2 or age_s <= OLD_INTERVALS * self._interval_s:
            return []
        text = (
            f"no report of its {agents.usable} back-ends with an agent is younger than {age_s:.0f} s, though each is "
            f"asked every {self._interval_s:g} s: are the probes of this proxy let through, and the answers?"
        )
        return [Suspicion((OLD_REPORTS, self._service, ""), "", text)]

    def _of(self, backend: Backend, agents: _Agents, now: float) -> Iterator[Suspicion]:
        known = self._seen[backend]
        texts = {
            FIXED_FIGURES: _fixed_figures(known),
            LOST_PROBES: _unanswered(backend, now) or _lossy(backend, known, agents.losses_besides(backend)),
            OLD_AGENT: _old_agent(known) if agents.most_tell else "",
        }
        for kind, text in texts.items():
            if text:
                yield Suspicion((kind, self._service, backend.name), backend.name, text)


def _fixed_figures(known: _Seen) -> str:
    if known.same < FIXED_LOOKS or known.most - known.fewest < FIXED_SESSIONS:
        return ""
    cpu, memory, tcp = known.figures
    figures = f"CPU {_percent(cpu)}, memory {_percent(memory)}, {tcp} TCP connections"
    return (
        f"its agent has reported the same figures for {known.same * LOOK_EVERY_S:.0f} s ({figures}), while it had "
        f"{known.fewest} to {known.most} sessions of this proxy: does it measure the host that serves them?"
    )


def _percent(figure: int | None) -> str:
    return "unknown" if figure is None else f"{figure} %"


def _unanswered(backend: Backend, now: float) -> str:
    """Whether its agent registers, but answers no probe."""
    assert backend.answered_at is not None
    silent = backend.state is State.DOWN and backend.health.misses >= FALL
    silent = silent and backend.administration is not Administration.MAINT
    silent_s = backend.registered_at - backend.answered_at
    if not silent or silent_s < UNANSWERED_S or now - backend.registered_at > backend.intervals_s(2):
        return ""
    return (
        f"its agent still registers, but has not answered a probe for {now - backend.answered_at:.0f} s: are the "
        "probes of this proxy let through to it, and its answers?"
    )


def _lossy(backend: Backend, known: _Seen, elsewhere: float) -> str:
    """Whether probes are lost on the way from here, though others reach it."""
    rate, others = backend.losses.rate, backend.report.others
    is_lossy = backend.is_up and rate >= LOSS and elsewhere < LOSS_ELSEWHERE
    known.lossy = known.lossy + 1 if is_lossy else 0
    if known.lossy < MINUTE or not others:
        return ""
    return (
        f"{100 * rate:.0f} % of the probes to it are lost, while other proxies have {others} sessions there, and "
        "other back-ends answer: is the path from here to it disturbed?"
    )


def _old_agent(known: _Seen) -> str:
    if known.silent < MINUTE:
        return ""
    return (
        "its agent tells nothing of the sessions of other proxies, as most agents here do: it is of an old version, "
        "or registers with this proxy alone"
    )


class ProcessWatch:
    """Looks at what all services share: the clock, and datagrams of another version."""

    def __init__(self) -> None:
        self._offset: float | None = None
        """Of Unix time from the monotonic clock."""
        self._jump_s = 0.0
        self._jumped_at = float("-inf")
        self._versions: deque[int] = deque([0], maxlen=MINUTE + 1)

    def look(self, now: float, unix: float, versions: int) -> list[Suspicion]:
        """`versions` is how many datagrams of another version have been dropped so far."""
        found = []
        offset = unix - now
        jump_s = 0.0 if self._offset is None else offset - self._offset
        self._offset = offset
        if abs(jump_s) >= JUMP_S:
            self._jump_s, self._jumped_at = jump_s, now
        if now - self._jumped_at < JUMP_TOLD_S:
            text = (
                f"the clock of this host has jumped by {self._jump_s:+.0f} s, since it was set or the host was "
                "suspended: times in logs are off by that before or after"
            )
            found.append(Suspicion((CLOCK, "", ""), "", text))
        self._versions.append(versions)
        if dropped := versions - self._versions[0]:
            text = f"datagrams of another version of the protocol were dropped, {dropped} in the last minute"
            found.append(Suspicion((OLD_AGENT, "", ""), "", text))
        return found
