"""What may happen to a running proxy's key file, and the signals that have it read again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import CARRIERS, Starter, carrier_options
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.stopwatch import Stopwatch
from tests.integration.twistd import Twistd, run_twistd

FLOOD: Final = 5000
AGENT: Final = ["--proxy", LOOPBACK, "--port", "0"]
LIVELY_S: Final = 10.0
"""Much longer than a request takes: blocking on a key file would never end."""


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def replace(file: Path, kind: str) -> None:
    """Put something else in its place."""
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file, 0o600)
    elif kind == "device":
        file.symlink_to("/dev/ptmx")
    elif kind == "folder":
        file.mkdir(0o700)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(file))


@pytest.mark.parametrize(
    ("kind", "carrier"),
    [*(("fifo", carrier) for carrier in CARRIERS), *((kind, "splice") for kind in ["device", "folder", "socket"])],
)
def test_what_is_no_file_holds_up_no_session(start: Starter, keys: Keys, kind: str, carrier: str) -> None:
    file = keys.master("master")
    proxy = start.proxy("--keyring", str(file), "--demo", "1", *carrier_options(carrier))
    poll(lambda: [row["state"] for row in proxy.backends().values()] == ["up"], READY_S, "it is up")
    replace(file, kind)
    proxy.send_signal(signal.SIGUSR2)
    proxy.logged(f"(--keyring {file}: .*; the keys stay as they were)", within_s=LIVELY_S)
    watch = Stopwatch()
    assert proxy.status()["backends"]
    assert watch.own_s < LIVELY_S


def count(process: Twistd, text: str) -> int:
    return process.log.count(text)


def test_a_flood_of_signals_is_a_few_lines_and_the_last_change_is_read(start: Starter, keys: Keys) -> None:
    file = keys.master("master")
    old, new = file.read_text(), keys.further(file)
    proxy = start.proxy("--keyring", str(file))
    started = time.monotonic()
    for _ in range(FLOOD):
        proxy.send_signal(signal.SIGUSR2)
    file.write_text(old + new)
    proxy.send_signal(signal.SIGUSR2)
    proxy.logged("(keys read again: 1, 2; the first one seals)")
    read = count(proxy, "keys read again")
    assert 1 <= read <= time.monotonic() - started + 2
    assert count(proxy, "\n") < 30


def test_at_sighup_both_commands_read_their_keys_again_and_go_on(start: Starter, keys: Keys) -> None:
    file = keys.master("master")
    proxy = start.proxy("--keyring", str(file))
    agent = start.twistd("rproxy-agent", *AGENT, "--keyring", str(file))
    agent.logged("(agent registers)")
    for process in (proxy, agent):
        process.send_signal(signal.SIGHUP)
        process.logged("(keys read again: 1)")
        assert process.stop() == -signal.SIGTERM
        assert failures(process.log) == []


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_no_signal_that_means_something_elsewhere_ends_it(start: Starter, signum: signal.Signals) -> None:
    proxy = start.proxy()
    proxy.send_signal(signum)
    assert proxy.status()
    assert proxy.stop() == -signal.SIGTERM


def test_at_sighup_without_keys_both_commands_go_on(start: Starter) -> None:
    proxy = start.proxy()
    agent = start.twistd("rproxy-agent", *AGENT)
    agent.logged("(agent registers)")
    for process in (proxy, agent):
        process.send_signal(signal.SIGHUP)
        process.logged("(told to read the keys again, but there is no --keyring)")
        assert process.stop() == -signal.SIGTERM


def test_another_users_key_file_is_refused_unless_the_process_becomes_that_user(tmp_path: Path, keys: Keys) -> None:
    need(root=True)
    file = keys.master("master")
    os.chown(file, 54321, 54321)
    proxy = ["rproxy", "--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0", "--keyring", str(file)]
    for uid in ([], ["--uid=12345"]):
        done = run_twistd(tmp_path, *uid, *proxy)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert f"--keyring {file}: it belongs to user 54321, who is neither root nor" in line


def test_after_the_privileges_are_shed_the_users_own_file_is_read_again_and_anothers_is_not() -> None:
    need(root=True)
    with TemporaryDirectory() as folder, closing(Starter(Path(folder))) as start:
        start.folder.chmod(0o755)  # for another user than root, who does not get into pytest's own
        file = Keys(start.folder).master("master")
        os.chown(file, 54321, 54321)
        options = ["--uid=54321", "rproxy", "--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0"]
        proxy = start.twistd(*options, "--keyring", str(file))
        proxy.logged("(running as user 54321)")
        proxy.send_signal(signal.SIGUSR2)
        proxy.logged("(keys read again: 1)")
        os.chown(file, 0, 0)
        proxy.send_signal(signal.SIGUSR2)
        proxy.logged("(Permission denied; the keys stay as they were)")


def test_a_key_file_that_is_made_while_others_look_on_is_theirs_at_no_moment(tmp_path: Path) -> None:
    """The system's own account of how it is opened."""
    need("strace")
    trace, file = tmp_path / "trace", tmp_path / "keys"
    command = ["strace", "-f", "-e", "trace=openat,open,creat,chmod,fchmod", "-o", str(trace)]
    made = ["sh", "-c", 'umask 000; exec "$@"', "sh", sys.executable, "-m", "rproxy", "keygen", "--out", str(file)]
    subprocess.run([*command, *made], check=True, timeout=READY_S, cwd=Path(__file__).parents[2])
    (opened,) = [line for line in trace.read_text().splitlines() if f'"{file}"' in line and "open" in line]
    assert "O_CREAT|O_EXCL" in opened
    assert ", 0600)" in opened
