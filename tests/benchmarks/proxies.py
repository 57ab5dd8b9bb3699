"""Real twistd processes for the benchmarks, and key files for them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TypeVar

from rproxy.tap.keygen import new_key
from rproxy.wire.keyfile import format_key
from rproxy.wire.seal import Key
from tests.integration.twistd import Twistd

Process = TypeVar("Process", bound=Twistd)


@contextmanager
def quiet(process: Process) -> Iterator[Process]:
    """Close the process at the end of the block without printing its log."""
    try:
        yield process
    finally:
        with redirect_stdout(io.StringIO()):
            process.close()


def write_keyring(path: Path) -> Key:
    """A key file for a proxy and all of its agents, and the key in it."""
    key = new_key(())
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(format_key(key) + "\n")
    return key
