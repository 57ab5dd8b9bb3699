"""Agents that resolve their proxy's name, lose it, or receive forged signs of its life."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Final

import pytest

from rproxy.wire.pdu import PduType
from tests.conftest import need
from tests.hosts.datagrams import Forger, Letter, Tap, within
from tests.hosts.net import Host
from tests.hosts.system import POLL_S, System, kill
from tests.integration.keys import Keys
from tests.integration.logs import failures
from tests.integration.polling import READY_S, in_background, poll
from tests.integration.stopwatch import Stopwatch
from tests.integration.twistd import Twistd

pytestmark = pytest.mark.hosts

NAME: Final = "proxy.test"
ANYBODY: Final = ("--allow", "0.0.0.0/0", "--allow", "::/0")
DEAD: Final = "10.1.1.99"
DEAD6: Final = "fd00:10:1:1::99"
FASTER: Final = 10
"""How fast time passes for agents that must wait long for what is tested."""
FEW: Final = 10
REPEAT_S: Final = 0.1
STOPPED_S: Final = 1.5

Files = Callable[[Host, str, str], None]


@pytest.fixture
def etc() -> Iterator[Files]:
    """Gives a host a file of its own in /etc, for what is started there later."""
    folders: list[Path] = []

    def write(host: Host, name: str, text: str) -> None:
        folder = Path("/etc/netns", host.namespace)
        folder.mkdir(parents=True, exist_ok=True)
        folders.append(folder)
        folder.joinpath(name).write_text(text)

    yield write
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def hosts(*addresses: str) -> str:
    return "".join(f"{address} {NAME}\n" for address in addresses)


def start_agent(system: System, folder: Path, host: Host, *options: str, faster: int = 1, proxy: str = NAME) -> Twistd:
    """With an interval that says nothing before a test is over."""
    wrapper = []
    if faster > 1:
        (library,) = need("libfaketime.so.1")
        wrapper = ["env", f"LD_PRELOAD={library}", f"FAKETIME=+0 x{faster}"]
    home = folder / f"agent-{host.name}"
    home.mkdir()
    told = ["rproxy-agent", "--proxy", proxy, "--interval", "1000", *options]
    return system.adopt(host, Twistd(home, *told, prefix=host.prefix, wrapper=wrapper))


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "keyed"])
@pytest.mark.parametrize(
    "addresses", [("{six}",), (DEAD, "{six}"), (DEAD6, "{four}")], ids=["AAAA alone", "IPv4 is dead", "IPv6 is dead"]
)
def test_the_address_of_a_name_that_answers_is_found(
    system: System, etc: Files, tmp_path: Path, addresses: tuple[str, ...], keyed: bool
) -> None:
    """With a key that holds for the agent's address of that family alone."""
    server, _ = system.network.servers
    proxy = system.network.proxy
    chosen = server.address6 if "{six}" in addresses else server.address
    etc(server, "hosts", hosts(*(each.format(four=proxy.address, six=proxy.address6) for each in addresses)))
    system.start_httpd(server, chosen)
    told: list[str] = []
    if keyed:
        keys = Keys(tmp_path)
        master = keys.master("master")
        system.start_proxy("--monitor", "[::]:5555", "--keyring", str(master), allow="")
        told = ["--keyring", str(keys.derived("own", master, chosen))]
    else:
        system.start_proxy("--monitor", "[::]:5555", *ANYBODY, allow="")
    agent = start_agent(system, tmp_path, server, *told)
    system.wait_until_up(server)
    assert [row["address"] for row in system.status()["backends"]] == [chosen]
    agent.logged(rf"({NAME}:5555 \(.*\) probes this agent)")
    assert failures(agent.log) == []


def test_an_old_probe_sent_again_and_again_does_not_keep_an_agent_from_a_restarted_proxy(
    system: System, tmp_path: Path
) -> None:
    """Nor do all that it has had, in their order."""
    server, _ = system.network.servers
    master = str(Keys(tmp_path).master("master"))
    options = ["--keyring", master, "--probe-interval", "0.1", "--probe-timeout", "0.1", "--liveness", "1"]
    system.start_httpd(server)
    with closing(Tap(server)) as tap, closing(Forger(system.network.router)) as forger:
        system.start_proxy(*options, allow="")
        agent = start_agent(
            system, tmp_path, server, "--keyring", master, faster=FASTER, proxy=system.network.proxy.address
        )
        system.wait_until_up(server)
        probes = overheard(tap, PduType.PROBE_REQUEST, FEW)
        with again_and_again(forger, probes):
            kill(system.proxy)
            time.sleep(12 / FASTER)
            system.start_proxy(*options, allow="")
            system.wait_until_up(server)
        agent.logged("(has stopped probing; registering again)")


def overheard(tap: Tap, kind: PduType, number: int) -> list[Letter]:
    heard: list[Letter] = []

    def are_enough() -> bool:
        heard.extend(letter for letter in tap.take() if letter.kind == kind)
        return len(heard) >= number

    poll(are_enough, READY_S, f"{number} of {kind.name}")
    return heard


@contextmanager
def again_and_again(forger: Forger, letters: list[Letter]) -> Iterator[None]:
    """Send the first, and all in their order, until the end."""
    over = threading.Event()

    def repeat() -> None:
        for letter in cycle(letters):
            if over.wait(REPEAT_S):
                return
            forger.send(letters[0])
            forger.send(letter)

    repeating = in_background(repeat)
    try:
        yield
    finally:
        over.set()
        repeating.result()


def test_an_agent_says_where_the_probes_come_from_that_it_does_not_answer(system: System, tmp_path: Path) -> None:
    """Its proxy's, behind a router that shows another address of it."""
    server, _ = system.network.servers
    elsewhere = within(system.network.router, lambda: bound("10.1.1.254"))
    probing = within(system.network.proxy, lambda: bound(system.network.proxy.address))
    with closing(elsewhere), closing(probing):
        agent = start_agent(system, tmp_path, server, faster=FASTER, proxy=system.network.router.address)
        _, source = elsewhere.recvfrom(64)
        probing.sendto(bytes.fromhex("4000000000000000deadbeefcafef00d0000000000000000"), source)
        stranger = agent.logged(
            r"10\.1\.1\.254:5555 does not probe this agent: .*; probes come from (.*), which no --proxy"
        )
        assert stranger == "10.1.1.10:5555"
        assert agent.log.count("does not probe") == 1


def bound(host: str) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind((host, 5555))
    sock.settimeout(READY_S)
    return sock


def catches(pid: int, signum: signal.Signals) -> bool:
    """Whether a process has a handler for it: Twisted's reactors have one for SIGTERM as soon as they run."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(r"SigCgt:\s*(\w+)", status)
    return bool(int(mask, 16) >> signum - 1 & 1)


@pytest.mark.parametrize("reactor", ["epoll", "asyncio"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_stops_at_once_while_its_name_server_is_silent(
    system: System, etc: Files, tmp_path: Path, signum: signal.Signals, reactor: str
) -> None:
    server, _ = system.network.servers
    proxy = system.network.proxy
    etc(server, "resolv.conf", f"nameserver {proxy.address}\n")
    silent = within(proxy, lambda: socket.socket(type=socket.SOCK_DGRAM))
    with closing(silent):
        silent.bind((proxy.address, 53))
        silent.settimeout(READY_S)
        told = ["rproxy-agent", "--proxy", NAME]
        agent = system.adopt(server, Twistd(tmp_path, *told, reactor=reactor, prefix=server.prefix))
        assert silent.recv(512)
        poll(lambda: catches(agent.pid, signal.SIGTERM), READY_S, "its reactor runs")
        watch = Stopwatch()
        agent.stop(signum)
        assert watch.own_s < STOPPED_S
        assert failures(agent.log) == []
        assert agent.errors == ""


TRANSLATED: Final = """
table ip service {{
}}
delete table ip service
table ip service {{
    chain prerouting {{
        type nat hook prerouting priority dstnat
        ip daddr 10.2.2.254 udp dport 5555 dnat to {proxy}
    }}
}}
"""


def test_an_agent_that_nobody_probes_for_a_minute_leaves_the_port_that_nat_has_tied_to_what_is_gone(
    system: System, tmp_path: Path
) -> None:
    """The router's address for the proxy leads to another host first; its kernel does not forget that in use."""
    need("nft", root=True)
    gone, _ = system.network.servers
    router, client = system.network.router, system.network.client
    router.filter(TRANSLATED.format(proxy=gone.address))
    system.start_proxy("--allow", "10.2.2.0/24")
    agent = start_agent(system, tmp_path, client, faster=FASTER, proxy="10.2.2.254")
    agent.logged("(does not probe this agent)")
    router.filter(TRANSLATED.format(proxy=system.network.proxy.address))
    poll(lambda: system.backend(client).get("state") == "up", READY_S, "it is up", every_s=POLL_S)
    agent.logged(r"(nobody has probed this agent for 60 s: trying another UDP port, and 5555 again, in turn)")
    assert agent.log.count("nobody has probed") == 1
    assert system.proxy.logged(r"registered -> up \(answered a probe; agent 10\.2\.2\.1:(\d+)\)") != "5555"
    assert [row["port"] for row in system.status()["backends"]] == [80]
    assert failures(agent.log) == []
