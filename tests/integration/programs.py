"""Programs of others that a test runs."""

from __future__ import annotations

import subprocess
from typing import Self

from tests.integration.polling import STOP_S


def end(process: subprocess.Popen[bytes]) -> None:
    """End it, by force if it takes too long, and wait for that."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Program:
    """Runs until it is closed. Who derives from it starts `_process`."""

    _process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and wait for that."""
        self._process.terminate()
        self._process.wait(STOP_S)
