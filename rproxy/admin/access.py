"""Who may read what the HTTP listener shows, and who may change something."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any, Final

import attrs
from twisted.logger import Logger
from twisted.web.resource import Resource

from rproxy.admin.answers import refuse
from rproxy.admin.channel import Request
from rproxy.net.addresses import unmapped, written
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit

CHALLENGE: Final = 'Bearer realm="rproxy"'
"""WWW-Authenticate, RFC 6750, 3."""
WRONG: Final = f'{CHALLENGE}, error="invalid_token"'
_ROOT: Final = 0


@attrs.frozen
class Denial:
    """Why a request is not answered."""

    status: HTTPStatus
    error: str
    challenge: str = ""
    """For WWW-Authenticate; empty for none."""


_NO_TOKENS: Final = "this needs a proxy that runs with --admin-token-file"
_ASKED: Final = Denial(HTTPStatus.UNAUTHORIZED, "a token is needed (Authorization: Bearer TOKEN)", CHALLENGE)
_WRONG: Final = Denial(HTTPStatus.UNAUTHORIZED, "this is not the token", WRONG)


class Access:
    """The rules: reading needs a token unless `reads_openly`, changing needs one unless it is the proxy's user or root
    who has connected by the Unix socket.

    `tokens` are those that are right, None where there are none at all.
    """

    log = Logger()

    def __init__(
        self, tokens: Collection[bytes] | None, seconds: Callable[[], float], *, reads_openly: bool = True
    ) -> None:
        self.tokens = tokens
        self._seconds = seconds
        self._reads_openly = reads_openly
        self._failures = RateLimit.once_in(LOG_EVERY_S)

    def to_read(self, request: Request) -> Denial | None:
        """Why the client may not read; None if it may."""
        return None if self._reads_openly or self._is_own_user(request) else self._by_token(request)

    def to_change(self, request: Request) -> Denial | None:
        """Why the client may change nothing; None if it may."""
        return None if self._is_own_user(request) else self._by_token(request)

    def who(self, request: Request) -> str:
        """The client, for the log."""
        uid = request.channel.peer_uid()
        if uid is not None:
            return f"user {uid}"
        peer = request.getClientAddress()
        return written((unmapped(peer.host), peer.port)) if hasattr(peer, "port") else "a client"

    def _is_own_user(self, request: Request) -> bool:
        return request.channel.peer_uid() in (_ROOT, os.geteuid())

    def _by_token(self, request: Request) -> Denial | None:
        if self.tokens is None:
            return Denial(HTTPStatus.FORBIDDEN, _NO_TOKENS)
        fields = request.requestHeaders.getRawHeaders(b"authorization", [])
        if not fields:
            return _ASKED
        if len(fields) == 1 and self._is_right(fields[0]):
            return None
        if self._failures.admit(self._seconds()):
            self.log.warn("a wrong token from {client}; more in the next 10 s are not logged", client=self.who(request))
        return _WRONG

    def _is_right(self, field: bytes) -> bool:
        """Whether an Authorization field has a right token. Takes the same time for all wrong ones of a length."""
        scheme, _, given = field.strip().partition(b" ")
        given = given.strip()
        matches = [hmac.compare_digest(given, token) for token in self.tokens or ()]
        return scheme.lower() == b"bearer" and any(matches)


def deny(request: Request, denial: Denial) -> int:
    """Answer with why the request is denied. Returns what `render` is to return."""
    if denial.challenge:
        request.setHeader("www-authenticate", denial.challenge)
    return refuse(request, denial.status, denial.error)


class Denied(Resource):
    """Answers everything below it with why it is denied."""

    isLeaf = True

    def __init__(self, denial: Denial) -> None:
        super().__init__()
        self._denial = denial

    def render(self, request: Request) -> Any:
        return deny(request, self._denial)
