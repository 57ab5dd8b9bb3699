"""`/healthz` and `/readyz`, for what watches or distributes over proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from twisted.web.server import NOT_DONE_YET

from rproxy.admin.answers import READING, Folder, allows, answer
from rproxy.admin.channel import Request

TEXT: Final = "text/plain; charset=utf-8"


class Health(Folder):
    """Answers 200 with `well` if `faults` returns none, and otherwise 503 with one fault a line."""

    def __init__(self, well: str, faults: Callable[[], Iterable[str]] = tuple) -> None:
        super().__init__()
        self._well = well
        self._faults = faults

    def render(self, request: Request) -> int:
        if allows(request, *READING):
            faults = list(self._faults())
            status = HTTPStatus.SERVICE_UNAVAILABLE if faults else HTTPStatus.OK
            answer(request, status, "".join(f"{line}\n" for line in faults or [self._well]).encode(), TEXT)
        return NOT_DONE_YET
