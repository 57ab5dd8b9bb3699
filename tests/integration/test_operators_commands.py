"""The operators' commands at a real proxy: on terminals, into pipes, and when things go wrong."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from rproxy.net.addresses import written
from rproxy.wire.seal import Unsealed
from tests.benchmarks.simulator import Simulator, register_all
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter
from tests.integration.polling import READY_S, in_background
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.terminals import TerminalCommand, without_styles
from tests.integration.twistd import environment

ROWS: Final = 2000


def command(proxy: Proxy, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rproxy", "--url", written(proxy.admin), *arguments]


def rproxy(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run into pipes."""
    done = subprocess.run(
        command(proxy, *arguments), env=environment(), capture_output=True, text=True, check=False, timeout=READY_S
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """With three back-ends, and a session on one of them."""
    with Proxy(tmp_path_factory.mktemp("proxy")) as running:
        pool = Pool(running)
        try:
            for _ in range(3):
                pool.listen()
            yield running
        finally:
            pool.abandon()


def names(screen: list[str]) -> list[str]:
    """The back-ends, in their order."""
    return [line.split()[0] for line in screen if line.startswith(LOOPBACK)]


def test_a_table_in_a_pipe_is_plain_and_whole(proxy: Proxy) -> None:
    done = rproxy(proxy, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"rproxy 0.1.0, at http://{written(proxy.admin)}, pid {proxy.pid}, up ")
    backends = [line.split() for line in lines if LOOPBACK in line][1:]
    assert {(words[0], words[2]) for words in backends} == {("default", "up")}
    assert len(backends) == 3


def test_json_is_the_proxys_own_document(proxy: Proxy) -> None:
    document = json.loads(rproxy(proxy, "status", "--json").stdout)
    assert document.keys() == proxy.status().keys()
    assert len(document["backends"]) == 3
    events = json.loads(rproxy(proxy, "events", "--json").stdout)["events"]
    assert {event["kind"] for event in events} == {"up"}
    assert json.loads(rproxy(proxy, "sessions", "--json").stdout)["sessions"] == []


def test_a_reader_that_has_seen_enough_is_no_error(proxy: Proxy) -> None:
    for arguments in (["status"], ["status", "--json"], ["status", "--watch", "--interval", "0.05"], ["events", "-f"]):
        running = subprocess.Popen(
            command(proxy, *arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert running.stdout is not None
        assert running.stderr is not None
        with running:
            assert running.stdout.read(5)
            if arguments[-1] == "-f":
                running.send_signal(signal.SIGINT)  # it would write only when something happens
            else:
                running.stdout.close()
            assert running.stderr.read() == b""
            assert running.wait(READY_S) == (130 if arguments[-1] == "-f" else 0)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_table_on_a_terminal_has_colours_and_fits(proxy: Proxy, columns: int) -> None:
    with TerminalCommand(command(proxy, "status"), columns) as terminal:
        assert terminal.ended() == 0
        assert "\x1b[32mup" in terminal.output
        lines = without_styles(terminal.output).splitlines()
        assert all(len(line) <= columns for line in lines[1:])
        assert len(names(lines)) == 3


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_there_are_none(proxy: Proxy, variables: dict[str, str]) -> None:
    with TerminalCommand(command(proxy, "status"), variables=variables) as terminal:
        assert terminal.ended() == 0
        assert "\x1b[3" not in terminal.output
        assert len(names(without_styles(terminal.output).splitlines())) == 3


def test_a_terminal_that_cannot_be_painted_over_gets_one_table_after_the_other(proxy: Proxy) -> None:
    with TerminalCommand(
        command(proxy, "status", "--watch", "--interval", "0.05"), variables={"TERM": "dumb"}
    ) as terminal:
        terminal.wait(lambda: terminal.output.count("SERVICE  USABLE") > 2, "three tables")
        assert "\x1b" not in terminal.output
        terminal.type("\x03")
        assert terminal.ended() == 130


def test_a_watched_table_is_sorted_filtered_and_resized_by_keys(proxy: Proxy) -> None:
    with TerminalCommand(command(proxy, "status", "--watch", "--interval", "0.1")) as terminal:
        first = names(terminal.has(LOOPBACK))
        assert len(first) == 3
        assert "NEW/S" in "\n".join(terminal.has("NEW/S"))
        terminal.type("r")
        terminal.until(lambda screen: names(screen) == first[::-1], "the other way round")
        terminal.type("r/" + first[1][-3:] + "\r")
        terminal.until(lambda screen: names(screen) == [first[1]], "one of them")
        terminal.type("\x1b")
        terminal.until(lambda screen: names(screen) == first, "all of them")
        terminal.type("\x1b[B\x1b[6~>")
        terminal.resize(40, 8)
        small = terminal.until(lambda screen: len(screen) == 8, "a small screen")
        assert [line for line in small if len(line) > 40] == []
        terminal.type("q")
        assert terminal.ended() == 0
        assert terminal.is_restored


@pytest.mark.parametrize(
    ("key", "number", "status"), [("\x03", 0, 0), ("", signal.SIGTERM, 143), ("", signal.SIGHUP, 129)]
)
def test_however_it_ends_the_terminal_is_as_it_was(proxy: Proxy, key: str, number: int, status: int) -> None:
    with TerminalCommand(command(proxy, "status", "--watch")) as terminal:
        terminal.has(LOOPBACK)
        assert not terminal.is_restored
        terminal.type(key) if key else terminal.process.send_signal(number)
        assert terminal.ended() == status
        assert terminal.is_restored
        assert "Traceback" not in terminal.output


SHELL: Final = ["bash", "-c", 'set -m; "$0" "$@"; echo "stopped: $?"; read -r _; fg > /dev/null; echo "ended: $?"']


def test_a_shell_has_its_terminal_while_it_is_stopped(proxy: Proxy) -> None:
    with TerminalCommand([*SHELL, *command(proxy, "status", "--watch")]) as terminal:
        terminal.has(LOOPBACK)
        terminal.type("\x1a")
        terminal.wait(lambda: f"stopped: {128 + signal.SIGTSTP}" in terminal.output, "it has stopped")
        assert terminal.is_restored
        before = len(terminal.output)
        terminal.type("\n")
        terminal.wait(lambda: LOOPBACK in terminal.output[before:], "it has been painted again")
        assert not terminal.is_restored
        terminal.type("q")
        assert terminal.ended() == 0
        assert "ended: 0" in terminal.output
        assert terminal.is_restored


def test_a_proxy_that_goes_away_while_it_is_watched_is_waited_for(start: Starter) -> None:
    gone = start.proxy()
    address = gone.admin
    with TerminalCommand(command(gone, "status", "--watch", "--interval", "0.1")) as terminal:
        terminal.has(f"pid {gone.pid}")
        gone.stop(within_s=READY_S)
        terminal.until(lambda screen: "Connection refused" in screen[1] and screen[1].startswith("as it was"), "gone")
        again = start.proxy("--admin", written(address))
        terminal.has(f"pid {again.pid}")
        assert "refused" not in "\n".join(terminal.screen)
        terminal.type("q")
        assert terminal.ended() == 0


def test_thousands_of_rows_are_printed_and_watched(start: Starter) -> None:
    proxy = start.proxy("--probe-interval", "60", "--liveness", "200", "--max-backends", "10000")
    simulator = Simulator(proxy.monitor, Unsealed(), ROWS, random.Random(1), draining=True)
    start.closing(simulator.close)
    over: list[bool] = []
    register_all(simulator, ROWS)
    answering = in_background(simulator.run, 1e6, lambda: bool(over))
    try:
        assert rproxy(proxy, "status").stdout.count(" 127.1.") == ROWS
        with TerminalCommand(command(proxy, "status", "--watch"), 120, 40) as terminal:
            terminal.has(f" of {ROWS}")
            terminal.type("\x1b[F")
            assert "127.1.7.207:80" in "\n".join(terminal.has(f"-{ROWS} of {ROWS}"))
            terminal.type("q")
            assert terminal.ended() == 0
    finally:
        over.append(True)
        answering.result()
