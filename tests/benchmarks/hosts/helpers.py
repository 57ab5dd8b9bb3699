"""Programs of this benchmark that are told and tell lines of JSON: services, hogs, clients."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self

from tests.integration.polling import READY_S, STOP_S
from tests.integration.twistd import environment

PACKAGE: Final = "tests.benchmarks.hosts"


class HelperFailed(Exception):
    """A helper has ended or does not answer."""


class Helper:
    """One module of this package, as a process that ends with its standard input. `prefix` says where it runs."""

    def __init__(self, prefix: Sequence[str], module: str, *arguments: object) -> None:
        self._name = " ".join([module, *map(str, arguments)])
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", f"{PACKAGE}.{module}", *map(str, arguments)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # it is ended by who started it, and by no Ctrl-C
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, what: object) -> None:
        """Raises `HelperFailed`."""
        try:
            self._stdin.write(json.dumps(what).encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise HelperFailed(f"{self._name}: it has ended") from None

    def hear(self, within_s: float = READY_S) -> Any:
        """Its next line. Raises `HelperFailed`."""
        if not select.select([self._stdout], (), (), within_s)[0]:
            raise HelperFailed(f"{self._name}: no answer within {within_s:g} s")
        line = self._stdout.readline()
        if not line:
            raise HelperFailed(f"{self._name}: it has ended")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        with suppress(BrokenPipeError):  # of what it has not been told
            self._stdin.close()
        self._stdout.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
