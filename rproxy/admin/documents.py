"""HTTP resources for long documents, written piece by piece, as fast as the client reads."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from twisted.internet.interfaces import IPushProducer
from twisted.web.pages import errorPage, notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from rproxy.admin.http_server import Request
from rproxy.admin.snapshots import Snapshot, Snapshots
from rproxy.timing.work_queue import WorkQueue

METHODS: Final = (b"GET", b"HEAD")


class Folder(Resource):
    """Serves the children that were added with `putChild`; any other path below it is not found."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        return notFound()


class Document(Folder):
    """Answers GET and HEAD with the newest of `snapshots`."""

    def __init__(self, content_type: str, snapshots: Snapshots, work: WorkQueue) -> None:
        super().__init__()
        self._content_type = content_type
        self._snapshots = snapshots
        self._work = work

    def render(self, request: Request) -> int:
        if request.method not in METHODS:
            request.setHeader(b"allow", b", ".join(METHODS))
            return _refuse(request, HTTPStatus.METHOD_NOT_ALLOWED)
        self._snapshots.request(lambda snapshot: self._answer(request, snapshot))
        return NOT_DONE_YET

    def _answer(self, request: Request, snapshot: Snapshot | None) -> None:
        if request.channel is None:  # connection lost
            return
        if snapshot is None:
            _refuse(request, HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        request.setHeader("content-type", self._content_type)
        request.setHeader("content-length", str(snapshot.size))
        if request.method == b"HEAD":
            request.finish()
        else:
            _Sending(request, snapshot, self._work).resumeProducing()


@implementer(IPushProducer)
class _Sending:
    """A push producer that writes the next piece whenever the kernel has taken the last one."""

    def __init__(self, request: Request, snapshot: Snapshot, work: WorkQueue) -> None:
        self._request = request
        self._snapshot = snapshot
        self._written = 0
        """Pieces."""
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
        request, pieces = self._request, self._snapshot.pieces
        if request.channel is None:  # connection lost
            return
        if pieces is None:
            request.channel.abort()
        elif self._written < len(pieces):
            request.write(pieces[self._written])
            self._written += 1
        else:
            request.unregisterProducer()
            request.finish()


def _refuse(request: Request, status: HTTPStatus) -> int:
    errorPage(status, status.phrase, status.description).render(request)
    return NOT_DONE_YET
