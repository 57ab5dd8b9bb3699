"""The operators' commands, from the command line to the proxy."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from rproxy.tap.command import main
from tests.cli.fake_proxy import TOKEN, FakeProxy, row, service, status

Captured = pytest.CaptureFixture[str]
DONE: Final = {"done": "it is done"}
POST: Final = "/api/backends/web/10.1.1.1:80"
ROWS: Final = [row("10.1.1.1", service="web", connections=0), row("10.1.1.2", service="app")]
DOCUMENTS: Final[dict[str, Any]] = {
    "/status.json": status(*ROWS, services=(service("web"), service("app"))),
    "/api/backends": {"backends": ROWS},
    "/api/sessions": {"sessions": [], "total": 0},
    "/api/events": {"events": [], "last": 0},
    "/api/doubts": {"doubts": []},
    "/api/shadow": {"services": []},
    "/api/choices": {"choices": [], "services": {}},
    "/api/explain": {"explanations": []},
    **{f"{POST}/{do}": DONE for do in ("drain", "maint", "ready", "weight", "kill", "shed")},
    "/api/sessions/7/kill": DONE,
    "/api/sessions/8/kill": DONE,
}


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProxy]:
    """That which the environment names."""
    with FakeProxy(DOCUMENTS) as server:
        monkeypatch.setenv("RPROXY_URL", server.url)
        monkeypatch.delenv("RPROXY_TOKEN_FILE", raising=False)
        yield server


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return str(path)


def asked(proxy: FakeProxy) -> list[str]:
    """The requests."""
    return [f"{method} {target}" for method, target in proxy.asked]


GET: Final = {
    "status": "/status.json",
    "status --sort mem": "/status.json",
    "status --sort cpu --reverse --service web --state up,down": "/status.json",
    "sessions": "/api/sessions",
    "sessions --client 10.0.0.0/8 --backend 10.1.1.1 --service web --limit 5": (
        "/api/sessions?client=10.0.0.0%2F8&backend=10.1.1.1%3A80&service=web&limit=5"
    ),
    "events": "/api/events",
    "events --backend 10.1.1.1:80 --service web --limit 0": "/api/events?backend=10.1.1.1%3A80&service=web&limit=0",
    "doubts": "/api/doubts",
    "shadow": "/api/shadow",
    "choices": "/api/choices",
    "choices --candidates --client 10.1.1.9 --limit 3": "/api/choices?client=10.1.1.9&limit=3",
    "explain": "/api/choices?limit=1",
    "explain 10.1.1.2:80": "/api/explain?backend=10.1.1.2%3A80",
    "explain 10.1.1.2": "/api/explain?backend=10.1.1.2%3A80&service=app",
    "explain web/10.1.1.2:80": "/api/explain?backend=10.1.1.2%3A80&service=web",
}


@pytest.mark.parametrize("command", GET)
def test_what_is_asked(proxy: FakeProxy, capsys: Captured, command: str) -> None:
    assert main(command.split()) == 0
    assert asked(proxy)[-1] == f"GET {GET[command]}"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "command", ["status", "sessions", "events", "doubts", "shadow", "choices", "explain", "explain 10.1.1.2:80"]
)
def test_documents_are_printed_as_json(proxy: FakeProxy, capsys: Captured, command: str) -> None:
    assert main([*command.split(), "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    assert asked(proxy) == [f"GET {asked(proxy)[0].removeprefix('GET ')}"]


CHANGES: Final = {
    "drain 10.1.1.1": [f"{POST}/drain"],
    "maint 10.1.1.1:80 --service web": [f"{POST}/maint"],
    "ready web/10.1.1.1": [f"{POST}/ready"],
    "drain --wait 10.1.1.1": [f"{POST}/drain"],
    "drain --wait 5 10.1.1.1": [f"{POST}/drain"],
    "ready 10.1.1.1 --wait 5s": [f"{POST}/ready"],
    "weight 10.1.1.1 50": [f"{POST}/weight?value=50"],
    "weight 10.1.1.1 default": [f"{POST}/weight"],
    "kill --backend 10.1.1.1": [f"{POST}/kill"],
    "kill 7": ["/api/sessions/7/kill"],
    "kill 7 8": ["/api/sessions/7/kill", "/api/sessions/8/kill"],
    "shed 10.1.1.1 5/s": [f"{POST}/shed?rate=5"],
    "shed 10.1.1.1 0.5 --wait 9": [f"{POST}/shed?rate=0.5"],
    "shed 10.1.1.1 0": [f"{POST}/shed?rate=0"],
    "shed 10.1.1.1 100/s": [f"{POST}/shed?rate=100"],
    "shed 10.1.1.1 2e-5/s": [f"{POST}/shed?rate=0.00002"],
}


@pytest.mark.parametrize("command", CHANGES)
def test_what_is_changed(proxy: FakeProxy, token: str, capsys: Captured, command: str) -> None:
    assert main(["--token-file", token, *command.split()]) == 0
    posted = [target.replace("%3A", ":") for method, target in proxy.asked if method == "POST"]
    assert posted == CHANGES[command]
    assert capsys.readouterr().out.startswith("it is done\n")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("drain", "the following arguments are required: BACKEND"),
        ("drain --wait 5", "the following arguments are required: BACKEND"),
        ("drain --wait 0 10.1.1.1", "argument --wait: '0' is no number of seconds"),
        ("ready --wait nan 10.1.1.1", "argument --wait: 'nan' is no number of seconds"),
        ("kill", "name sessions by their numbers, or a back-end by --backend"),
        ("kill 7 --backend 10.1.1.1", "name sessions by their numbers, or a back-end by --backend"),
        ("kill seven", "'seven' is no whole number"),
        ("weight 10.1.1.1 0", "'0' is no weight from 1 to 65535, nor 'default'; 'rproxy drain' keeps new clients away"),
        ("weight 10.1.1.1 70000", "'70000' is no weight"),
        ("weight 10.1.1.1", "N|default"),
        ("shed 10.1.1.1 fast", "'fast' is no rate, such as 5/s"),
        ("shed 10.1.1.1 nan", "'nan' is no rate"),
        ("shed 10.1.1.1 5/s --wait x", "argument --wait: 'x' is no number of seconds"),
        ("status --sort size", "'size' is none of backend, service, "),
        ("status --interval 0", "'0' is no number of seconds"),
        ("sessions --limit -1", "--limit"),
    ],
)
def test_wrong_arguments_end_with_status_2_before_anything_is_asked(
    proxy: FakeProxy, capsys: Captured, command: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"rproxy {command.split()[0]}: error: ")
    assert message in last
    assert proxy.asked == []


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("status --url 127.0.0.1:1", "http://127.0.0.1:1: Connection refused; does a proxy run there"),
        ("status ftp://front", "'ftp://front': a proxy is asked at http://HOST:PORT or unix:PATH"),
        ("status --service wbe", "no service has the name 'wbe'; there are web, app"),
        (
            "status --state up,dwon",
            "--state dwon: the states are up, suspect, down, draining, maint, registered, departed",
        ),
        ("drain 10.1.1.1", ": it asks for a token; give --token-file FILE"),
        ("drain 10.1.1.3:80", "there is no back-end '10.1.1.3:80'; do you mean 10.1.1."),
        ("kill 9 --token-file TOKEN", "there is no such thing"),
        ("drain 10.1.1.1 --token-file nowhere", "--token-file nowhere: No such file or directory"),
        ("drain 10.1.1.1 --token-file /", "--token-file /: Is a directory"),
        ("drain 10.1.1.1 --token-file /dev/null", "--token-file /dev/null: it is no regular file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(token: str, capsys: Captured, command: str, message: str) -> None:
    assert main(command.replace("TOKEN", token).split()) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"rproxy {command.split()[0]}: error: ")
    assert message in line


@pytest.mark.parametrize(
    "text", [b"two words\n", b"# a comment\ntwo words\n", b"\xff\xfe", b"a\x00b", "pässwort".encode()]
)
def test_a_file_without_a_token_is_refused(proxy: FakeProxy, tmp_path: Path, capsys: Captured, text: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(text)
    assert main(["--token-file", str(path), "status"]) == 1
    assert capsys.readouterr().err.endswith(": a token is a line of ASCII characters without blanks\n")
    assert proxy.asked == []


@pytest.mark.parametrize("text", ["", "\n", "# a comment\n\n"])
def test_an_empty_file_has_no_token(tmp_path: Path, capsys: Captured, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    assert main(["--token-file", str(path), "status"]) == 1
    assert capsys.readouterr().err == f"rproxy status: error: --token-file {path}: there is no token in it\n"


def test_the_proxys_own_file_will_do(proxy: FakeProxy, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"# of the team\n\n  {TOKEN}\nanother-token\n")
    assert main(["--token-file", str(path), "drain", "10.1.1.1"]) == 0
    assert proxy.headers[-1]["authorization"] == f"Bearer {TOKEN}"


def test_options_may_come_before_and_after_the_command_and_win_over_the_environment(
    proxy: FakeProxy, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPROXY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RPROXY_TOKEN_FILE", token)
    assert main(["--url", proxy.url, "doubts"]) == 0
    assert main(["doubts", "--url", proxy.url]) == 0
    assert main(["--url", "127.0.0.1:1", "doubts", "--url", proxy.url]) == 0
    assert main(["--url", "127.0.0.1:1", "status", proxy.url]) == 0
    assert {headers["authorization"] for headers in proxy.headers} == {f"Bearer {TOKEN}"}
    assert main(["doubts"]) == 1


def test_without_a_word_it_is_the_usual_port(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, proxy: FakeProxy
) -> None:
    monkeypatch.delenv("RPROXY_URL")
    monkeypatch.setattr("rproxy.cli.main.DEFAULT_URL", proxy.url)
    assert main(["status"]) == 0
    monkeypatch.setenv("RPROXY_URL", "")
    assert main(["status"]) == 0
    assert len(proxy.asked) == 2
    assert "at http://127.0.0.1:" in capsys.readouterr().out


class _Broken:
    """A standard output that cannot be written to."""

    encoding = "utf-8"

    def __init__(self, error: OSError) -> None:
        self._error = error

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)

    def write(self, _: str) -> int:
        raise self._error

    def flush(self) -> None:
        raise self._error


@pytest.mark.usefixtures("proxy")
def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", _Broken(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        assert main(["status"]) == 1
    assert capsys.readouterr().err == "rproxy status: error: standard output: No space left on device\n"


@pytest.mark.usefixtures("proxy")
def test_a_closed_standard_output_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        assert main(["status"]) == 1
    assert capsys.readouterr().err == "rproxy status: error: standard output: Bad file descriptor\n"


@pytest.mark.usefixtures("proxy")
def test_a_reader_that_has_seen_enough_and_ctrl_c_are_quiet(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", _Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")))
        assert main(["status"]) == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rproxy.cli.client.Client.get", interrupted)
    assert main(["status"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("proxy")
def test_watched_documents_have_what_is_selected(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rproxy.cli.watch.time.sleep", interrupted)
    assert main(["status", "--watch", "--json", "--service", "app"]) == 130
    document = json.loads(capsys.readouterr().out)
    assert {row["service"] for row in document["backends"]} == {row["name"] for row in document["services"]} == {"app"}
