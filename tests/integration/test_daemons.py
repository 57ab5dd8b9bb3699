"""Both commands as processes: pid files that were left behind, another user, the log, and what they say of a start."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter
from tests.integration.logs import failures
from tests.integration.polling import READY_S, STOP_S, poll
from tests.integration.twistd import environment, run_twistd, twistd

PROXY: Final = ["rproxy", "--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0"]
AGENT: Final = ["rproxy-agent", "--proxy", LOOPBACK, "--port", "0"]
COMMANDS: Final = {"rproxy": PROXY, "rproxy-agent": AGENT}
NOBODY: Final = 54321
"""A user without a name, and without rights."""

both_commands = pytest.mark.parametrize("command", COMMANDS)


class Daemons:
    """Starts daemons in one folder, which are killed with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[int] = []

    def start(self, name: str, *arguments: str) -> int:
        """The process of the one that has `name`.pid."""
        done = run_twistd(self.folder, *arguments, daemon=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pid = int(self.folder.joinpath(f"{name}.pid").read_text())
        self.adopt(pid)
        return pid

    def adopt(self, pid: int) -> None:
        """Have it killed with the others."""
        self._started.append(pid)

    def log(self, name: str) -> str:
        return self.folder.joinpath(f"{name}.log").read_text()

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        poll(lambda: not alive(pid), STOP_S, "it has ended")

    def close(self) -> None:
        for pid in self._started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text()


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    daemons = Daemons(tmp_path)
    yield daemons
    daemons.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where other users get to, which pytest's own folders do not let them."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@both_commands
def test_one_that_was_killed_starts_again(daemons: Daemons, command: str) -> None:
    pid = daemons.start(command, *COMMANDS[command])
    os.kill(pid, signal.SIGKILL)
    poll(lambda: not alive(pid), STOP_S, "it is dead")
    assert daemons.folder.joinpath(f"{command}.pid").read_text() == f"{pid}"
    again = daemons.start(command, *COMMANDS[command])
    daemons.stop(again)
    assert list(daemons.folder.glob("*.pid")) == []


LEFT: Final = {"empty": "", "garbage": "no number\n", "negative": "-1", "huge": "9" * 4000, "one": "1\n"}


@pytest.mark.parametrize("left", [*LEFT, "another program's", "a dead one's", "somebody's of no rights"])
def test_a_pid_file_that_was_left_is_no_obstacle(daemons: Daemons, left: str) -> None:
    path = daemons.folder / "rproxy.pid"
    path.write_text(LEFT.get(left, f"{os.getpid()}"))
    if left == "a dead one's":
        path.write_text(f"{subprocess.Popen(['true']).wait() or 4194303}")
    if left == "somebody's of no rights":
        path.chmod(0o000)
        os.chown(path, NOBODY, NOBODY)
    pid = daemons.start("rproxy", *PROXY)
    daemons.stop(pid)
    assert not path.exists()


@both_commands
def test_one_that_lives_is_an_obstacle_and_is_named(daemons: Daemons, command: str) -> None:
    pid = daemons.start(command, *COMMANDS[command])
    path = daemons.folder / f"{command}.pid"
    done = run_twistd(daemons.folder, *COMMANDS[command], daemon=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"twistd {command}: process {pid} runs already with the pid file {path};")
    assert path.read_text() == f"{pid}"
    assert alive(pid)


def test_a_second_agent_in_the_folder_has_files_of_its_own(daemons: Daemons) -> None:
    first = daemons.start("rproxy-agent", *AGENT)
    second = daemons.start("rproxy-agent-8000", *AGENT, "--service-port", "8000")
    third = daemons.start("rproxy-agent-8001", *AGENT, "--service-port", "8001")
    for pid in (first, second, third):
        daemons.stop(pid)
    names = sorted(path.name for path in daemons.folder.iterdir())
    assert names == ["rproxy-agent-8000.log", "rproxy-agent-8001.log", "rproxy-agent.log"]


def test_proxy_and_agent_have_logs_of_their_own(daemons: Daemons) -> None:
    daemons.start("rproxy", *PROXY)
    daemons.start("rproxy-agent", *AGENT)
    assert "listening for clients" in daemons.log("rproxy")
    assert "agent registers with" in daemons.log("rproxy-agent")
    assert sorted(path.name for path in daemons.folder.glob("*.log")) == ["rproxy-agent.log", "rproxy.log"]


@both_commands
def test_in_the_foreground_there_is_no_pid_file_and_no_right_to_write_is_needed(
    start: Starter, open_folder: Path, command: str
) -> None:
    need("setpriv", root=True)
    wrapper = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all"]
    prefix = ["sh", "-c", f'cd {open_folder} && exec "$@"', "sh"]
    process = start.twistd(*COMMANDS[command], wrapper=[*prefix, *wrapper])
    process.logged("(listening for clients|agent registers)")
    assert list(open_folder.iterdir()) == []
    assert process.stop() == -signal.SIGTERM
    assert failures(process.log) == []


def test_in_the_foreground_a_pid_file_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    command = twistd("--pidfile=twistd.pid", *PROXY, reactor="epoll")
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as process:
        path = tmp_path / "twistd.pid"
        poll(lambda: path.exists() and path.read_text() == f"{process.pid}", READY_S, "it is written")
        second = run_twistd(tmp_path, f"--pidfile={path}", *PROXY)
        process.terminate()
    assert f"process {process.pid} runs already with the pid file {path};" in second.stderr
    assert not path.exists()


@both_commands
def test_a_container_that_was_killed_starts_again(start: Starter, command: str) -> None:
    """As process 1 of a namespace of its own, and so is the one that left the pid file."""
    need("unshare", root=True)
    path = start.folder / "mine.pid"
    for _ in range(2):
        container = start.twistd(
            f"--pidfile={path}", *COMMANDS[command], prefix=["unshare", "--kill-child", "-pf", "--mount-proc"]
        )
        container.logged("(listening for clients|agent registers)")
        assert path.read_text() == "1"
        container.send_signal(signal.SIGKILL)
        container.wait()


def test_a_container_that_was_killed_starts_again_on_its_unix_socket(start: Starter) -> None:
    """Its lock names process 1, which is the new one itself."""
    need("unshare", root=True)
    path = start.folder / "socket"
    for _ in range(2):
        container = start.twistd(
            *[*PROXY, "--listen", f"unix:{path}"], prefix=["unshare", "--kill-child", "-pf", "--mount-proc"]
        )
        container.logged("listening for clients on (.*socket)")
        assert os.readlink(f"{path}.lock") == "1"
        container.send_signal(signal.SIGKILL)
        container.wait()


def test_a_daemon_in_a_container_starts_over_the_pid_file_of_process_1(tmp_path: Path) -> None:
    need("unshare", root=True)
    tmp_path.joinpath("rproxy.pid").write_text("1")
    prefix = ["unshare", "--kill-child", "-pf", "--mount-proc"]
    done = run_twistd(tmp_path, *PROXY, daemon=True, prefix=prefix)
    assert (done.returncode, done.stderr) == (0, "")
    assert tmp_path.joinpath("rproxy.pid").read_text() not in ("", "1")


@both_commands
@pytest.mark.parametrize("user", [f"{NOBODY}", "nobody"])
def test_with_another_user_everything_is_that_users_and_can_be_rotated_and_removed(
    open_folder: Path, command: str, user: str
) -> None:
    need(root=True)
    shutil.chown(open_folder, int(user) if user.isdigit() else user)
    daemons = Daemons(open_folder)
    try:
        pid = daemons.start(command, f"--uid={user}", *COMMANDS[command])
        owner = open_folder.stat().st_uid
        assert {path.name: path.stat().st_uid for path in open_folder.iterdir()} == {
            f"{command}.log": owner,
            f"{command}.pid": owner,
        }
        ids = re.findall(r"^(?:Uid|Gid):\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        assert "0" not in " ".join(ids).split()
        os.kill(pid, signal.SIGUSR1)
        poll(open_folder.joinpath(f"{command}.log.1").exists, STOP_S, "the log is rotated")
        daemons.stop(pid)
        assert not open_folder.joinpath(f"{command}.pid").exists()
        assert "Received SIGTERM" in daemons.log(command)
        assert failures(daemons.log(command)) == []
    finally:
        daemons.close()


def test_with_another_user_the_report_of_reloads_is_that_users_and_goes_with_the_proxy(open_folder: Path) -> None:
    need(root=True)
    shutil.chown(open_folder, NOBODY)
    file = open_folder / "rproxy.toml"
    file.write_text('[[service]]\nlisten = "127.0.0.1:0"\n')
    daemons = Daemons(open_folder)
    try:
        pid = daemons.start("rproxy", f"--uid={NOBODY}", *PROXY, "--config", str(file))
        report = open_folder / "rproxy.pid.reload"
        assert report.stat().st_uid == NOBODY
        daemons.stop(pid)
        assert not report.exists()
    finally:
        daemons.close()


def test_with_another_user_in_roots_folder_it_starts_again_and_logrotates_new_file_is_used(open_folder: Path) -> None:
    need(root=True)
    daemons = Daemons(open_folder)
    log = open_folder / "rproxy.log"
    try:
        pid = daemons.start("rproxy", f"--uid={NOBODY}", "--gid=0", *PROXY)
        log.rename(open_folder / "old.log")
        log.touch()
        os.chown(log, NOBODY, 0)
        os.kill(pid, signal.SIGUSR1)
        os.kill(pid, signal.SIGTERM)
        poll(lambda: not alive(pid), STOP_S, "it has ended")
        assert "Server Shut Down" in log.read_text()
        assert open_folder.joinpath("rproxy.pid").read_text() == ""
        daemons.stop(daemons.start("rproxy", f"--uid={NOBODY}", *PROXY))
    finally:
        daemons.close()


def test_root_gives_away_no_file_that_a_link_leads_to(open_folder: Path) -> None:
    """Else the user could have any file at the next start."""
    need(root=True)
    daemons = Daemons(open_folder)
    victims = [open_folder / "symbolic", open_folder / "hard"]
    for victim in victims:
        victim.touch(mode=0o644)
    open_folder.joinpath("rproxy.log").symlink_to(victims[0])
    open_folder.joinpath("rproxy-agent.log").hardlink_to(victims[1])
    try:
        daemons.start("rproxy", f"--uid={NOBODY}", *PROXY)
        daemons.start("rproxy-agent", f"--uid={NOBODY}", *AGENT)
        assert [victim.stat().st_uid for victim in victims] == [0, 0]
    finally:
        daemons.close()


def test_a_log_that_may_not_be_renamed_goes_on(open_folder: Path) -> None:
    need(root=True)
    daemons = Daemons(open_folder)
    try:
        pid = daemons.start("rproxy", f"--uid={NOBODY}", *PROXY)
        for _ in range(3):
            os.kill(pid, signal.SIGUSR1)
        daemons.stop(pid)
        assert "Server Shut Down" in daemons.log("rproxy")
        assert failures(daemons.log("rproxy")) == []
    finally:
        daemons.close()


@both_commands
def test_a_flood_of_rotations_is_one_a_second(daemons: Daemons, command: str) -> None:
    """Each renames all the older files, and holds up every session meanwhile."""
    started = time.monotonic()
    pid = daemons.start(command, *COMMANDS[command])
    for _ in range(5000):
        os.kill(pid, signal.SIGUSR1)
    daemons.stop(pid)
    rotated = list(daemons.folder.glob(f"{command}.log.*"))
    assert 1 <= len(rotated) <= time.monotonic() - started + 1
    assert failures("".join(path.read_text() for path in daemons.folder.glob("*.log*"))) == []


@both_commands
def test_with_nothing_open_a_daemon_starts_and_its_files_are_its_own(daemons: Daemons, command: str) -> None:
    """Whatever it opens first gets the numbers of standard input, output and errors."""
    prefix = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    done = run_twistd(daemons.folder, *COMMANDS[command], daemon=True, prefix=prefix)
    assert done.returncode == 0
    pid = int(daemons.folder.joinpath(f"{command}.pid").read_text())
    daemons.adopt(pid)
    os.kill(pid, signal.SIGUSR2)
    poll(lambda: "there is no --keyring" in daemons.log(command), STOP_S, "it runs, and logs")
    daemons.stop(pid)
    assert failures(daemons.log(command)) == []


@pytest.fixture
def taken() -> Iterator[int]:
    """A UDP and TCP port in use by another process."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((LOOPBACK, 0))
            tcp.listen()
            with suppress(OSError):
                udp.bind(("", tcp.getsockname()[1]))
                yield tcp.getsockname()[1]
                return


FAILING: Final = {
    "a taken port of the proxy's": (["rproxy", "--listen", f"{LOOPBACK}:TAKEN", "--monitor", f"{LOOPBACK}:0"], True),
    "a taken port for agents": (["rproxy", "--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:TAKEN"], True),
    "a taken port for operators": ([*PROXY, "--admin", f"{LOOPBACK}:TAKEN"], True),
    "a taken port of the agent's": (["rproxy-agent", "--proxy", LOOPBACK, "--port", "TAKEN"], True),
    "a key file that is not there": ([*PROXY, "--keyring", "nowhere"], False),
    "an endpoint that cannot be": ([*PROXY, "--listen", "unix:/nowhere/socket"], True),
    "an address of nobody's here": ([*PROXY, "--listen", "192.0.2.1:80"], True),
    "a user that cannot be": (["--uid=-2", *PROXY], True),
    "a group that cannot be": (["--gid=99999999999", *PROXY], True),
    "a folder that is not there": (["--rundir=/nowhere", *PROXY], False),
    "a log in a folder that is not there": (["--logfile=/nowhere/log", *PROXY], False),
    "a log on standard output": (["--logfile=-", *PROXY], False),
    "a pid file that is a folder": (["--pidfile=folder", *PROXY], False),
}


@pytest.mark.parametrize("way", FAILING)
def test_a_daemon_that_cannot_start_says_so_in_one_line_on_stderr_and_in_its_log(
    tmp_path: Path, taken: int, way: str
) -> None:
    arguments, is_logged = FAILING[way]
    tmp_path.joinpath("folder").mkdir()
    done = run_twistd(tmp_path, *(word.replace("TAKEN", f"{taken}") for word in arguments), daemon=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("twistd")
    assert done.stdout == ""
    assert list(tmp_path.glob("*.pid")) == []
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert "Traceback" not in logs
    assert (line.partition(": ")[2] in logs) is is_logged
