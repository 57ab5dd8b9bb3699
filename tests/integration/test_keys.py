"""Keyed monitoring as operators run it: files made by the command, real processes, both families of addresses."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.integration.addresses import LOOPBACK
from tests.integration.agents import serve, start_agent, visitors, wait_until_up
from tests.integration.conftest import Starter
from tests.integration.http_client import get
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, poll
from tests.integration.proxies import Proxy
from tests.integration.test_commands import AGENT, PROXY, assert_it_says_in_one_line, probe_responses
from tests.integration.twistd import REACTORS, Twistd, run_twistd

HINT_S: Final = 10.0
"""For how long no proxy has probed an agent that gives a hint, with its next registration."""
HINT: Final = "does not probe this agent"
DROPPED: Final = "dropped "
IN_TURN: Final = ("--policy", "round-robin")
"""Every back-end gets clients, however busy this machine is."""
FEW: Final = 5
"""Probes that are as good as many."""
PROBE_S: Final = 0.1
TIMEOUT_S: Final = 1.0
AFTER: Final = round(1.5 * TIMEOUT_S / PROBE_S)
"""Probes that take longer than the timeout of any before them."""

both_reactors = pytest.mark.parametrize("reactor", REACTORS)


@pytest.fixture
def keys(start: Starter) -> Keys:
    """After every test: no process may have logged or printed a key."""
    keys = Keys(start.folder)
    start.closing(keys.assert_secret)
    return keys


def dropped(proxy: Proxy) -> dict[str, int]:
    counts: dict[str, int] = proxy.status()["counters"]["dropped"]
    return counts


def said(process: Twistd, text: str) -> list[str]:
    return [line for line in process.log.splitlines() if text in line]


@both_reactors
@pytest.mark.parametrize(("host", "ip"), [(LOOPBACK, LOOPBACK), ("[::1]", "::1")], ids=["IPv4", "IPv6"])
def test_agents_with_the_master_key_and_with_their_own_serve_and_leave(
    start: Starter, keys: Keys, reactor: str, host: str, ip: str
) -> None:
    master = keys.master("master")
    derived = keys.derived("derived", master, ip)
    proxy = start.proxy("--keyring", str(master), *IN_TURN, host=host, reactor=reactor)
    words = [b"one", b"other"]
    services = [serve(start, word, ip) for word in words]
    agents = [
        start_agent(start, proxy, service, "--keyring", str(file), reactor=reactor)
        for service, file in zip(services, (master, derived), strict=True)
    ]
    wait_until_up(proxy, *services)
    with visitors(proxy) as greeted:
        poll(lambda: set(greeted) == set(words), READY_S, "both serve")
    assert dropped(proxy) == {}
    for agent in agents:
        agent.stop()
    assert proxy.backends() == {}
    assert [failures(process.log) for process in (proxy, *agents)] == [[], [], []]


def test_an_ipv4_agents_key_is_good_at_a_proxy_that_listens_on_both_families(start: Starter, keys: Keys) -> None:
    master = keys.master("master")
    derived = keys.derived("derived", master, LOOPBACK)
    proxy = start.proxy("--keyring", str(master), "--monitor", "[::]:0")
    told = ["--proxy", f"{LOOPBACK}:{proxy.monitor[1]}", "--port", "0", "--service-port", "8000", "--check", "none"]
    start.twistd("rproxy-agent", *told, "--keyring", str(derived))
    wait_until_up(proxy, (LOOPBACK, 8000))
    assert dropped(proxy) == {}


def test_an_agent_that_lacks_the_right_key_stays_out_and_both_sides_give_a_hint(start: Starter, keys: Keys) -> None:
    master = keys.master("master")
    proxy = start.proxy("--keyring", str(master))
    other_id = keys.master("other-id")
    other_id.write_text(keys.further(master))
    wrong: list[list[str]] = [
        [],
        ["--keyring", str(keys.master("another"))],
        ["--keyring", str(other_id)],
        ["--keyring", str(keys.derived("another-host", master, "127.0.0.2"))],
        ["--keyring", str(master), "--advertise", "127.0.0.2"],
    ]
    service = (LOOPBACK, 8000)
    agents = [start_agent(start, proxy, (LOOPBACK, 8001), "--interval", "1", *options) for options in wrong]
    right = start_agent(start, proxy, service, "--keyring", str(master), "--advertise", LOOPBACK)
    wait_until_up(proxy, service)
    poll(lambda: all(said(agent, HINT) for agent in agents), HINT_S + READY_S, "all give a hint", every_s=0.1)
    assert [len(said(agent, HINT)) for agent in agents] == [1] * len(agents)
    assert said(right, HINT) == []
    assert list(proxy.backends()) == [service]
    counts = dropped(proxy)
    assert set(counts) == {"seal", "key-id", "unsealed"}
    assert counts["seal"] > counts["key-id"] > 1
    (line,) = said(proxy, DROPPED)
    assert re.search(r"dropped 1 datagram\(s\): (seal|key-id|unsealed); the last one came from 127\.0\.0\.1$", line)


def test_a_proxy_without_keys_drops_what_is_sealed_and_says_so(start: Starter, keys: Keys) -> None:
    proxy = start.proxy()
    start_agent(start, proxy, (LOOPBACK, 8000), "--keyring", str(keys.master("master")))
    proxy.logged(r"(dropped 1 datagram\(s\): sealed; the last one came from 127\.0\.0\.1)")
    poll(lambda: dropped(proxy)["sealed"] > 1, READY_S, "it is tried again", every_s=0.1)
    assert proxy.backends() == {}
    assert len(said(proxy, DROPPED)) == 1


def test_the_keyed_demo_answers_from_both_back_ends(start: Starter, keys: Keys) -> None:
    proxy = start.proxy("--demo", "2", "--keyring", str(keys.master("master")), *IN_TURN)
    poll(lambda: [row["state"] for row in proxy.backends().values()] == ["up"] * 2, READY_S, "both are up")
    url = "http://{}:{}/".format(*proxy.address)
    answers: set[bytes] = set()

    def both_have_answered() -> bool:
        answers.add(get(url))
        return len(answers) == 2

    poll(both_have_answered, READY_S, "answers from both", every_s=0.05)
    assert dropped(proxy) == {}


def reread(process: Twistd, file: Path, text: str) -> None:
    """Put `text` into the file of keys, and have the process read it."""
    before = len(said(process, "keys read again"))
    file.write_text(text)
    process.send_signal(signal.SIGUSR2)
    poll(lambda: len(said(process, "keys read again")) > before, READY_S, "the keys are read again")


def wait_for_probes(proxy: Proxy, number: int) -> None:
    """Answered ones, from now on."""
    until = probe_responses(proxy) + number
    poll(lambda: probe_responses(proxy) >= until, READY_S, f"{number} probes are answered", every_s=0.05)


def own_keys(keys: Keys, proxys: Path, old: str, new: str) -> tuple[str, str]:
    """The agent's, made as the manual says: the new one once the proxy's file ends with its master."""
    own_old = keys.derived("own-old", proxys, LOOPBACK).read_text()
    proxys.write_text(old + new)
    own_new = keys.derived("own-new", proxys, LOOPBACK, "--id", new.split()[0]).read_text()
    proxys.write_text(old)
    return own_old, own_new


@both_reactors
@pytest.mark.parametrize("derived", [False, True], ids=["master", "derived"])
def test_keys_are_rotated_under_traffic_and_no_probe_is_lost(
    start: Starter, keys: Keys, reactor: str, derived: bool
) -> None:
    """Any datagram that met with the wrong keys would be counted: by the proxy when it comes, or as a lost probe."""
    proxys, agents = keys.master("proxys"), keys.master("agents")
    old, new = proxys.read_text(), keys.further(proxys)
    agents_old, agents_new = own_keys(keys, proxys, old, new) if derived else (old, new)
    agents.write_text(agents_old)
    options = ["--probe-interval", f"{PROBE_S}", "--probe-timeout", f"{TIMEOUT_S}", "--trace"]
    proxy = start.proxy("--keyring", str(proxys), *options, reactor=reactor)
    service = serve(start, b"hello")
    told = ["--keyring", str(agents), "--interval", "0.3", "--trace"]
    agent = start_agent(start, proxy, service, *told, reactor=reactor)
    wait_until_up(proxy, service)
    with visitors(proxy) as greeted:
        for process, file, text in [
            (proxy, proxys, old + new),
            (agent, agents, agents_new + agents_old),
            (proxy, proxys, new + old),
            (agent, agents, agents_new),
            (proxy, proxys, new),
        ]:
            wait_for_probes(proxy, FEW)
            reread(process, file, text)
        wait_for_probes(proxy, AFTER)
    assert set(greeted) == {b"hello"}
    assert dropped(proxy) == {}
    assert said(proxy, "probe lost") == []
    assert proxy.backends()[service]["loss"] == 0
    assert [failures(process.log) for process in (proxy, agent)] == [[], []]
    for process in (proxy, agent):
        assert keys.told_by(Path(f"/proc/{process.pid}/cmdline").read_text()) == []
        assert keys.told_by(Path(f"/proc/{process.pid}/environ").read_text()) == []


def test_a_file_that_is_broken_leaves_the_keys_as_they_were(start: Starter, keys: Keys) -> None:
    file = keys.master("master")
    proxy = start.proxy("--keyring", str(file), "--probe-interval", f"{PROBE_S}")
    service = (LOOPBACK, 8000)
    agent = start_agent(start, proxy, service, "--keyring", str(file))
    wait_until_up(proxy, service)
    new, short = keys.further(file), "1 abcdef\n"
    broken: list[tuple[str, int, str]] = [
        ("", 0o600, "there is no key in it"),
        (new + short, 0o600, "line 2: the key is shorter"),
        (new + new, 0o600, "line 2: key id 2 is there twice"),
        (new, 0o640, "others than its owner may use it"),
    ]
    for number, (text, mode, error) in enumerate(broken, 1):
        file.write_text(text)
        file.chmod(mode)
        for process in (proxy, agent):
            process.send_signal(signal.SIGUSR2)
            process.logged(f"({re.escape(f'--keyring {file}: {error}')})")
            assert len(said(process, "the keys stay as they were")) == len(failures(process.log)) == number
        wait_for_probes(proxy, FEW)
    file.unlink()
    proxy.send_signal(signal.SIGUSR2)
    proxy.logged("(No such file or directory; the keys stay as they were)")
    wait_for_probes(proxy, FEW)
    assert dropped(proxy) == {}


LONG: Final = "ab" * 32
UNUSABLE: Final = [
    pytest.param(f"1 {LONG}\n", 0o644, "others than its owner may use it", id="readable by others"),
    pytest.param(f"1 {LONG}\n1 {LONG}\n", 0o600, "line 2: key id 1 is there twice", id="a repeated id"),
    pytest.param(f"1 {LONG[2:]}\n", 0o600, "line 1: the key is shorter than 32 bytes", id="a short key"),
]


@pytest.mark.parametrize("command", [PROXY, AGENT], ids=lambda command: command[0])
@pytest.mark.parametrize(("text", "mode", "error"), UNUSABLE)
def test_a_key_file_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, command: list[str], text: str, mode: int, error: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    file.chmod(mode)
    done = run_twistd(tmp_path, *command, "--keyring", str(file))
    assert_it_says_in_one_line(done, tmp_path, f"--keyring {file}: {error}")
    assert LONG[2:] not in done.stdout + done.stderr
