"""Resources whose documents are long: each is written piece by piece, as fast as the client reads it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from twisted.internet.interfaces import IPushProducer
from twisted.web.pages import errorPage, notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from rproxy.admin.server import Request
from rproxy.admin.snapshots import Snapshot, Snapshots
from rproxy.monitoring.turns import Turns

OUTDATED_BYTES: Final = 32 << 20
"""Of older snapshots that are still being sent: beyond them, who reads the oldest one is cut off."""
METHODS: Final = (b"GET", b"HEAD")


class Folder(Resource):
    """Has beneath it what was put there, and nothing else."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        return notFound()


class Document(Folder):
    """Answers with `snapshots`."""

    def __init__(self, content_type: str, snapshots: Snapshots, turns: Turns) -> None:
        super().__init__()
        self._content_type = content_type
        self._snapshots = snapshots
        self._turns = turns
        self._sending: OrderedDict[Snapshot, set[Request]] = OrderedDict()
        """The oldest first, and to whom."""

    def render(self, request: Request) -> int:
        if request.method not in METHODS:
            request.setHeader(b"allow", b", ".join(METHODS))
            return _refuse(request, HTTPStatus.METHOD_NOT_ALLOWED)
        self._snapshots.ask(lambda snapshot: self._answer(request, snapshot))
        return NOT_DONE_YET

    def _answer(self, request: Request, snapshot: Snapshot | None) -> None:
        if request.channel is None:  # it is lost
            return
        if snapshot is None:
            _refuse(request, HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        for name, text in {
            "content-type": self._content_type,
            "content-length": str(snapshot.size),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        }.items():
            request.setHeader(name, text)
        if request.method == b"HEAD" or not snapshot.pieces:
            request.finish()
        else:
            self._send(request, snapshot)

    def _send(self, request: Request, snapshot: Snapshot) -> None:
        self._sending.setdefault(snapshot, set()).add(request)
        _Sending(request, iter(snapshot.pieces), self._turns)
        request.notifyFinish().addBoth(lambda _: self._sent(request, snapshot))
        while sum(each.size for each in self._sending) - snapshot.size > OUTDATED_BYTES:
            _, requests = self._sending.popitem(last=False)
            for outdated in requests:
                outdated.channel.abort()

    def _sent(self, request: Request, snapshot: Snapshot) -> None:
        requests = self._sending.get(snapshot, set())
        requests.discard(request)
        if not requests:
            self._sending.pop(snapshot, None)


@implementer(IPushProducer)
class _Sending:
    """Writes one piece whenever the last one has left."""

    def __init__(self, request: Request, pieces: Iterator[bytes], turns: Turns) -> None:
        self._request = request
        self._pieces = pieces
        self._turns = turns
        request.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self._turns.add(self._write)

    def pauseProducing(self) -> None:
        """Nothing is produced unasked."""

    def stopProducing(self) -> None:
        """Nothing more will be asked for."""

    def _write(self) -> None:
        if self._request.channel is None:
            return
        piece = next(self._pieces, None)
        if piece is not None:
            self._request.write(piece)
        else:
            self._request.unregisterProducer()
            self._request.finish()


def _refuse(request: Request, status: HTTPStatus) -> int:
    errorPage(status, status.phrase, status.description).render(request)
    return NOT_DONE_YET
