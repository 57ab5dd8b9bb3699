"""`/api/stream`: server-sent events, made once for all listeners (the HTML standard, 9.2)."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from rproxy.admin.answers import READING, Folder, allows, refuse
from rproxy.admin.channel import Request
from rproxy.admin.query import takes_none
from rproxy.admin.snapshots import REUSED_S, Outdated, Shared, Snapshot
from rproxy.observe.event_list import ROWS, event
from rproxy.observe.history import Happening, History
from rproxy.observe.status_changes import StatusChanges
from rproxy.observe.status_json import ServiceView
from rproxy.timing.work_queue import WorkQueue

EVERY_S: Final = 1.0
"""The least time between two messages about the status; more where looking takes over a tenth of a core."""
KEEP_ALIVE_S: Final = 15.0
"""Without a message for so long, listeners get a comment."""
STALLED_S: Final = 10.0
"""A listener that does not take a piece for so long is dropped."""
BEHIND_MAX: Final = 30
"""Messages that a listener may be behind; then it is dropped."""
MISSED_MAX: Final = 1000
"""Most happenings that a listener that comes again gets, of those that it has missed."""
_TOLERANCE_S: Final = 0.05
"""The timer may be early by so much."""
_BEGIN: Final = b"retry: 2000\n\n"
_COMMENT: Final = b":\n\n"


class Stream(Folder):
    """Answers GET with the stream."""

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self._streams = streams

    def render(self, request: Request) -> int:
        if not (allows(request, *READING) and takes_none(request)):
            return NOT_DONE_YET
        if request.method == b"GET" and self._streams.is_full:
            request.setHeader("retry-after", "10")
            return refuse(request, HTTPStatus.SERVICE_UNAVAILABLE, f"{self._streams.most} others listen already")
        request.setHeader("content-type", "text/event-stream")
        request.setHeader("x-accel-buffering", "no")  # nginx would hold back what comes
        if request.method == b"HEAD":
            request.finish()
        else:
            self._streams.add(request)
        return NOT_DONE_YET


class Streams:
    """All open streams, at most `most`. While there are none, no timer runs and nothing is looked at.

    `began` tells this run of the process from others, as the numbers of happenings begin anew with each.
    """

    log = Logger()

    def __init__(
        self,
        views: Callable[[], Sequence[ServiceView]],
        history: History,
        work: WorkQueue,
        clock: Any,
        *,
        most: int,
        began: str = "0",
    ) -> None:
        self._changes = StatusChanges(views)
        self._history = history
        self._work = work
        self._clock = clock
        self.most = most
        self._began = began
        self._listeners: dict[_Listener, None] = {}
        self._shared = Shared()
        self._timer: IDelayedCall | None = None
        self._looking: Iterator[Any] | None = None
        self._newcomers: list[_Listener] = []
        """Listeners for which the present look is the first."""
        self._next_look = float("-inf")
        self._pieces = 0
        self._told = 0
        """The number of the last happening that has been sent."""
        self._telling = False

    @property
    def is_full(self) -> bool:
        return len(self._listeners) >= self.most

    def add(self, request: Request) -> None:
        """Answer a request with the stream."""
        if not self._listeners:
            self._told = self._history.last
            self._history.followers.append(self._follow)
        request.channel.answers_endlessly()
        listener = _Listener(request, self._work, self._clock.seconds)
        self._listeners[listener] = None
        request.notifyFinish().addBoth(lambda _: self._leave(listener))
        listener.push(self._shared.new([_BEGIN, *self._missed(request)]))
        self._tick()

    def _missed(self, request: Request) -> Iterator[bytes]:
        """What has happened since the last that a listener got that comes again."""
        began, _, last = (request.getHeader(b"last-event-id") or b"").partition(b"-")
        if began != self._began.encode() or not last.isdigit() or len(last) > len(str(self._told)):
            return
        missed = [each for each in self._history.after(int(last)) if each.id <= self._told][-MISSED_MAX:]
        for start in range(0, len(missed), ROWS):
            yield self._rendered(missed[start : start + ROWS])

    def _leave(self, listener: _Listener) -> None:
        self._listeners.pop(listener, None)
        if not self._listeners:
            self.stop()

    def stop(self) -> None:
        """Stop looking. May be called twice."""
        if self._follow in self._history.followers:
            self._history.followers.remove(self._follow)
        self._looking = None
        self._changes.forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        """See who is too slow, and begin a look when it is time for one."""
        now = self._clock.seconds()
        for listener in list(self._listeners):
            listener.check(now)
        if self._looking is None and now >= self._next_look:
            self._begin(now)
        if self._timer is None and self._listeners:
            self._timer = self._clock.callLater(EVERY_S, self._again)

    def _again(self) -> None:
        self._timer = None
        self._tick()

    def _begin(self, now: float) -> None:
        self._next_look = now + EVERY_S - _TOLERANCE_S
        self._pieces = 0
        self._newcomers = [listener for listener in self._listeners if listener.is_new]
        self._looking = self._changes.look(whole=bool(self._newcomers))
        self._work.add(self._look)

    def _look(self) -> None:
        if self._looking is None:
            return
        try:
            look = next(self._looking)
            if look is None:
                self._pieces += 1
                self._work.add(self._look)
                return
            next(self._looking, None)
        except Exception:
            self._looking = None
            self._changes.forget()
            raise
        self._looking = None
        self._next_look = max(self._next_look, self._clock.seconds() + REUSED_S * self._pieces)
        self._send(look.whole, look.changed)

    def _send(self, whole: list[bytes], changed: list[bytes]) -> None:
        first = self._shared.new(_framed(b"status", whole)) if self._newcomers else None
        later = self._shared.new(_framed(b"status", changed)) if changed else None
        for listener in list(self._listeners):
            if listener.is_new:
                if first is not None and listener in self._newcomers:
                    listener.is_new = False
                    listener.push(first)
            elif later is not None:
                listener.push(later)
        self._newcomers = []

    def _follow(self, happening: Happening) -> None:
        if not self._telling:
            self._telling = True
            self._work.add(self._tell)

    def _tell(self) -> None:
        """Send what has happened since the last time, some of it."""
        self._telling = False
        happened = list(islice(self._history.after(self._told), ROWS))
        if not happened or not self._listeners:
            return
        self._told = happened[-1].id
        message = self._shared.new([self._rendered(happened)])
        for listener in list(self._listeners):
            listener.push(message)
        if self._told < self._history.last:
            self._telling = True
            self._work.add(self._tell)

    def _rendered(self, happenings: Sequence[Happening]) -> bytes:
        return b"".join(
            f"event: happening\nid: {self._began}-{each.id}\ndata: {json.dumps(event(each))}\n\n".encode()
            for each in happenings
        )


def _framed(kind: bytes, pieces: Sequence[bytes]) -> list[bytes]:
    """A message whose data is one line, in pieces."""
    return [b"event: " + kind + b"\ndata: " + pieces[0], *pieces[1:], b"\n\n"]


@implementer(IPushProducer)
class _Listener:
    """One connection; the next piece is written when the kernel has taken the last one."""

    def __init__(self, request: Request, work: WorkQueue, seconds: Callable[[], float]) -> None:
        self._request = request
        self._work = work
        self._seconds = seconds
        self.is_new = True
        """Whether it has seen nothing yet."""
        self._messages: deque[Snapshot] = deque()
        self._pieces: Iterator[bytes] = iter(())
        self._due = False
        """Whether a piece is about to be written."""
        self._written_at: float | None = None
        """Since when a piece has been written that the kernel has not taken yet."""
        self._last_at = seconds()
        """When the last piece was written."""
        request.registerProducer(self, True)

    def push(self, message: Snapshot) -> None:
        """Send a message, after those that are to be sent already."""
        self._messages.append(message)
        if len(self._messages) > BEHIND_MAX:
            self._drop()
        else:
            self._schedule()

    def check(self, now: float) -> None:
        """Drop it if it is too slow; keep the connection alive."""
        if self._written_at is not None and now - self._written_at >= STALLED_S:
            self._drop()
        elif self._written_at is None and not self._due and now - self._last_at >= KEEP_ALIVE_S:
            self.push(Snapshot((_COMMENT,), len(_COMMENT)))

    def _drop(self) -> None:
        self._messages.clear()
        if self._request.channel is not None:
            self._request.channel.abort()

    def _schedule(self) -> None:
        if not self._due and self._written_at is None:
            self._due = True
            self._work.add(self._write)

    def resumeProducing(self) -> None:
        """The kernel has taken all that was written."""
        self._written_at = None
        self._schedule()

    def pauseProducing(self) -> None:
        """Nothing to do: each piece is written when the last one is taken."""

    def stopProducing(self) -> None:
        """The connection is lost: break the reference cycle, which would be left to the garbage collector."""
        self._request.unregisterProducer()

    def _write(self) -> None:
        self._due = False
        if self._request.channel is None:  # connection lost
            return
        try:
            piece = self._next()
        except Outdated:
            self._drop()
            return
        if piece is not None:
            self._written_at = self._last_at = self._seconds()
            self._request.write(piece)

    def _next(self) -> bytes | None:
        """The next piece; None if there is none. Raises `Outdated`."""
        while (piece := next(self._pieces, None)) is None and self._messages:
            self._pieces = self._messages.popleft().read()
        return piece
