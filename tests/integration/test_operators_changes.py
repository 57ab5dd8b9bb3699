"""What operators change by commands, at a real proxy: with tokens, over UNIX sockets and IPv6, by wrong names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final

import pytest

from rproxy.net.addresses import written
from rproxy.tap.command import main
from tests.integration.addresses import LOOPBACK
from tests.integration.polling import READY_S, in_background, poll
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import Listener
from tests.integration.sockets import receive_until_reset, reset
from tests.integration.terminals import TerminalCommand
from tests.integration.twistd import Twistd, environment

TOKEN: Final = "a-token-of-operators"


def here(url: str, *arguments: str, token: Path | None = None) -> tuple[int, str, str]:
    """The exit status of the command, and what it prints, in this process, which is faster."""
    options = ["--url", url, *(["--token-file", str(token)] if token else [])]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        status = main([*options, *arguments])
    return status, out.getvalue(), err.getvalue()


def elsewhere(url: str, *arguments: str, token: Path | None = None) -> tuple[int, str, str]:
    """The same in a process of its own."""
    options = ["--url", url, *(["--token-file", str(token)] if token else [])]
    command = [sys.executable, "-m", "rproxy", *options, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=READY_S)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


class Operated:
    """A proxy with two back-ends, and its operator."""

    def __init__(self, folder: Path, host: str = LOOPBACK) -> None:
        self.token = folder / "token"
        self.token.write_text(f"# of the operators\n{TOKEN}\n")
        self.token.chmod(0o600)
        self.proxy = Proxy(folder, "--admin-token-file", str(self.token), host=f"[{host}]" if ":" in host else host)
        self.pool = Pool(self.proxy)
        self.first: Listener = self.pool.use(Listener(host))
        self.second = self.pool.use(Listener(host))
        self.url = f"http://{written(self.proxy.admin)}"
        self.names = tuple(written(each.address) for each in (self.first, self.second))

    def does(self, *arguments: str) -> str:
        """What it prints, all of it, where it ends well."""
        status, out, err = here(self.url, *arguments, token=self.token)
        assert (status, err) == (0, "")
        return out

    def fails(self, *arguments: str, token: bool = True) -> str:
        """Its one line where it does not."""
        status, out, err = here(self.url, *arguments, token=self.token if token else None)
        assert (status, out) == (1, "")
        (line,) = err.splitlines()
        return line

    def row(self, listener: Listener) -> dict[str, object]:
        return self.proxy.backends()[listener.address]

    def close(self) -> None:
        self.pool.abandon()
        self.proxy.close()


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    at = Operated(tmp_path_factory.mktemp("proxy"))
    yield at
    at.close()


def test_a_back_end_is_drained_weighed_and_ready_again(operated: Operated) -> None:
    name, _ = operated.names
    assert name in operated.does("drain", name)
    assert operated.row(operated.first)["state"] == "draining"
    assert [line.split()[2] for line in operated.does("status", "--state", "draining").splitlines()[-1:]] == [
        "draining"
    ]
    assert "drain" in operated.does("explain", name)
    operated.does("maint", f"default/{name}")
    assert operated.row(operated.first)["state"] == "maint"
    operated.does("weight", name, "50")
    assert operated.row(operated.first)["weight"] == 50
    assert "  50*  " in operated.does("status")
    operated.does("weight", name, "default")
    assert operated.row(operated.first)["weight"] == 100
    assert "may get clients" in operated.does("ready", name, "--wait", "20")
    assert operated.row(operated.first)["state"] == "up"
    kinds = {event["kind"] for event in json.loads(operated.does("events", "--backend", name, "--json"))["events"]}
    assert {"drain", "maint", "ready"} <= kinds


def test_sessions_are_listed_waited_for_and_killed(operated: Operated) -> None:
    client = operated.pool.connect()
    host, port = client.getsockname()
    poll(lambda: operated.proxy.connections() == 1, READY_S, "it is connected")
    (listed,) = json.loads(operated.does("sessions", "--client", host, "--json"))["sessions"]
    assert listed["client"] == written((host, port))
    backend, other = operated.names if listed["backend"] == operated.names[0] else operated.names[::-1]
    assert backend in operated.does("sessions", "--backend", backend)
    assert len(operated.does("sessions", "--backend", other).splitlines()) == 1
    _, _, line = here(operated.url, "drain", backend, "--wait", "0.3", token=operated.token)
    assert line == f"rproxy drain: error: default/{backend}: 1 session left after 0.3 s\n"
    options = ["--token-file", str(operated.token)]
    waiting = in_background(elsewhere, operated.url, *options, "drain", backend, "--wait")
    assert str(listed["id"]) in operated.does("kill", str(listed["id"]))
    assert receive_until_reset(client) == b""
    status, out, _ = waiting.result()
    assert (status, out.splitlines()[-1]) == (0, f"default/{backend}: no session is left")
    assert "no session" in operated.fails("kill", str(listed["id"]))
    operated.does("ready", backend)


def test_all_sessions_of_a_back_end_are_killed_or_shed(operated: Operated) -> None:
    for arguments in (["kill", "--backend"], ["shed"]):
        clients = [operated.pool.connect() for _ in range(6)]
        poll(lambda: operated.proxy.connections() == 6, READY_S, "all are connected")
        for name in operated.names:
            rate = ["1000/s", "--wait"] if arguments == ["shed"] else []
            operated.does(*arguments, name, *rate)
        assert [receive_until_reset(client) for client in clients] == [b""] * 6
        poll(lambda: operated.proxy.connections() == 0, READY_S, "none is left")


def test_without_the_right_token_nothing_is_changed(operated: Operated, tmp_path: Path) -> None:
    name, _ = operated.names
    assert operated.fails("drain", name, token=False).endswith("; give --token-file FILE")
    wrong = tmp_path / "token"
    wrong.write_text("another-token-of-operators\n")
    status, out, err = here(operated.url, "drain", name, token=wrong)
    assert (status, out) == (1, "")
    assert err.endswith("; the token of --token-file is not the proxy's\n")
    assert operated.row(operated.first)["state"] == "up"


def test_near_names_are_said(operated: Operated) -> None:
    name, other = operated.names
    assert operated.fails("drain", LOOPBACK).endswith(f" may be default/{name} or default/{other}: name one of them")
    line = operated.fails("drain", f"{name[:-1]}")
    assert name in line or other in line
    assert operated.fails("drain", "127.0.0.9").startswith("rproxy drain: error: there is no back-end '127.0.0.9'")
    assert "default" in operated.fails("drain", f"defualt/{name}")
    assert "no such" in operated.fails("kill", "999999") or "no session" in operated.fails("kill", "999999")


def test_a_wait_is_shown_on_a_terminal_and_what_is_printed_goes_where_it_should(operated: Operated) -> None:
    client = operated.pool.connect()
    poll(lambda: operated.proxy.connections() == 1, READY_S, "it is connected")
    (name,) = (name for name, row in operated.proxy.backends().items() if row["connections"])
    options = ["--url", operated.url, "--token-file", str(operated.token)]
    shell = 'printed=$("$0" "$@"); echo "printed: $printed"'
    command = [sys.executable, "-m", "rproxy", *options, "drain", written(name), "--wait"]
    with TerminalCommand(["sh", "-c", shell, *command]) as terminal:
        terminal.wait(lambda: "1 session left" in terminal.output, "it waits")
        reset(client)
        assert terminal.ended() == 0
        assert terminal.output.index("printed: ") < terminal.output.index("no session is left")
    operated.does("ready", written(name))


def test_ipv6(tmp_path: Path) -> None:
    operated = Operated(tmp_path, "::1")
    try:
        assert operated.url.startswith("http://[::1]:")
        name, _ = operated.names
        operated.does("drain", name)
        assert operated.row(operated.first)["state"] == "draining"
        assert f"at {operated.url}" in operated.does("status")
    finally:
        operated.close()


def test_over_a_unix_socket_its_user_needs_no_token(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    url = f"unix:{path}"
    with Twistd(tmp_path, "rproxy", "--listen", f"{LOOPBACK}:0", "--monitor", f"{LOOPBACK}:0", "--admin", url) as proxy:
        proxy.logged("(status at unix:)")
        assert f"at {url}, pid {proxy.pid}" in here(url, "status")[1]
        status, _, err = here(url, "drain", "127.0.0.1:9")
        assert status == 1
        assert "token" not in err
        assert path.stat().st_mode & 0o777 == 0o600
    _, _, err = here(url, "status")
    assert err.startswith(f"rproxy status: error: {url}: No such file or directory; does a proxy run there")
