"""The access log of a proxy on a reactor in memory, with real files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from rproxy.config.model import ProxyConfig
from rproxy.tap import access_targets
from rproxy.tap.startup import StartupError
from tests.fakes import Reactor, logged, run, texts
from tests.tap.services import ProxyBench, ended


class Bench(ProxyBench):
    """What is done in the background comes back when `settle` is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(Reactor(), allow=(), file="/etc/rproxy.toml", **settings)
        self.results: list[Callable[[], None]] = []
        self.reactor.callFromThread = (  # type: ignore[attr-defined]
            lambda call, *arguments: self.results.append(lambda: call(*arguments))
        )

    @property
    def log(self) -> Any:
        return self.service.access_log

    def session(self) -> Any:
        self.reactor.advance(0)
        return super().session()

    def visit(self) -> None:
        """A client that is served, and leaves."""
        client, backend = self.session()
        client.receive(b"abc")
        run(self.reactor, 0.2)
        for stream in (client, backend):
            stream.receive_end()
            run(self.reactor, 0.2)

    def settle(self, calls: int = 1) -> None:
        until = time.monotonic() + 10
        while calls and time.monotonic() < until:
            if self.results:
                self.results.pop(0)()
                calls -= 1
        assert not calls

    def apply(self, **settings: Any) -> None:
        self.service.apply(attrs.evolve(self.service._config, **settings))

    def served(self) -> list[str]:
        return [type(each).__name__ for each in self.service.service.observers.sessions]

    @property
    def notes(self) -> tuple[bool, bool]:
        """Whether sessions note the ages of reports, and values."""
        service = self.service.service
        return service.notes_choices, service.pool.notes_values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def started(**settings: Any) -> Bench:
    bench = Bench(**settings)
    bench.start()
    bench.backend_up()
    return bench


def test_without_an_access_log_sessions_have_no_further_observer_and_nothing_is_noted() -> None:
    bench = started()
    assert "AccessLog" not in bench.served()
    assert bench.notes == (False, False)
    assert not started(admin=("127.0.0.1", 8080)).served().count("AccessLog")


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({"access_log_format": "text"}, (False, False)),
        ({"access_log_format": "json"}, (True, True)),
        ({"access_log_format": "haproxy"}, (False, False)),
        ({"access_log_format": "haproxy", "admin": ("127.0.0.1", 8080)}, (True, False)),
    ],
)
def test_values_are_noted_where_they_are_shown(path: Path, settings: dict[str, Any], notes: tuple[bool, bool]) -> None:
    bench = started(access_log=str(path), **settings)
    assert bench.served().count("AccessLog") == 1
    assert bench.notes == notes


def test_a_session_is_a_line_soon_after_its_end(path: Path) -> None:
    bench = started(access_log=str(path), access_log_format="json")
    bench.visit()
    bench.settle()
    (line,) = path.read_text().splitlines()
    read = json.loads(line)
    assert (read["client"], read["backend"], read["up"], read["ending"]) == (
        "192.168.1.1:54321",
        "10.0.0.1:80",
        3,
        "closed",
    )
    assert read["score"] is not None
    assert read["report_age"] is not None


def test_what_is_left_is_written_last_of_all(path: Path) -> None:
    bench = started(access_log=str(path))
    bench.session()
    stopping = ended(bench.service.stopService())
    bench.reactor.advance(2)
    assert stopping == []
    bench.settle()
    assert len(stopping) == 1
    (line,) = path.read_text().splitlines()
    assert " stopped " in line


def test_one_that_cannot_be_opened_stops_the_start_with_one_line(tmp_path: Path) -> None:
    bench = Bench(access_log=str(tmp_path / "none" / "access.log"))
    with pytest.raises(StartupError, match=r"^cannot write --access-log /\S+/access.log: No such file or directory$"):
        bench.start()


def test_a_daemon_has_no_standard_output() -> None:
    bench = Bench(access_log="-")
    bench.log.is_daemon = True
    with pytest.raises(StartupError, match=r"^cannot write --access-log -: a daemon has no standard output; twistd -n"):
        bench.start()


def test_its_file_is_named_for_whoever_the_process_becomes(path: Path) -> None:
    assert [name for name, _ in started(access_log=str(path)).log.files] == [str(path)]
    assert started(access_log="/dev/null").log.files[0][0] == "/dev/null"
    assert started().log.files == []


def test_after_a_reopening_lines_go_to_the_new_file(path: Path) -> None:
    bench = started(access_log=str(path))
    bench.visit()
    bench.settle()
    path.rename(path.with_suffix(".1"))
    bench.visit()
    bench.settle()
    bench.log.reopen()
    bench.settle()
    bench.visit()
    bench.settle()
    assert [len(each.read_text().splitlines()) for each in (path, path.with_suffix(".1"))] == [1, 2]


def test_a_reload_turns_it_on_moves_it_and_turns_it_off(path: Path, tmp_path: Path) -> None:
    bench = started()
    other = tmp_path / "other.log"
    with logged() as events:
        bench.apply(access_log=str(path))
        bench.visit()
        bench.settle()
        bench.apply(access_log=str(other), access_log_format="json")
        assert bench.notes == (True, True)
        bench.settle()
        bench.visit()
        bench.settle()
        bench.apply(access_log=None)
    bench.visit()
    assert "AccessLog" not in bench.served()
    assert bench.notes == (False, False)
    assert (path.read_text().count("\n"), other.read_text().count("\n")) == (1, 1)
    assert other.read_text().startswith("{")
    assert not [text for text in texts(events) if "restart" in text]


def test_lost_lines_stay_counted_when_a_reload_turns_it_off_and_on(path: Path) -> None:
    bench = started(access_log="/dev/full")
    bench.visit()
    bench.settle()
    assert bench.log.lost == 1
    bench.apply(access_log=None)
    assert bench.log.lost == 1
    bench.apply(access_log=str(path))
    assert bench.log.lost == 1
    bench.apply(access_log="/dev/full")
    bench.visit()
    bench.settle(2)
    assert bench.log.lost == 2


def test_a_reload_with_an_error_changes_nothing(path: Path, tmp_path: Path) -> None:
    bench = started(access_log=str(path))
    with pytest.raises(StartupError):
        bench.apply(access_log=str(tmp_path / "none" / "access.log"))
    bench.visit()
    bench.settle()
    assert path.read_text().count("\n") == 1


def test_a_reload_that_fails_later_closes_what_it_has_opened(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = started(access_log=str(path))
    closed: list[str] = []
    monkeypatch.setattr(access_targets.Descriptor, "close", lambda target: closed.append(target.name))
    other = ProxyConfig(access_log=str(tmp_path / "other.log"))
    with pytest.raises(ZeroDivisionError), bench.log.changing(other, ()):
        raise ZeroDivisionError
    assert closed == [str(tmp_path / "other.log")]
    bench.visit()
    bench.settle()
    assert path.read_text().count("\n") == 1


def test_the_lines_of_haproxy_have_the_sessions_of_process_and_service(path: Path) -> None:
    bench = started(access_log=str(path), access_log_format="haproxy")
    bench.session()
    bench.visit()
    bench.settle()
    assert path.read_text().endswith(" -- 1/1/1/1/0 0/0\n")
    assert f"rproxy[{os.getpid()}]: 192.168.1.1:54321 [" in path.read_text()
