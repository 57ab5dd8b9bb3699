"""twistd in a process of its own, as an operator starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, Self

from tests.integration.polling import READY_S, STOP_S, poll
from tests.integration.stopwatch import Stopwatch, remember

PROJECT: Final = Path(__file__).parents[2]
REACTORS: Final = ("epoll", "asyncio")
UVLOOP: Final = "uvloop"
"""Our name for Twisted's asyncio reactor on uvloop's event loop."""
RESTING: Final = 0.1
"""Share of a core that an idle process may use."""
_RUN_TWISTD: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job's is ignored
    "; from twisted.scripts.twistd import run; run()"
)
_INSTALL_UVLOOP: Final = "import uvloop; uvloop.install(); "
_ENDED: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT
_names = count(1)


def environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def twistd(*arguments: str, reactor: str, prefix: Sequence[str] = (), daemon: bool = False) -> list[str]:
    """The command line of this Python's twistd; `prefix` is a command that executes it in its place."""
    code, name = (_INSTALL_UVLOOP + _RUN_TWISTD, "asyncio") if reactor == UVLOOP else (_RUN_TWISTD, reactor)
    options = [f"--reactor={name}"] if daemon else ["-n", f"--reactor={name}"]
    return [*prefix, sys.executable, "-c", code, *options, *arguments]


def shell(command: str) -> list[str]:
    """A wrapper that runs `command`, such as `ulimit -n 80`, before it becomes what it wraps."""
    return ["sh", "-c", f'{command} && exec "$@"', "sh"]


def run_twistd(
    folder: Path, *arguments: str, reactor: str = "epoll", prefix: Sequence[str] = (), daemon: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a twistd that is expected to end by itself."""
    return subprocess.run(
        twistd(*arguments, reactor=reactor, prefix=prefix, daemon=daemon),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=READY_S,
    )


class Twistd:
    """A twistd command that runs in `folder`, where its log and what it says on stderr are files.

    `prefix` says where it runs, for whoever asks it something, too; `wrapper` how, for itself alone: with the
    descriptors `pass_fds`, for one.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        reactor: str = "epoll",
        prefix: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.prefix = tuple(prefix)
        name = f"{next(_names)}"
        self._log = folder / f"{name}.log"
        self._errors = folder / f"{name}.err"
        with self._log.open("wb") as log, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                twistd(*arguments, reactor=reactor, prefix=[*prefix, *wrapper]),
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=pass_fds,
                stdout=log,
                stderr=errors,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        if self._process.returncode is None and os.waitid(os.P_PID, self.pid, _ENDED):
            remember(self.pid)
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    def logged(self, pattern: str, within_s: float = READY_S) -> str:
        """Wait for a matching line of the log; returns its group."""

        def find() -> re.Match[str] | None:
            ended = not self.running
            found = re.search(pattern, self.log)
            assert found or not ended, f"it has ended:\n{self.log}{self.errors}"
            return found

        return poll(find, within_s, f"{pattern!r} in the log", every_s=0.02)[1]

    def send_signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    def wait(self, within_s: float = STOP_S) -> int:
        """Wait for its exit status, negative for a signal. Raises `TimeoutExpired`, see `Stopwatch.own_s`."""
        watch = Stopwatch()
        while self.running:
            if watch.own_s >= within_s:
                raise subprocess.TimeoutExpired(self._process.args, within_s)
            time.sleep(0.01)
        return self._process.wait()

    def stop(self, signum: signal.Signals = signal.SIGTERM, within_s: float = STOP_S) -> int:
        self.send_signal(signum)
        return self.wait(within_s)

    def close(self) -> None:
        """End it, running or not."""
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        print(f"{self._log.name}:\n{self.log}{self.errors}")

    def descriptors(self, kind: str = "") -> int:
        """Open descriptors of one kind ("socket", "pipe"), or all."""
        opened = 0
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with suppress(FileNotFoundError):  # closed in the meantime
                opened += os.readlink(f"/proc/{self.pid}/fd/{name}").startswith(kind)
        return opened

    def resident(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    def cpu(self) -> float:
        """User and system CPU time in s, in steps of 10 ms."""
        _, _, fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")
        user, system = fields.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def share_of_a_core(self, seconds: float = 1.0) -> float:
        """The share of a core used in the next `seconds`."""
        before = self.cpu()
        time.sleep(seconds)
        return (self.cpu() - before) / seconds
