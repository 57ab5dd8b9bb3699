"""New clients at a steady rate, and the server that they end up at, in a process of its own.

Run as a program, it prints its server's port, reads the address to connect to, and at the end of its input prints what
has become of the clients.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from typing import Final, Self

import attrs

from rproxy.net.addresses import Address
from tests.integration.addresses import LOOPBACK
from tests.integration.twistd import environment

QUESTION: Final = b"?"
ANSWER: Final = b"!"
PATIENCE_S: Final = 10.0
TICK_S: Final = 0.01


@attrs.frozen
class Outcome:
    """How many clients got their answer, what became of the others by reason, and how long the slowest took."""

    served: int
    failed: dict[str, int]
    slowest_s: float


class SteadyClients:
    """The program as a process: clients come from `begin` to `end`."""

    def __init__(self, rate: int) -> None:
        command = [sys.executable, "-m", __name__, str(rate)]
        self._process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.server_port = int(self._line())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def begin(self, address: Address) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{address[0]} {address[1]}\n")
        self._process.stdin.flush()

    def end(self) -> Outcome:
        assert self._process.stdin is not None
        self._process.stdin.close()
        return Outcome(**json.loads(self._line()))


class _Clients:
    def __init__(self, host: str, port: int) -> None:
        self._at = host, port
        self.served = 0
        self.failed: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._running: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        task = asyncio.ensure_future(self._ask())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def wait(self) -> None:
        await asyncio.gather(*self._running)

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection(*self._at)
                try:
                    writer.write(QUESTION)
                    answer = await reader.read()
                finally:
                    writer.close()
            if answer == ANSWER:
                self.served += 1
            else:
                self.failed[f"got {answer!r}"] += 1
        except (OSError, TimeoutError) as error:
            self.failed[type(error).__name__] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readexactly(len(QUESTION))
        writer.write(ANSWER)
        await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


async def _main(rate: int) -> None:
    server = await asyncio.start_server(_serve, LOOPBACK, 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    host, port = (await loop.run_in_executor(None, sys.stdin.readline)).split()
    over = loop.run_in_executor(None, sys.stdin.readline)
    clients, began, started = _Clients(host, int(port)), time.monotonic(), 0
    while not over.done():
        due = int((time.monotonic() - began) * rate)
        for _ in range(started, due):
            clients.start()
        started = max(started, due)
        await asyncio.sleep(TICK_S)
    await clients.wait()
    print(json.dumps(attrs.asdict(Outcome(clients.served, dict(clients.failed), clients.slowest_s))), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
