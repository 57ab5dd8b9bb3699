"""HTTP resources that change something: POST to a back-end or a session."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from rproxy.admin.access import Access, deny
from rproxy.admin.answers import allows, answer, not_found, refuse
from rproxy.admin.channel import Request
from rproxy.admin.control import Control, Refusal, Target, Unknown
from rproxy.admin.query import decoded, parameters_of
from rproxy.observe.parameters import BadParameter, Parameters, canonical, number, whole
from rproxy.sessions.shedding import PER_S_MAX
from rproxy.timing.work_queue import WorkQueue
from rproxy.wire.pdu import WEIGHT_MAX

CHANGING: Final = b"POST"
_ID_MAX: Final = 10**15

Row = Mapping[str, Any]


@attrs.frozen
class Done:
    """What a change has done."""

    done: str
    """One sentence."""
    sessions: int
    """How many it concerns."""


_Change = Callable[[], Deferred[tuple[Done, Row | None]]]
"""Does something, and fires with it and the row of the back-end. Fails with `Refusal` or `BadParameter`."""


class Changes:
    """What can be asked for. Each fires with what has been done, or fails as `Control` and `parameters` do."""

    def __init__(self, control: Control, row: Callable[[Target], Row | None]) -> None:
        """`row` returns the row of a back-end, None if it has none."""
        self._control = control
        self.row = row

    def drain(self, target: Target, _: Parameters) -> Deferred[Done]:
        return self._said(self._control.drain(target), target, "gets no new sessions")

    def maint(self, target: Target, _: Parameters) -> Deferred[Done]:
        return self._said(self._control.maint(target), target, "is in maintenance and gets no new sessions")

    def ready(self, target: Target, _: Parameters) -> Deferred[Done]:
        return self._said(self._control.ready(target), target, "may get sessions again")

    def weight(self, target: Target, parameters: Parameters) -> Deferred[Done]:
        wanted = whole(parameters, "value", 0, 1, WEIGHT_MAX) or None
        what = "has its own weight again" if wanted is None else f"has weight {wanted}"
        return self._said(self._control.weigh(target, wanted), target, what)

    def _said(self, saying: Deferred[None], target: Target, what: str) -> Deferred[Done]:
        def said(_: object) -> Done:
            row = self.row(target)
            sessions = 0 if row is None else row["connections"]
            return Done(f"{_named(target)} {what}; it has {sessions} session(s)", sessions)

        return saying.addCallback(said)

    def shed(self, target: Target, parameters: Parameters) -> Deferred[Done]:
        rate = number(parameters, "rate", 0, PER_S_MAX)

        def begun(sessions: int) -> Done:
            if not rate:
                return Done(f"{_named(target)} keeps its sessions, of which there are {sessions}", sessions)
            return Done(f"{_named(target)} loses up to {rate:g} session(s) a second, of {sessions}", sessions)

        return self._control.shed(target, rate).addCallback(begun)

    def kill(self, target: Target, _: Parameters) -> Deferred[Done]:
        return self._control.kill_all(target).addCallback(
            lambda sessions: Done(f"{sessions} session(s) on {_named(target)} ended", sessions)
        )

    def kill_session(self, session: int) -> Deferred[Done]:
        """End one session."""
        return self._control.kill(session).addCallback(lambda _: Done(f"session {session} ended", 1))


def _named(target: Target) -> str:
    return f"{target.backend} of {target.service}"


_OF_BACKENDS: Final[Mapping[str, tuple[Callable[[Changes, Target, Parameters], Deferred[Done]], tuple[str, ...]]]] = {
    "drain": (Changes.drain, ()),
    "maint": (Changes.maint, ()),
    "ready": (Changes.ready, ()),
    "weight": (Changes.weight, ("value",)),
    "shed": (Changes.shed, ("rate",)),
    "kill": (Changes.kill, ()),
}
"""By the last part of the path, with the parameters that each takes."""
_STATUSES: Final = {
    BadParameter: HTTPStatus.BAD_REQUEST,
    Unknown: HTTPStatus.NOT_FOUND,
    Refusal: HTTPStatus.CONFLICT,
}
"""The first that fits is answered."""


class _Changing(Resource):
    """Serves `list` itself, and what can be changed below it."""

    isLeaf = True
    log = Logger()

    def __init__(self, listing: Resource, changes: Changes, access: Access, work: WorkQueue) -> None:
        super().__init__()
        self._listing = listing
        self._changes = changes
        self._access = access
        self._work = work

    def render(self, request: Request) -> Any:
        if not request.postpath:
            return self._listing.render(request)
        change = self._change(request, request.postpath)
        if change is None:
            return not_found().render(request)
        if not allows(request, CHANGING):
            return NOT_DONE_YET
        denial = self._access.to_change(request)
        if denial is not None:
            return deny(request, denial)
        self._work.add(lambda: self._begin(request, change))
        return NOT_DONE_YET

    def _change(self, request: Request, path: list[bytes]) -> _Change | None:
        """What the rest of the path asks for; None for nothing that there is."""
        raise NotImplementedError

    def _begin(self, request: Request, change: _Change) -> None:
        """Do it. What fails is answered; if it is no `Refusal`, it is logged, too."""
        if request.channel is not None:  # else the connection is lost
            changed: Deferred[Any] = maybeDeferred(change)
            changed.addCallbacks(self._succeeded, self._failed, callbackArgs=(request,), errbackArgs=(request,))
            changed.addErrback(lambda failure: self.log.failure("a change by an operator failed", failure))

    def _succeeded(self, result: tuple[Done, Row | None], request: Request) -> None:
        done, row = result
        who = self._access.who(request) if request.channel is not None else "somebody who has left"
        self.log.info("{done}, as {who} has asked", done=done.done, who=who)
        if request.channel is not None:
            document = {"done": done.done, "backend": row, "sessions": done.sessions}
            answer(request, HTTPStatus.OK, json.dumps(document).encode() + b"\n")

    def _failed(self, failure: Failure, request: Request) -> Failure | None:
        status = next((status for kind, status in _STATUSES.items() if failure.check(kind)), None)
        if request.channel is not None:
            unknown = HTTPStatus.INTERNAL_SERVER_ERROR, "it cannot be done: the log says why"
            refuse(request, *(unknown if status is None else (status, str(failure.value))))
        return failure if status is None else None


class ChangingBackends(_Changing):
    """`/api/backends`, and `SERVICE/ADDRESS:PORT/ACTION` below it."""

    def _change(self, request: Request, path: list[bytes]) -> _Change | None:
        action = path[-1].decode("latin-1")
        if action not in _OF_BACKENDS or len(path) != len(("service", "backend", "action")):
            return None
        do, names = _OF_BACKENDS[action]

        def change() -> Deferred[tuple[Done, Row | None]]:
            service, backend, _ = path
            target = Target(decoded(service), canonical(decoded(backend)))
            parameters = parameters_of(request, names)
            if names and not parameters and request.has_body:  # which may mean the parameter
                raise BadParameter(f"{names[0]} must be in the query ({action}?{names[0]}=5): a body is not read")
            doing = do(self._changes, target, parameters)
            return doing.addCallback(lambda done: (done, self._changes.row(target)))

        return change


class ChangingSessions(_Changing):
    """`/api/sessions`, and `ID/kill` below it."""

    def _change(self, request: Request, path: list[bytes]) -> _Change | None:
        if len(path) != len(("id", "kill")) or path[1] != b"kill":
            return None

        def change() -> Deferred[tuple[Done, Row | None]]:
            number = whole({"a session": decoded(path[0])}, "a session", 0, 1, _ID_MAX)
            parameters_of(request, ())
            return self._changes.kill_session(number).addCallback(lambda done: (done, None))

        return change
