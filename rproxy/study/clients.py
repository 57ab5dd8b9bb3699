"""Clients: come, are given a host by a proxy, and measure how long their work takes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from rproxy.pool.backend import Backend
from rproxy.study.agents import Agent
from rproxy.study.engine import Engine
from rproxy.study.hosts import Host, Job, Sink
from rproxy.study.proxies import Proxy
from rproxy.study.traffic import Closed, Logged, Long, Short, Traffic

SINK_S: Final = 0.002
"""A failed service ends its sessions after this time."""
FOREVER_S: Final = 1e12


class Session:
    """A client's session, on the back-end that it was given."""

    __slots__ = ("backend", "demand", "ends_at", "host", "opened_at", "pause_s", "proxy", "rng", "work")

    def __init__(self, proxy: Proxy, backend: Backend, host: Host, opened_at: float) -> None:
        self.proxy = proxy
        self.backend = backend
        self.host = host
        self.opened_at = opened_at
        self.work = 0.0
        # Of long sessions:
        self.demand = 0.0
        self.ends_at = FOREVER_S
        self.pause_s = 0.0
        self.rng: Random | None = None


class Measured:
    """Counted from the time `since` on; response times of sessions that were opened before `until`. In s."""

    def __init__(self, hosts: int, since: float, until: float) -> None:
        self.since = since
        self.until = until
        self.times_s = array("d")
        """Response times."""
        self.failures = 0
        """Clients whose session failed, or that were given none."""
        self.chosen = [0] * hosts
        """Sessions by host."""


class Clients:
    """All clients of all proxies. `proxies` may change; a session stays with its own.

    Arrivals and sizes have random sources of their own: under one seed all policies meet the same clients.
    """

    def __init__(self, engine: Engine, traffic: Traffic, proxies: Sequence[Proxy], measured: Measured, seed: int):
        self._engine = engine
        self._traffic = traffic
        self._proxies = proxies
        self._measured = measured
        self._arrivals = Random(f"arrivals {seed}")
        self._sizes = Random(f"sizes {seed}")
        self.coming = True
        """Whether more clients will come."""

    def start(self, at: float) -> None:
        """The first client comes after the time `at`."""
        traffic = self._traffic
        if isinstance(traffic, Closed):
            for _ in range(traffic.clients):
                self._engine.at(at + traffic.pause(self._arrivals), self._arrive)
        elif isinstance(traffic, Logged):
            self._engine.at(traffic.clients[0][0], self._come_as_logged, 0)
        else:
            self._engine.at(at + traffic.gap(self._arrivals, at), self._come)

    def _come(self, _: None) -> None:
        """A client comes: the next one is known from now on."""
        engine, traffic = self._engine, self._traffic
        assert isinstance(traffic, Short | Long)
        engine.at(engine.now + traffic.gap(self._arrivals, engine.now), self._come)
        self._arrive(None)

    def _come_as_logged(self, number: int) -> None:
        """The client of that number comes."""
        assert isinstance(self._traffic, Logged)
        clients = self._traffic.clients
        if number + 1 < len(clients):
            self._engine.at(clients[number + 1][0], self._come_as_logged, number + 1)
        else:
            self.coming = False
        self._open(self._any_proxy(), clients[number][1])

    def _any_proxy(self) -> Proxy:
        return self._proxies[int(self._arrivals.random() * len(self._proxies))]

    def _arrive(self, _: None) -> None:
        proxy, traffic = self._any_proxy(), self._traffic
        if isinstance(traffic, Long):
            self._open_long(proxy, traffic, Random(self._sizes.random()))
        else:
            assert not isinstance(traffic, Logged)
            self._open(proxy, traffic.work(self._sizes))

    def _open(self, proxy: Proxy, work: float) -> None:
        """A client comes with one piece of work."""
        session = self._place(proxy, ())
        if session is None:
            return
        if session.host.spec.sink is not None:
            self._engine.at(self._engine.now + SINK_S, self._sunk, session)
        elif not session.host.accept(Job(work, session, self._done)):
            self._refuse(session)

    def _place(self, proxy: Proxy, exclude: Sequence[Backend]) -> Session | None:
        """A session on the back-end that the proxy chooses; None where there is none."""
        measured, now = self._measured, self._engine.now
        backend = proxy.choose(exclude)
        if backend is None:
            self._failed()
            self._come_again()
            return None
        host = proxy.agent_of(backend).host
        if now >= measured.since:
            measured.chosen[host.number] += 1
        host.connections += 1
        session = Session(proxy, backend, host, now)
        proxy.connected(backend, answers=host.spec.sink is not Sink.CLOSED)
        return session

    def _sunk(self, session: Session) -> None:
        """The session's host has failed it."""
        self._failed()
        if session.host.spec.sink is Sink.CLOSED:
            session.proxy.refused(session.backend)
            self._leave(session, None)
        else:
            self._leave(session, self._engine.now - session.opened_at)

    def _refuse(self, session: Session) -> None:
        """The accept queue of the session's host is full: to the proxy, an end without a byte."""
        self._failed()
        session.proxy.refused(session.backend)
        self._leave(session, None)

    def _failed(self) -> None:
        if self._engine.now >= self._measured.since:
            self._measured.failures += 1

    def _done(self, job: Job) -> None:
        session: Session = job.session
        now = self._engine.now
        lasted_s = now - session.opened_at
        if self._measured.since <= session.opened_at < self._measured.until:
            self._measured.times_s.append(lasted_s)
        self._leave(session, lasted_s)

    def _leave(self, session: Session, served_s: float | None) -> None:
        session.host.connections -= 1
        session.proxy.closed(session.backend, served_s)
        self._come_again()

    def _come_again(self) -> None:
        """A client of a closed loop has left, and comes again after a pause."""
        traffic = self._traffic
        if isinstance(traffic, Closed):
            self._engine.at(self._engine.now + traffic.pause(self._arrivals), self._arrive)

    # Long sessions.

    def hold(self, proxy: Proxy, agent: Agent, sessions: int, pause_s: float, work: float) -> None:
        """Open so many sessions on that agent's host that never end: pieces of `work` with pauses in between."""
        others = [each for each in proxy.pool if each is not proxy.backend_of(agent)]
        for _ in range(sessions):
            session = self._place(proxy, others)
            assert session is not None
            assert session.host is agent.host
            session.rng, session.pause_s, session.work = Random(self._sizes.random()), pause_s, work
            self._rest(session)

    def _open_long(self, proxy: Proxy, traffic: Long, rng: Random) -> None:
        life_s, pause_s = traffic.life(rng), traffic.pause(rng)
        session = self._place(proxy, ())
        if session is None:
            return
        session.rng, session.pause_s = rng, pause_s
        session.ends_at = session.opened_at + life_s
        session.demand = traffic.work_mean / (pause_s + traffic.work_mean)
        session.host.demand += session.demand
        self._rest(session)

    def _rest(self, session: Session) -> None:
        assert session.rng is not None
        self._engine.at(self._engine.now + session.rng.expovariate(1 / session.pause_s), self._resume, session)

    def _resume(self, session: Session) -> None:
        now = self._engine.now
        if now >= session.ends_at:
            session.host.demand -= session.demand
            self._leave(session, now - session.opened_at)
            return
        assert session.rng is not None
        traffic = self._traffic
        work = traffic.work(session.rng) if isinstance(traffic, Long) else session.work
        if not session.host.accept(Job(work, session, self._worked)):
            self._failed()
            self._rest(session)

    def _worked(self, job: Job) -> None:
        if job.accepted_at >= self._measured.since and isinstance(self._traffic, Long):
            self._measured.times_s.append(self._engine.now - job.accepted_at)
        self._rest(job.session)


class Elsewhere:
    """Clients that no proxy knows of, `rate` a second, on hosts drawn by their speeds."""

    def __init__(self, engine: Engine, hosts: Sequence[Host], rate: float, work: Callable[[Random], float], seed: int):
        self._engine = engine
        self._hosts = hosts
        self._shares = [host.spec.speed for host in hosts]
        self._rate = rate
        self._work = work
        self._rng = Random(f"elsewhere {seed}")

    def start(self) -> None:
        """Begin."""
        self._engine.at(self._engine.now + self._rng.expovariate(self._rate), self._arrive)

    def _arrive(self, _: None) -> None:
        self.start()
        (host,) = self._rng.choices(self._hosts, self._shares)
        host.connections += 1
        if not host.accept(Job(self._work(self._rng), host, self._done)):
            host.connections -= 1

    def _done(self, job: Job) -> None:
        job.session.connections -= 1
