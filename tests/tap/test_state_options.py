from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.pool.backend import Registration
from rproxy.sources.saved.rows import Saved, encoded
from tests.config.commands import config_of
from tests.fakes import Reactor, logged, texts
from tests.tap.services import AGENT, ProxyBench, ended


def test_the_state_file_is_the_configured_one_or_in_systemds_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert config_of().state_file is None
    assert config_of("--state-file", "x/y").state_file == str(tmp_path / "x" / "y")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/rproxy:/var/lib/other")
    assert config_of().state_file == "/var/lib/rproxy/rproxy.state"
    assert config_of("--state-file", "/elsewhere").state_file == "/elsewhere"
    assert config_of("--state-file", "").state_file is None
    monkeypatch.setenv("STATE_DIRECTORY", "")
    assert config_of().state_file is None


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "state")
    assert config_of("--state-file", str(link)).state_file == str(tmp_path / "state")


def test_operators_may_call_it_by_the_name_that_it_was_given() -> None:
    assert config_of("--admin", "localhost:8081").admin_names == ("localhost",)
    assert config_of("--admin", "[::1]:8081").admin_names == ("::1",)
    assert config_of().admin_names == ()


def test_rows_of_the_file_are_probed_when_the_reactor_runs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    registration = Registration(AGENT, instance=7, interval_s=300.0, weight=100)
    state.write_bytes(b"".join(encoded(Saved({(AGENT[0], 8000): registration}), 10)))
    bench = ProxyBench(Reactor(), state_file=str(state))
    with logged() as events:
        bench.start()
        for call, arguments, keywords in bench.reactor.whenRunningHooks:
            call(*arguments, **keywords)
        bench.reactor.advance(0)
    ((_, address),) = bench.reactor.datagrams[0].take()
    assert address == AGENT
    assert f"1 back-end(s) known from {state}" in texts(events)


def test_a_proxy_without_one_stops_as_ever() -> None:
    bench = ProxyBench()
    bench.start()
    stopping = bench.service.stopService()
    bench.reactor.advance(2)
    assert len(ended(stopping)) == 1
