"""Registrations that no answered probe has confirmed, and the order in which they are probed.

Any host can send these, or replay an agent's old ones.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

from rproxy.pool.backend import Backend, Registration
from rproxy.timing.rate_limit import trim
from rproxy.wire.pdu import UDP_PORT

WAITING_MAX: Final = 8
"""Registrations of one back-end that may wait for their first probe."""
OUTSTANDING_MAX: Final = 8
"""While this many of a back-end's probes are outstanding, its candidates wait."""
RETRY_MIN_S: Final = 0.75
RETRY_MAX_S: Final = 12.0
"""After a probe that was not answered, a registration gets none for `RETRY_MIN_S`, doubled each time up to
`RETRY_MAX_S`. An agent waits a little longer before it registers again.
"""
UNANSWERED_MAX: Final = 8192
"""Entries of `Candidates._unanswered`; beyond, the oldest is dropped."""
USUAL_AGENT_PORT: Final = UDP_PORT
"""The agent's default port: preferred where nothing else tells two registrations apart."""

_Instance = tuple[str, int, int]
"""Host, service port, instance."""
_Agent = tuple[str, int, int, int, str]
"""The same, the agent's port, and our address to which it registers."""
_Urgency = tuple[float, float, bool]
"""When its instance, and it itself, was last probed, and whether its port is unusual: the lowest is next."""
_NEVER: Final = float("-inf")


@attrs.frozen
class _Unanswered:
    last_at: float
    times: int


@attrs.define(eq=False)
class Candidates:
    """Round robin over hosts, so that forged registrations for one do not delay the others.

    Within a host, the registration whose instance was probed least recently is next, so a new instance precedes
    replays of old ones, however frequent. `Probing.waiting` counts those of a back-end.
    """

    _hosts: OrderedDict[str, dict[Backend, dict[_Agent, Registration]]] = attrs.field(init=False, factory=OrderedDict)
    _unanswered: OrderedDict[_Instance | _Agent, _Unanswered] = attrs.field(init=False, factory=OrderedDict)
    """Those that were probed and have not answered, the most recent last."""
    probed: set[str] = attrs.field(init=False, factory=set)
    """The names of the back-ends of which a candidate was probed since the agent last answered."""

    def __bool__(self) -> bool:
        """Whether any registration waits."""
        return bool(self._hosts)

    def admits(self, backend: Backend | None, port: int, registration: Registration, now: float) -> bool:
        """Whether a registration for this service `port` may wait; `backend` is None for a new one."""
        agent = _agent(port, registration)
        last = self._unanswered.get(agent)
        if last is not None and now - last.last_at < min(RETRY_MIN_S * 2 ** (last.times - 1), RETRY_MAX_S):
            return False
        if backend is None or backend.probing.waiting < WAITING_MAX or agent in self._of(backend):
            return True
        return self._urgency(agent) < max(map(self._urgency, self._of(backend)))

    def add(self, backend: Backend, registration: Registration) -> None:
        """Queue a registration that `admits` has accepted; beyond `WAITING_MAX` the least urgent one is dropped."""
        waiting = self._hosts.setdefault(backend.address, {}).setdefault(backend, {})
        agent = _agent(backend.port, registration)
        if agent not in waiting and len(waiting) >= WAITING_MAX:
            del waiting[max(waiting, key=self._urgency)]
        waiting[agent] = registration
        backend.probing.waiting = len(waiting)

    def next(self, now: float) -> tuple[Backend, Registration] | None:
        """Remove and return the one to probe now; None if no waiting registration may be probed now."""
        for _ in range(len(self._hosts)):
            host = next(iter(self._hosts))
            self._hosts.move_to_end(host)
            waiting = self._hosts[host]
            ready = [
                (self._urgency(agent), agent, backend)
                for backend, agents in waiting.items()
                if len(backend.probing.outstanding) < OUTSTANDING_MAX
                for agent in agents
            ]
            if ready:
                _, agent, backend = min(ready, key=lambda each: each[0])
                registration = waiting[backend][agent]
                self._note_probed(agent, now)
                self._take(backend, agent)
                self.probed.add(backend.name)
                return backend, registration
        return None

    def confirmed(self, backend: Backend, registration: Registration) -> None:
        """The agent of this registration has answered a probe: earlier ones without an answer count no more."""
        self.probed.discard(backend.name)
        if self._unanswered:
            agent = _agent(backend.port, registration)
            self._unanswered.pop(agent, None)
            self._unanswered.pop(_instance(agent), None)

    def instances(self, backend: Backend) -> set[int]:
        """The instances whose registrations wait for this back-end."""
        return {registration.instance for registration in self._of(backend).values()}

    def drop(self, backend: Backend, instance: int | None = None) -> None:
        """Remove a back-end's candidates, or only those of one instance."""
        if instance is None:
            self.probed.discard(backend.name)
        for agent, registration in list(self._of(backend).items()):
            if instance is None or registration.instance == instance:
                self._take(backend, agent)

    def _of(self, backend: Backend) -> dict[_Agent, Registration]:
        return self._hosts.get(backend.address, {}).get(backend, {})

    def _take(self, backend: Backend, agent: _Agent) -> None:
        host = self._hosts[backend.address]
        waiting = host[backend]
        del waiting[agent]
        backend.probing.waiting = len(waiting)
        if not waiting:
            del host[backend]
        if not host:
            del self._hosts[backend.address]

    def _note_probed(self, agent: _Agent, now: float) -> None:
        keys: tuple[_Instance | _Agent, ...] = (agent, _instance(agent))
        for key in keys:
            last = self._unanswered.pop(key, None)
            self._unanswered[key] = _Unanswered(now, last.times + 1 if last else 1)
        trim(self._unanswered, UNANSWERED_MAX)

    def _urgency(self, agent: _Agent) -> _Urgency:
        return self._probed_at(_instance(agent)), self._probed_at(agent), agent[3] != USUAL_AGENT_PORT

    def _probed_at(self, key: _Instance | _Agent) -> float:
        last = self._unanswered.get(key)
        return _NEVER if last is None else last.last_at


def _agent(port: int, registration: Registration) -> _Agent:
    host, agent_port = registration.agent
    return host, port, registration.instance, agent_port, registration.local


def _instance(agent: _Agent) -> _Instance:
    return agent[:3]
