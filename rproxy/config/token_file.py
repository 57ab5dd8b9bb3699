"""The file of operators' tokens: one a line. Blank lines, and those that begin with a ``#``, are ignored."""

from __future__ import annotations

import os
import re
from typing import Final

import attrs

from rproxy.config.secret_file import SecretFileError, read_secrets

TOKEN_MIN: Final = 16
"""Fewest characters of a token."""
TOKEN_MAX: Final = 1024
"""Most characters: that, and more, fits into a request's head."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""b64token, RFC 6750, 2.1."""


@attrs.frozen
class TokenFile:
    """A file and its tokens, any of which is right."""

    path: str
    """Absolute."""
    tokens: tuple[bytes, ...] = attrs.field(repr=False)
    owner: int | None = None
    """The id of a user who may own the file besides root and the effective user."""

    @classmethod
    def read(cls, path: str, owner: int | None = None) -> TokenFile:
        """Raises `SecretFileError`, whose text names the line and no token."""
        path = os.path.abspath(path)
        lines = enumerate(read_secrets(path, "file of tokens", owner).splitlines(), 1)
        tokens = tuple(_token(number, line.strip()) for number, line in lines if _has_token(line))
        if not tokens:
            raise SecretFileError("there is no token in it")
        return cls(path, tokens, owner)

    def reread(self) -> TokenFile:
        """The file, read again. Raises `SecretFileError`."""
        return self.read(self.path, self.owner)


def _has_token(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _token(number: int, text: str) -> bytes:
    if not _TOKEN.fullmatch(text):
        raise SecretFileError(f"line {number}: a token has letters, digits and any of -._~+/ only")
    if not TOKEN_MIN <= len(text) <= TOKEN_MAX:
        raise SecretFileError(f"line {number}: a token has {TOKEN_MIN} to {TOKEN_MAX} characters")
    return text.encode()
