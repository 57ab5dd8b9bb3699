"""`twistd rproxy` in a process of its own, and its status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rproxy.net.addresses import Address
from tests.integration.addresses import LOOPBACK, parse_address
from tests.integration.http_client import PRINT_BODY, get
from tests.integration.polling import READY_S, poll
from tests.integration.twistd import Twistd, environment

DRAIN_S: Final = 1.0


class Proxy(Twistd):
    """A running `twistd rproxy`. Its ports are ephemeral unless `options` name them, or a file its listeners."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        host: str = LOOPBACK,
        **how: Any,
    ) -> None:
        defaults = [] if {"--listen", "--config"} & set(options) else ["--listen", f"{host}:0"]
        for name in ("--monitor", "--admin"):
            defaults += [] if name in options else [name, f"{host}:0"]
        defaults += ["--drain-timeout", f"{DRAIN_S:g}"]  # tests end with sessions left
        super().__init__(folder, "rproxy", *defaults, *options, **how)
        try:
            self._status = self.logged(r"status at (http://\S+/)")
            self.monitor = parse_address(self.logged(r"listening for agents on UDP (\S+)"))
            poll(self._answers, READY_S, "the proxy is ready")
            self.idle_sockets = min(self._sockets(10))
        except BaseException:
            self.close()
            raise

    def _sockets(self, times: int) -> Iterator[int]:
        """The minimum of several counts: the request of `_answers` may still have one open."""
        for _ in range(times):
            yield self.descriptors("socket")
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            self.status()
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    @property
    def listeners(self) -> list[str]:
        """The addresses of its client listeners, in the order of the options: HOST:PORT, or a path."""
        return re.findall(r"listening for clients on (\S+)", self.log)

    @property
    def address(self) -> Address:
        """The address of the first listener."""
        return parse_address(self.listeners[0])

    @property
    def admin(self) -> Address:
        """The address of its status listener."""
        return parse_address(self._status.removeprefix("http://").partition("/")[0])

    def status(self) -> dict[str, Any]:
        url = f"{self._status}status.json"
        if self.prefix:
            command = [*self.prefix, sys.executable, "-c", PRINT_BODY, url]
            body = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, check=True).stdout
        else:
            body = get(url)
        status: dict[str, Any] = json.loads(body)
        return status

    def backends(self) -> dict[Address, dict[str, Any]]:
        """The rows of the status table by address."""
        return {(row["address"], row["port"]): row for row in self.status()["backends"]}

    def sessions(self) -> dict[str, int]:
        """Ended sessions by ending."""
        ended: dict[str, int] = self.status()["counters"]["sessions"]
        return ended

    def state(self, address: Address) -> str | None:
        state: str | None = self.backends().get(address, {}).get("state")
        return state

    def connections(self) -> int:
        """Sessions on any back-end now, the pending ones included."""
        return sum(row["connections"] for row in self.backends().values())
