"""What an operator reads on the terminal: a start without noise, and a mistake in one line."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Certificate, Starter, every_listener
from tests.integration.polling import READY_S, poll
from tests.integration.twistd import environment, run_twistd, twistd

PROXY: Final = ["rproxy", "--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0"]
MISTAKES: Final = [
    (["rporxy", "--listen", "80"], "there is no command rporxy; do you mean rproxy?"),
    (["rproxy-agnet"], "there is no command rproxy-agnet; do you mean rproxy-agent?"),
    ([*PROXY, "--lisen", "80"], "there is no option --lisen; do you mean --listen?"),
    ([*PROXY, "-n"], "-n is an option of twistd itself: it goes before rproxy"),
    ([*PROXY, "--listen", "a..b:80"], "a..b is not a host name"),
    ([*PROXY, "--monitor", "a..b:80"], "a..b is not a host name"),
    ([*PROXY, "--admin", "a..b:80"], "a..b is not a host name"),
    (["rproxy-agent", "--proxy", "a..b:80"], "a..b is not a host name"),
    ([*PROXY, "--listen", "tcp:0:interface=a..b"], "tcp:0:interface=a..b"),
    ([*PROXY, "--listen", "[fe80::1%nosuch]:80"], "[fe80::1%nosuch]:80"),
    ([*PROXY, "--listen", "tls:443"], "--listen tls:443: "),
    ([*PROXY, "--listen", "ssl:443:cert=x"], "ssl: takes no cert="),
    ([*PROXY, "--listen", "tcp:99999"], "port 99999 is above 65535"),
    ([*PROXY, "--probe-interval", "1e-306"], "--probe-interval 1e-306: must be from 0.01 to 3600"),
    ([*PROXY, "--idle-timeout", "-5"], "--idle-timeout -5: must be 0, or from 0.01 to 2592000"),
]


@pytest.mark.parametrize(("arguments", "told"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    done = run_twistd(tmp_path, *arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("twistd")
    assert told in line


@pytest.mark.parametrize("command", ["rproxy", "rproxy-agent"])
def test_the_version_is_told(command: str) -> None:
    done = subprocess.run(
        twistd(command, "--version", reactor="epoll"),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=READY_S,
    )
    assert re.fullmatch(r"rproxy [0-9.]+ \(Twisted [0-9.]+, Python [0-9.]+\S*\)\n", done.stdout)


def test_a_start_tells_of_every_port_what_it_is_for_and_names_no_class(
    start: Starter, certificate: Certificate
) -> None:
    proxy = start.proxy(*every_listener(start.folder, certificate), "--demo", "1")
    agent = start.twistd("rproxy-agent", "--proxy", LOOPBACK, "--port", "0")
    agent.logged("(agent registers)")
    assert len(proxy.listeners) == 4
    for process in (proxy, agent):
        assert "starting on" not in process.log
        assert "Starting factory" not in process.log
    lines = [line.partition("] ")[2] for line in proxy.log.splitlines()[2:]]
    assert all(
        re.match("listening for|status at|demo back-end|agent registers|127|back-end 127", line) for line in lines
    )


def test_a_probe_interval_of_the_least_that_may_be_takes_no_core(start: Starter) -> None:
    proxy = start.proxy("--probe-interval", "0.01", "--demo", "1")
    assert proxy.share_of_a_core() < 0.5


def test_the_average_round_trip_is_of_the_path_from_the_first_that_is_shown(start: Starter) -> None:
    proxy = start.proxy("--probe-interval", "0.1", "--demo", "1")
    shown: list[float | None] = []

    def has_average() -> bool:
        shown.extend(row["srtt_ms"] for row in proxy.backends().values())
        return bool(shown) and shown[-1] is not None

    poll(has_average, READY_S, "eight probes are answered")
    assert shown[0] is None
    assert shown[-1] is not None
    assert shown[-1] < 50  # a start at 200 ms would still be 69 of them
