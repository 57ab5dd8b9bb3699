"""Short answers of the HTTP listener: errors as JSON, in one line."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final

from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from rproxy.admin.channel import Request

JSON: Final = "application/json"
READING: Final = (b"GET", b"HEAD")


def answer(request: Request, status: HTTPStatus, body: bytes, content_type: str = JSON) -> int:
    """Answer with a short document. Returns what `render` is to return."""
    request.setResponseCode(status)
    request.setHeader("content-type", content_type)
    request.setHeader("content-length", str(len(body)))
    if request.method != b"HEAD":
        request.write(body)
    request.finish()
    return NOT_DONE_YET


def refuse(request: Request, status: HTTPStatus, error: str) -> int:
    """Answer with an error. Returns what `render` is to return."""
    return answer(request, status, json.dumps({"error": error}).encode() + b"\n")


def allows(request: Request, *methods: bytes) -> bool:
    """Whether the request has one of these methods; otherwise it has been answered."""
    if request.method in methods:
        return True
    request.setHeader(b"allow", b", ".join(methods))
    refuse(request, HTTPStatus.METHOD_NOT_ALLOWED, f"only {' and '.join(map(bytes.decode, methods))} can be asked here")
    return False


class Refused(Resource):
    """Answers everything below it with the same error."""

    isLeaf = True

    def __init__(self, status: HTTPStatus, error: str) -> None:
        super().__init__()
        self._status = status
        self._error = error

    def render(self, request: Request) -> Any:
        return refuse(request, self._status, self._error)


class Server(Resource):
    """Answers what is asked of the server itself, not of anything that it has: whether it is there, by OPTIONS."""

    isLeaf = True

    def render(self, request: Request) -> int:
        return answer(request, HTTPStatus.OK, b"", "text/plain") if allows(request, b"OPTIONS") else NOT_DONE_YET


def not_found() -> Refused:
    """For paths that lead to nothing."""
    return Refused(HTTPStatus.NOT_FOUND, "there is nothing here: 'rproxy docs api' lists what there is")


class Folder(Resource):
    """Serves the children that were added with `putChild`; any other path below it, and itself, is not found."""

    def getChild(self, path: bytes, request: Request) -> IResource:
        return not_found()

    def render(self, request: Request) -> Any:
        return not_found().render(request)
