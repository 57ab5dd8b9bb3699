"""Files with secrets. One that other users can read, or could have written, is refused."""

from __future__ import annotations

import os
import stat
from typing import Final

from rproxy.net.files import open_regular

BYTES_MAX: Final = 1 << 20
_FOR_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class SecretFileError(ValueError):
    """A file that cannot be used. The message contains nothing of the file."""


def read_secrets(path: str, kind: str, owner: int | None = None) -> str:
    """The text of a file of this kind. Raises `SecretFileError`.

    The file must belong to root, to the effective user, or to the user id `owner`, which this process will change to.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in {0, os.geteuid(), owner}:
                raise SecretFileError(
                    f"it belongs to user {status.st_uid}, who is neither root nor the one that uses it"
                )
            if status.st_mode & _FOR_OTHERS:
                raise SecretFileError("others than its owner may use it (chmod 600 mends that)")
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise SecretFileError(error.strerror or str(error)) from None
    if len(data) > BYTES_MAX:
        raise SecretFileError(f"it is longer than any {kind}")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise SecretFileError("it is not a text of ASCII characters") from None
