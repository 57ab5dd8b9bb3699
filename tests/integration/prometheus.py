"""A real Prometheus that scrapes a proxy."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from rproxy.net.addresses import Address, written
from rproxy.tap import prometheus
from tests.conftest import need
from tests.integration.http_client import get
from tests.integration.polling import READY_S, poll
from tests.integration.programs import Program

SCRAPE_S: Final = 1
_TARGET: Final = "127.0.0.1:8404"


class Prometheus(Program):
    """Runs with the files that `rproxy prometheus` prints, but for the address of the target and the intervals."""

    def __init__(self, folder: Path, target: Address) -> None:
        (program,) = need("prometheus")
        config = prometheus.text_of("config")
        assert _TARGET in config
        config = config.replace(_TARGET, written(target)).replace(
            "scrape_interval: 15s", f"scrape_interval: {SCRAPE_S}s"
        )
        config = config.replace("global:", f"global:\n  evaluation_interval: {SCRAPE_S}s")
        folder.joinpath("prometheus.yml").write_text(config)
        folder.joinpath("rproxy-alerts.yml").write_text(prometheus.text_of("alerts"))
        self._log = folder / "prometheus.log"
        options = {"config.file": "prometheus.yml", "storage.tsdb.path": "data", "web.listen-address": "127.0.0.1:0"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *[f"--{name}={value}" for name, value in options.items()]], cwd=folder, stderr=log
            )
        try:
            self._address = poll(self._listening, READY_S, "Prometheus listens")
            poll(lambda: self.values("up") == [1.0], READY_S, "the proxy has been scraped")
        except BaseException:
            self.close()
            raise

    def _listening(self) -> str | None:
        text = self._log.read_text()
        found = re.search(r'"Listening on" address=(\S+)', text)
        return found[1] if found and "Server is ready to receive web requests" in text else None

    def ask(self, path: str, **parameters: str) -> Any:
        """What the HTTP API answers to a GET below /api/v1/."""
        answer = json.loads(get(f"http://{self._address}/api/v1/{path}?{urlencode(parameters)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> Sequence[tuple[dict[str, str], float]]:
        """The labels and the value of each series that it evaluates to now."""
        return [(each["metric"], float(each["value"][1])) for each in self.ask("query", query=expression)["result"]]

    def values(self, expression: str) -> list[float]:
        return [value for _, value in self.query(expression)]
