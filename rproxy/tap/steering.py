"""Carries out what operators ask for: the `Control` of a running proxy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from difflib import get_close_matches
from math import isfinite
from typing import Final

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.admin.control import Refusal, Target, Unknown
from rproxy.net.addresses import Address, written
from rproxy.observe.history import History
from rproxy.observe.service_log import logger_of
from rproxy.pool.backend import Backend
from rproxy.pool.events import Events
from rproxy.pool.states import NO_OVERRIDE, Administration, Override
from rproxy.sessions.kills import Found, Kills
from rproxy.sessions.shedding import PER_S_MAX, Shedding
from rproxy.sessions.sweep import Slices
from rproxy.sources.saved.keeper import Keeper
from rproxy.tap.service_wiring import ServiceWiring
from rproxy.tap.services import Services
from rproxy.timing.work_queue import WorkQueue
from rproxy.wire.pdu import WEIGHT_MAX

SAVE_S: Final = 2.0
"""How long an operator's answer waits for the state file."""
NEAR: Final = 3
"""Most names that are suggested in place of an unknown one."""
COMPARED_MAX: Final = 50
"""Most names that an unknown one is compared with: a millisecond of work."""


@attrs.frozen
class HeldOverride:
    """The override of a back-end of one service. `by` names the services that have a row for it."""

    override: Override
    by: Set[str]


Overrides = dict[tuple[str, Address], HeldOverride]
"""By the service's name and back-end."""


class Steering:
    """A `Control` of all services. `wall` returns Unix time in s."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        services: Services,
        slices: Slices,
        turns: WorkQueue,
        history: History,
        wall: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._services = services
        self._history = history
        self._wall = wall
        self.keeper: Keeper | None = None
        """Of the state file, if there is one."""
        self._kills = Kills(slices, turns)
        self._shedding = Shedding(clock, slices)

    def stop(self) -> None:
        """Cancel all timers. May be called twice."""
        self._shedding.stop()

    # Reloads.

    def overrides(self) -> Overrides:
        """All that are in force, for `move`."""
        said: Overrides = {}
        having: defaultdict[Address, set[str]] = defaultdict(set)
        for service in self._services:
            for key in service.pool.overrides:
                said[service.config.name, key] = HeldOverride(service.pool.overrides.of(key), having[key])
        for service in self._services if having else ():
            for backend in service.pool:
                key = backend.address, backend.port
                if key in having and service.has(key):
                    having[key].add(service.config.name)
        return said

    def move(self, before: Overrides) -> None:
        """Have overrides follow back-ends that belong to another service since the configuration has changed.

        `before` is what `overrides` returned before the change.
        """
        now, services = self._clock.seconds(), {each.config.name: each for each in self._services}
        for (name, key), said in before.items():
            old = services.get(name)
            if old is not None and (old.has(key) if name in said.by else old.takes(key)):
                continue
            new = [each for each in self._services.configured if each.takes(key) and each.config.name not in said.by]
            for service in new:
                service.publisher(service.pool.overrides.put(key, said.override, now))
            if new and old is not None and not old.takes(key):
                old.publisher(old.pool.overrides.put(key, NO_OVERRIDE, now))

    # As a `Control`.

    def drain(self, target: Target) -> Deferred[None]:
        return self._administer(target, Administration.DRAIN)

    def maint(self, target: Target) -> Deferred[None]:
        return self._administer(target, Administration.MAINT)

    def ready(self, target: Target) -> Deferred[None]:
        return self._administer(target, Administration.READY)

    def _administer(self, target: Target, administration: Administration) -> Deferred[None]:
        service, key = self._spoken_of(target)
        events = service.pool.overrides.administer(key, administration, self._clock.seconds(), self._wall())
        return self._said(service, key, events, administration.value)

    def weigh(self, target: Target, weight: int | None) -> Deferred[None]:
        service, key = self._spoken_of(target)
        if weight is not None and not 1 <= weight <= WEIGHT_MAX:
            raise Refusal(f"a weight is 1 to {WEIGHT_MAX}: drain keeps all clients away")
        events = service.pool.overrides.weigh(key, weight, self._clock.seconds())
        return self._said(service, key, events, "its own weight again" if weight is None else f"weight {weight}")

    def _spoken_of(self, target: Target) -> tuple[ServiceWiring, Address]:
        """As `_known`. Raises `Refusal` while another process takes over: it has read the state file already."""
        self._demand_own_overrides()
        return self._known(target)

    def _demand_own_overrides(self, _: object = None) -> None:
        """Raises `Refusal` if another process keeps the overrides."""
        if self.keeper is not None and self.keeper.taken_over:
            raise Refusal("another process takes over from this one: ask again in a moment")

    def _said(self, service: ServiceWiring, key: Address, events: Events, text: str) -> Deferred[None]:
        if service.pool.get(*key) is None:  # no event tells of it
            self._note(service.config.name, written(key), "word", f"{text} (by an operator); it is not there now")
        service.publisher(events)
        if self.keeper is None:
            return succeed(None)
        saved = self.keeper.save().addTimeout(SAVE_S, self._clock, self._not_saved)
        return saved.addCallback(self._demand_own_overrides)  # the other process may not know what was said

    def _not_saved(self, result: object, after_s: float) -> None:
        self.log.warn("what an operator said is in force, but not in the state file yet")

    def kill(self, session: int) -> Deferred[None]:
        def killed(found: Found | None) -> None:
            if found is None:
                raise Unknown(f"there is no session {session}: it may have ended")
            self._note(found.service, found.backend, "kill", f"session {session} was ended (by an operator)")

        return self._kills.one(session).addCallback(killed)

    def kill_all(self, target: Target) -> Deferred[int]:
        service, backend = self._present(target)

        def killed(sessions: int) -> int:
            self._note(service.config.name, backend.name, "kill", f"{sessions} session(s) ended (by an operator)")
            return sessions

        return self._kills.all_of(backend).addCallback(killed)

    def shed(self, target: Target, per_s: float) -> Deferred[int]:
        service, backend = self._present(target)
        if not isfinite(per_s) or not 0 <= per_s <= PER_S_MAX:
            raise Refusal(f"a rate is 0 to {PER_S_MAX:g} a second: kill ends all at once")
        sessions, name = backend.counts.established, service.config.name

        def done(cut: int) -> None:
            self._note(name, backend.name, "shed", f"{cut} session(s) were shed: none is left of those that it had")

        if per_s:
            self._shedding.begin(backend, per_s, done)
            text = f"{sessions} session(s) are shed, at most {per_s:g} a second (by an operator)"
            self._note(name, backend.name, "shed", text)
        elif (cut := self._shedding.end(backend)) is not None:
            self._note(name, backend.name, "shed", f"{cut} session(s) were shed, and no more are (by an operator)")
        return succeed(sessions)

    def _note(self, service: str, backend: str, kind: str, text: str) -> None:
        self._history.note(service, backend, kind, text)
        log = logger_of(service, self.log) if service else self.log
        log.info("{subject}{text}", subject=f"back-end {backend}: " if backend else "", text=text)

    def _present(self, target: Target) -> tuple[ServiceWiring, Backend]:
        """A back-end that has a row. Raises `Unknown`."""
        service, key = self._known(target)
        backend = service.pool.get(*key)
        if backend is None:
            raise Unknown(f"back-end {target.backend} is not there now")
        return service, backend

    def _known(self, target: Target) -> tuple[ServiceWiring, Address]:
        """A back-end that has a row, or of which an operator has said something. Raises `Unknown`."""
        services = {each.config.name: each for each in self._services}
        service = services.get(target.service)
        if service is None:
            raise Unknown(f"there is no service {target.service}{_near(target.service, list(services))}")
        host, _, port = target.backend.rpartition(":")
        key = host.removeprefix("[").removesuffix("]"), int(port) if port.isdecimal() and len(port) <= 5 else 0
        overrides = service.pool.overrides
        if written(key) != target.backend or (service.pool.get(*key) is None and key not in overrides):
            names = dict.fromkeys([backend.name for backend in service.pool] + [written(key) for key in overrides])
            alike = [name for name in names if name.startswith(host) or name.endswith(f":{port}")]
            raise Unknown(f"service {target.service} has no back-end {target.backend}{_near(target.backend, alike)}")
        return service, key


def _near(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names[:COMPARED_MAX], NEAR)
    return f"; there is {', '.join(near)}" if near else ""
