"""A web server of one page, on a port of its own, that takes its time for it and then ends the connection.

A client that is to make a certain number of connections a second, as wrk, keeps as many open as it takes. Run as a
program, it prints its port; it ends with its input.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Final

from tests.integration.addresses import LOOPBACK

TAKES_S: Final = 0.02
_PAGE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(TAKES_S)
        writer.write(_PAGE)
        await writer.drain()
    writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_serve, LOOPBACK, 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
