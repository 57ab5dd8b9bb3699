"""Registrations that nothing has confirmed yet, and whose probe is next: anybody can send these, or an agent's old ones
again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

from rproxy.pool.backend import Backend, Registration
from rproxy.timing.rate_limit import trim

WAITING_MAX: Final = 8
"""Registrations that wait for one back-end."""
OUTSTANDING_MAX: Final = 8
"""Probes of one back-end on their way, beyond which those that wait go on waiting."""
RETRY_MIN_S: Final = 0.75
RETRY_MAX_S: Final = 12.0
"""How long a registration earns no probe after one that was not answered: twice as long each time. An agent waits a
little longer before it registers again.
"""
UNANSWERED_MAX: Final = 8192
USUAL_AGENT_PORT: Final = 5555
"""Agents are there unless they are told otherwise: where nothing else tells two registrations apart, it does."""

_Instance = tuple[str, int, int]
"""Host, service port, instance."""
_Agent = tuple[str, int, int, int, str]
"""The same, the agent's port, and the address of ours that it knows."""
_Urgency = tuple[float, float, bool]
"""The lowest is next."""
_NEVER: Final = float("-inf")


@attrs.frozen
class _Unanswered:
    last_at: float
    times: int


@attrs.define(eq=False)
class Unconfirmed:
    """Hosts take turns, whatever is sent in their names.

    Of a host's registrations, that one is next whose instance has been asked least recently; so an instance that has
    not been asked yet goes before all those that exist no more, however often somebody repeats them. `Backend.waiting`
    counts those of a back-end.
    """

    _hosts: OrderedDict[str, dict[Backend, dict[_Agent, Registration]]] = attrs.field(init=False, factory=OrderedDict)
    _unanswered: OrderedDict[_Instance | _Agent, _Unanswered] = attrs.field(init=False, factory=OrderedDict)
    """Who has been asked and has not answered, the most recent last."""

    def __bool__(self) -> bool:
        """Whether any waits."""
        return bool(self._hosts)

    def admits(self, backend: Backend | None, port: int, registration: Registration, now: float) -> bool:
        """Whether a registration for this service `port` may wait; `backend` is None if it is the first one for it."""
        agent = _agent(port, registration)
        last = self._unanswered.get(agent)
        if last is not None and now - last.last_at < min(RETRY_MIN_S * 2 ** (last.times - 1), RETRY_MAX_S):
            return False
        if backend is None or backend.waiting < WAITING_MAX or agent in self._of(backend):
            return True
        return self._urgency(agent) < max(map(self._urgency, self._of(backend)))

    def add(self, backend: Backend, registration: Registration) -> None:
        """One that is admitted. The one that would wait longest makes room."""
        waiting = self._hosts.setdefault(backend.address, {}).setdefault(backend, {})
        agent = _agent(backend.port, registration)
        if agent not in waiting and len(waiting) >= WAITING_MAX:
            del waiting[max(waiting, key=self._urgency)]
        waiting[agent] = registration
        backend.waiting = len(waiting)

    def next(self, now: float) -> tuple[Backend, Registration] | None:
        """Whom to probe now; None where nobody waits but for back-ends with too many probes on their way."""
        for _ in range(len(self._hosts)):
            host = next(iter(self._hosts))
            self._hosts.move_to_end(host)
            waiting = self._hosts[host]
            ready = [
                (self._urgency(agent), agent, backend)
                for backend, agents in waiting.items()
                if len(backend.outstanding) < OUTSTANDING_MAX
                for agent in agents
            ]
            if ready:
                _, agent, backend = min(ready, key=lambda each: each[0])
                registration = waiting[backend][agent]
                self._asked(agent, now)
                self._take(backend, agent)
                return backend, registration
        return None

    def answered(self, backend: Backend, registration: Registration) -> None:
        """It exists."""
        if self._unanswered:
            agent = _agent(backend.port, registration)
            self._unanswered.pop(agent, None)
            self._unanswered.pop(_instance(agent), None)

    def instances(self, backend: Backend) -> set[int]:
        """Those that wait."""
        return {registration.instance for registration in self._of(backend).values()}

    def drop(self, backend: Backend, instance: int | None = None) -> None:
        """What waits for this back-end, or only what is of one instance."""
        for agent, registration in list(self._of(backend).items()):
            if instance is None or registration.instance == instance:
                self._take(backend, agent)

    def _of(self, backend: Backend) -> dict[_Agent, Registration]:
        return self._hosts.get(backend.address, {}).get(backend, {})

    def _take(self, backend: Backend, agent: _Agent) -> None:
        host = self._hosts[backend.address]
        waiting = host[backend]
        del waiting[agent]
        backend.waiting = len(waiting)
        if not waiting:
            del host[backend]
        if not host:
            del self._hosts[backend.address]

    def _asked(self, agent: _Agent, now: float) -> None:
        keys: tuple[_Instance | _Agent, ...] = (agent, _instance(agent))
        for key in keys:
            last = self._unanswered.pop(key, None)
            self._unanswered[key] = _Unanswered(now, last.times + 1 if last else 1)
        trim(self._unanswered, UNANSWERED_MAX)

    def _urgency(self, agent: _Agent) -> _Urgency:
        return self._asked_at(_instance(agent)), self._asked_at(agent), agent[3] != USUAL_AGENT_PORT

    def _asked_at(self, key: _Instance | _Agent) -> float:
        last = self._unanswered.get(key)
        return _NEVER if last is None else last.last_at


def _agent(port: int, registration: Registration) -> _Agent:
    host, agent_port = registration.agent
    return host, port, registration.instance, agent_port, registration.local


def _instance(agent: _Agent) -> _Instance:
    return agent[:3]
