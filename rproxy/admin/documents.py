"""HTTP resources for long documents, written piece by piece, as fast as the client reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from http import HTTPStatus

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from rproxy.admin.answers import JSON, READING, Folder, allows, refuse
from rproxy.admin.channel import Request
from rproxy.admin.query import parameters_of, takes_none
from rproxy.admin.snapshots import Outdated, Snapshot, Snapshots
from rproxy.observe.parameters import BadParameter, Missing
from rproxy.timing.work_queue import WorkQueue


class Document(Folder):
    """Answers GET and HEAD with the newest of `snapshots`. A query is ignored, or an error if `strict`."""

    def __init__(self, content_type: str, snapshots: Snapshots, work: WorkQueue, *, strict: bool = False) -> None:
        super().__init__()
        self._content_type = content_type
        self._snapshots = snapshots
        self._work = work
        self._strict = strict

    def render(self, request: Request) -> int:
        if allows(request, *READING) and (not self._strict or takes_none(request)):
            self._snapshots.request(lambda snapshot: self._answer(request, snapshot))
        return NOT_DONE_YET

    def _answer(self, request: Request, snapshot: Snapshot | None) -> None:
        if request.channel is None:  # connection lost
            return
        if snapshot is None:
            refuse(request, HTTPStatus.INTERNAL_SERVER_ERROR, "the document cannot be rendered: the log says why")
            return
        request.setHeader("content-type", self._content_type)
        request.setHeader("content-length", str(snapshot.size))
        if request.method == b"HEAD":
            request.finish()
        else:
            _Sending(request, snapshot.read(), self._work).resumeProducing()


class Query(Folder):
    """Answers GET and HEAD with what `render` makes of the parameters, as JSON.

    `render` gets those that are given and not empty, of the `names` that there are. It is run piece by piece while the
    client reads, so that no document is kept; an empty piece is a pause. It may raise `BadParameter` before its first
    piece.
    """

    log = Logger()

    def __init__(
        self, names: Collection[str], render: Callable[[Mapping[str, str]], Iterator[bytes]], work: WorkQueue
    ) -> None:
        super().__init__()
        self._names = names
        self._rendered = render
        self._work = work

    def render(self, request: Request) -> int:
        if allows(request, *READING):
            self._work.add(lambda: self._begin(request))
        return NOT_DONE_YET

    def _begin(self, request: Request) -> None:
        if request.channel is None:  # connection lost
            return
        try:
            given = parameters_of(request, self._names)
            pieces = self._rendered({name: value for name, value in given.items() if value})
            first = next(pieces, b"")
        except BadParameter as error:
            status = HTTPStatus.NOT_FOUND if isinstance(error, Missing) else HTTPStatus.BAD_REQUEST
            refuse(request, status, str(error))
            return
        except Exception:
            refuse(request, HTTPStatus.INTERNAL_SERVER_ERROR, "the answer cannot be rendered: the log says why")
            raise
        request.setHeader("content-type", JSON)
        if request.method == b"HEAD":
            request.finish()
        else:
            _Sending(request, _followed(first, pieces), self._work).resumeProducing()


def _followed(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


@implementer(IPushProducer)
class _Sending:
    """A push producer that writes the next piece whenever the kernel has taken the last one."""

    def __init__(self, request: Request, pieces: Iterator[bytes], work: WorkQueue) -> None:
        self._request = request
        self._pieces = pieces
        self._work = work
        request.registerProducer(self, True)

    def resumeProducing(self) -> None:
        self._work.add(self._write)

    def pauseProducing(self) -> None:
        """Nothing to do: each piece is written on request."""

    def stopProducing(self) -> None:
        """The connection is lost: break the reference cycle, which would be left to the garbage collector."""
        self._request.unregisterProducer()

    def _write(self) -> None:
        request = self._request
        if request.channel is None:  # connection lost
            return
        try:
            piece = next(self._pieces, None)
        except Outdated:
            request.channel.abort()
        except Exception:
            request.channel.abort()
            raise
        else:
            self._go_on(piece)

    def _go_on(self, piece: bytes | None) -> None:
        if piece:
            self._request.write(piece)
        elif piece is not None:
            self._work.add(self._write)
        else:
            self._request.unregisterProducer()
            self._request.finish()
