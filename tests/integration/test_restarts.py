"""A proxy that is started again with its `--state-file`: it serves at once, though no agent says anything by itself."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from rproxy.net.addresses import Address, written
from rproxy.pool.backend import Registration
from rproxy.sources.saved.rows import Rows, RowsError, Saved, decoded, encoded
from rproxy.wire.seal import Unsealed
from tests.benchmarks.simulator import Simulator
from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import greeting, serve, start_agent, wait_until_up
from tests.integration.conftest import Starter
from tests.integration.fake_agents import FakeAgent
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.servers import Listener
from tests.integration.sockets import MB, is_readable
from tests.integration.stopwatch import Stopwatch

SELDOM: Final = ("--interval", "300")
KEPT_S: Final = 2.5
"""Within which a change is in the file: a look each second, and a slow disk."""
GIVEN_UP_S: Final = 4.0
"""Rows whose agents are silent: three probes of half a second, and a busy machine."""


def rows_of(state: Path) -> Rows:
    """Nothing where it is not there, or is not ours."""
    if not state.is_file() or state.stat().st_size > MB:
        return {}
    try:
        return decoded(state.read_bytes()).rows
    except RowsError:
        return {}


def wait_until_kept(state: Path, *services: Address) -> None:
    poll(lambda: set(rows_of(state)) == set(services), READY_S, f"{services} are kept", every_s=0.05)


def again(start: Starter, proxy: Proxy, *options: str, **how: Any) -> Proxy:
    """Another one in its place."""
    here = ["--listen", written(proxy.address), "--monitor", written(proxy.monitor)]
    return start.elsewhere().proxy(*here, *options, **how)


def served(proxy: Proxy) -> bytes:
    """What a new client receives; nothing if it is refused."""
    try:
        return greeting(proxy)
    except OSError:
        return b""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
def test_clients_are_served_within_a_second_after_a_restart(
    start: Starter, keyed: bool, signum: signal.Signals
) -> None:
    state = start.folder / "state"
    keys = ["--keyring", str(Keys(start.folder).master("keys"))] if keyed else []
    proxy = start.proxy("--state-file", str(state), *keys)
    services = [serve(start, word) for word in (b"one", b"other")]
    agents = [start_agent(start, proxy, service, *SELDOM, *keys) for service in services]
    wait_until_up(proxy, *services)
    if signum is signal.SIGKILL:
        wait_until_kept(state, *services)  # a stop need not be waited for
    proxy.stop(signum)
    assert set(rows_of(state)) == set(services)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    proxy = again(start, proxy, "--state-file", str(state), "--policy", "round-robin", *keys)
    words: set[bytes] = set()

    def both_serve() -> bool:
        words.add(served(proxy))
        return {b"one", b"other"} <= words

    poll(both_serve, PROMPT_S, "both serve")
    accepted = proxy.status()["counters"]["accepted"]
    assert accepted.keys() == {"probe-response"}, "nobody has to register again"
    assert accepted["probe-response"] >= 2
    assert {service: row["interval_s"] for service, row in proxy.backends().items()} == dict.fromkeys(services, 300.0)
    assert [failures(process.log) for process in (proxy, *agents)] == [[]] * 3


def test_a_row_whose_host_has_gone_gets_no_client_and_is_dropped_soon(start: Starter) -> None:
    state = start.folder / "state"
    proxy = start.proxy("--state-file", str(state))
    services = [serve(start, word) for word in (b"gone", b"here")]
    gone, _ = [start_agent(start, proxy, service, *SELDOM) for service in services]
    wait_until_up(proxy, *services)
    wait_until_kept(state, *services)
    proxy.stop(signal.SIGKILL)
    gone.stop(signal.SIGKILL)
    proxy = again(start, proxy, "--state-file", str(state))
    poll(lambda: served(proxy), PROMPT_S, "the other one serves")
    words = {greeting(proxy) for _ in range(20)}
    assert words == {b"here"}
    poll(lambda: list(proxy.backends()) == services[1:], GIVEN_UP_S, "it is dropped", every_s=0.05)
    wait_until_kept(state, services[1])


def test_rows_that_somebody_has_made_up_or_kept_win_nothing(start: Starter) -> None:
    """A service that would take clients, at hosts whose agents do not answer."""
    state = start.folder / "state"
    victim = Listener()
    start.closing(victim.close)
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    start.closing(silent.close)
    silent.bind((LOOPBACK, 0))
    rows = {
        victim.address: Registration(silent.getsockname(), 1, 300.0, 65535),
        ("127.0.0.9", 80): Registration(("127.0.0.9", 9), 1, 300.0, 65535),
        ("192.0.2.1", 80): Registration(("192.0.2.1", 5555), 1, 300.0, 65535),
    }
    state.write_bytes(b"".join(encoded(Saved(rows), 10)))
    proxy = start.proxy("--state-file", str(state), "--allow", "127.0.0.0/8")
    watch = Stopwatch()
    while proxy.backends():
        assert served(proxy) == b""
        assert ("192.0.2.1", 80) not in proxy.backends()
        assert {row["state"] for row in proxy.backends().values()} <= {"registered"}
        assert watch.own_s < GIVEN_UP_S
    silent.setblocking(False)
    assert is_readable(silent)  # it was asked
    assert not is_readable(victim._socket)
    wait_until_kept(state)


def broken(state: Path) -> None:
    state.write_bytes(b'{"kind": "rproxy-back-ends", "vers')


def huge(state: Path) -> None:
    with state.open("wb") as file:
        file.truncate(1 << 40)


def fifo(state: Path) -> None:
    os.mkfifo(state)


def folder(state: Path) -> None:
    state.mkdir()


def nowhere(state: Path) -> None:
    state.parent.rmdir()


@pytest.mark.parametrize("make", [broken, huge, fifo, folder, nowhere], ids=lambda make: make.__name__)
def test_a_file_that_cannot_be_used_stops_no_start_and_no_session(start: Starter, make: Callable[[Path], None]) -> None:
    home = start.folder / "home"
    home.mkdir()
    state = home / "state"
    make(state)
    proxy = start.proxy("--state-file", str(state))
    agent = FakeAgent(proxy.monitor, serve(start, b"word")[1])
    start.closing(lambda: agent.close(unregister=False))
    wait_until_up(proxy, agent.backend)
    assert greeting(proxy) == b"word"
    if make in (broken, huge):  # it is replaced
        wait_until_kept(state, agent.backend)
    else:
        proxy.logged(r"(--state-file)")
        time.sleep(KEPT_S)  # no second line comes of the next looks
    assert len([line for line in proxy.log.splitlines() if "--state-file" in line]) == 1
    assert failures(proxy.log) == []
    assert proxy.share_of_a_core(0.5) < 0.5


def test_a_full_disk_is_said_once_and_keeps_what_was_there(start: Starter) -> None:
    unshare, _, _ = need("unshare", "mount", "dd", root=True)
    disk = start.folder / "disk"
    disk.mkdir()
    fill = f"mount -t tmpfs -o size=64k none {disk} && (dd if=/dev/zero of={disk}/fill bs=4k 2>/dev/null || true)"
    wrapper = [unshare, "-m", "sh", "-c", f'{fill} && exec "$@"', "sh"]
    proxy = start.proxy("--state-file", str(disk / "state"), wrapper=wrapper)
    agent = FakeAgent(proxy.monitor, serve(start, b"word")[1])
    start.closing(lambda: agent.close(unregister=False))
    wait_until_up(proxy, agent.backend)
    proxy.logged(r"(No space left on device; back-ends are not kept)")
    time.sleep(KEPT_S)  # neither does a second line come, nor a part of a file
    assert greeting(proxy) == b"word"
    assert len([line for line in proxy.log.splitlines() if "--state-file" in line]) == 1
    assert sorted(os.listdir(f"/proc/{proxy.pid}/root/{disk}")) == ["fill"]


def test_systemd_s_folder_is_the_default_and_demo_back_ends_are_not_kept(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{start.folder}:/nowhere")
    proxy = start.proxy("--demo", "2")
    agent = FakeAgent(proxy.monitor, serve(start, b"word")[1])
    start.closing(lambda: agent.close(unregister=False))
    poll(lambda: len(proxy.backends()) == 3, READY_S, "all are there")
    wait_until_kept(start.folder / "rproxy.state", agent.backend)


def test_a_thousand_rows_are_probed_within_about_a_second(start: Starter) -> None:
    state = start.folder / "state"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((LOOPBACK, 0))
        monitor = free.getsockname()
    simulator = Simulator(monitor, Unsealed(), 1024, random.Random(1))
    start.closing(simulator.close)
    state.write_bytes(b"".join(encoded(Saved(simulator.rows()), 100)))
    proxy = start.twistd(
        "rproxy", "--listen", f"{LOOPBACK}:0", "--monitor", written(monitor), "--state-file", str(state)
    )
    simulator.run(READY_S, until=lambda: simulator.unprobed < 1024)
    watch = Stopwatch()
    simulator.run(READY_S, until=lambda: not simulator.unprobed)
    assert watch.own_s < 3 * PROMPT_S  # half a second where nothing else runs
    poll(lambda: proxy.log.count("registered -> up") == 1024, READY_S, "all are up", every_s=0.1)
