"""Third-party policies as installed packages: whatever they do, clients are served and the proxy survives."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from rproxy.net.addresses import written
from rproxy.observe.suspicions import LOOK_EVERY_S
from rproxy.wire.pdu import Register, encode
from tests.integration.conftest import CARRIERS, Starter, carrier_options
from tests.integration.fake_agents import BUSY, IDLE
from tests.integration.http_client import get
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.servers import echo
from tests.integration.sockets import receive
from tests.integration.stopwatch import Stopwatch
from tests.integration.twistd import PROJECT, run_twistd

MODULE: Final = '''
import sys
from rproxy.policies.registry import POLICIES


class Policy:
    """The built-in one but for what a test spoils."""

    def __init__(self, options, rng):
        self.good = POLICIES["round-robin"](options, rng)
        self.count = 0

    def choose(self, eligible, client, exclude, now):
        return self.good.choose(eligible, client, exclude, now)

    def __getattr__(self, name):
        return getattr(self.good, name)


def recurse():
    return recurse()


def choosing(choose):
    class Choosing(Policy):
        pass

    Choosing.choose = lambda self, eligible, client, exclude, now: choose(eligible, exclude)
    return Choosing


def raising(name, error):
    class Raising(Policy):
        pass

    def fail(self, *_):
        raise error

    setattr(Raising, name, fail)
    return Raising


class Remembers(Policy):
    """Chooses the first back-end that it ever saw, whatever has become of it."""

    first = None

    def choose(self, eligible, client, exclude, now):
        self.first = self.first or next(iter(eligible), None)
        return self.first


text = choosing(lambda eligible, exclude: "127.0.0.1:80")
number = choosing(lambda eligible, exclude: 0)
anything = choosing(lambda eligible, exclude: eligible)
recursion = choosing(lambda eligible, exclude: recurse())
exits = raising("choose", SystemExit(1))
interrupts = raising("choose", KeyboardInterrupt())
generator = raising("choose", GeneratorExit())
opened = raising("opened", SystemExit(1))
closed = raising("closed", KeyboardInterrupt())
failed = raising("failed", BaseException("bare"))
reported = raising("reported", SystemExit(1))


def refuses(options, rng):
    raise ValueError("not today")


def leaves(options, rng):
    sys.exit("bye")


def empty(options, rng):
    return object()
'''
GOOD: Final = ("text", "number", "anything", "recursion", "exits", "interrupts", "generator")
TOLD: Final = ("opened", "closed", "failed", "reported")
BAD: Final = {"refuses": "not today", "leaves": "bye", "empty": "has no method choose", "absent": "AttributeError"}


@pytest.fixture
def installed(tmp_path: Path) -> Sequence[str]:
    """A wrapper for a process that has the package."""
    folder = tmp_path / "installed"
    package = folder / "spoilt-1.0.dist-info"
    package.mkdir(parents=True)
    (folder / "spoilt.py").write_text(MODULE)
    (folder / "spoilt_syntax.py").write_text("def (:\n")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: spoilt\nVersion: 1.0\n")
    names = [*GOOD, *TOLD, *BAD, "Remembers"]
    lines = [f"{name} = spoilt:{name}" for name in names]
    lines += ["missing = spoilt_missing:thing", "syntax = spoilt_syntax:thing"]
    (package / "entry_points.txt").write_text("\n".join(["[rproxy.policies]", *lines]) + "\n")
    return ["env", f"PYTHONPATH={folder}:{PROJECT}"]


def served(pool: Pool) -> None:
    client = pool.connect()
    client.sendall(b"hello")
    assert receive(client, 5) == b"hello"
    client.close()


@pytest.mark.parametrize("name", [*GOOD, *TOLD])
def test_clients_are_served_and_the_log_says_it_once(start: Starter, installed: Sequence[str], name: str) -> None:
    carrier = CARRIERS[len(name) % 2]
    pool = Pool(start.proxy(*carrier_options(carrier), "--policy", name, wrapper=installed))
    start.closing(pool.abandon)
    pool.refuse(IDLE)
    pool.serve(echo, BUSY)
    for _ in range(6):
        served(pool)
    assert pool.proxy.log.count("the policy failed") == 1
    assert pool.proxy.log.count("Traceback") == 1
    assert pool.proxy.stop(signal.SIGINT) == -signal.SIGINT, "a Ctrl-C ends it all the same"


@pytest.mark.parametrize("name", ["exits", "recursion", "opened", "reported"])
def test_in_the_shadow_it_harms_nobody(start: Starter, installed: Sequence[str], name: str) -> None:
    pool = Pool(start.proxy("--policy", "round-robin", "--shadow", name, wrapper=installed))
    start.closing(pool.abandon)
    servers = [pool.serve(echo) for _ in range(2)]
    for _ in range(6):
        served(pool)
    rows = pool.proxy.backends()
    assert [rows[server.address]["total"] for server in servers] == [3, 3]
    assert pool.proxy.log.count("the shadow policy failed") == 1
    (compared,) = json.loads(document(pool.proxy, "api/shadow"))["services"]
    assert compared["failures"] >= 2


def test_one_that_herds_clients_is_doubted(start: Starter, installed: Sequence[str]) -> None:
    pool = Pool(start.proxy("--policy", "Remembers", wrapper=installed))
    start.closing(pool.abandon)
    first, *_ = [pool.serve(echo) for _ in range(4)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        register = encode(Register(80, 20_000, 1))
        other.sendto(bytes([register[0] | 0b1000]) + register[1:], pool.proxy.monitor)
    clients = [pool.connect() for _ in range(10)]
    watch = Stopwatch()
    while len(pool.proxy.status()["doubts"]) < 2:
        assert watch.own_s < 5 * LOOK_EVERY_S
        for _ in range(10):
            served(pool)
        time.sleep(0.5)
    doubts = json.loads(document(pool.proxy, "api/doubts"))["doubts"]
    herding, versions = sorted(doubts, key=lambda doubt: str(doubt["kind"]))
    name = written(first.address)
    assert (herding["kind"], herding["service"], herding["backend"]) == ("herding", "default", name)
    assert herding["text"].startswith("takes 100 % of the clients, 4.0 times its share by weight, and has 1")
    assert (versions["kind"], versions["service"], versions["backend"]) == ("old-agent", "", "")
    assert pool.proxy.log.count("this looks wrong: ") == 2
    assert f"this looks wrong: {name}: takes 100 % of the clients" in pool.proxy.log
    events = json.loads(document(pool.proxy, "api/events"))["events"]
    told = {(each["service"], each["backend"]) for each in events if each["kind"] == "doubt"}
    assert told == {("default", name), ("", "")}
    assert len(clients) == 10


def document(proxy: Proxy, path: str) -> bytes:
    host, port = proxy.admin
    return get(f"http://{host}:{port}/{path}")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_one_that_keeps_to_a_back_end_that_has_gone_is_overruled(
    start: Starter, installed: Sequence[str], carrier: str
) -> None:
    pool = Pool(start.proxy(*carrier_options(carrier), "--policy", "Remembers", wrapper=installed))
    start.closing(pool.abandon)
    first = pool.serve(echo)
    served(pool)
    pool.agent_of(first.address).close()
    second = pool.serve(echo)
    for _ in range(3):
        served(pool)
    assert pool.proxy.backends()[second.address]["total"] == 3


@pytest.mark.parametrize(("name", "said"), [*BAD.items(), ("missing", "spoilt_missing"), ("syntax", "SyntaxError")])
def test_a_policy_that_cannot_be_is_one_line(tmp_path: Path, installed: Sequence[str], name: str, said: str) -> None:
    arguments = ["rproxy", "--listen", "127.0.0.1:0", "--monitor", "127.0.0.1:0", "--policy", name]
    ended = run_twistd(tmp_path, *arguments, prefix=installed)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"twistd rproxy: --policy {name}: ")
    assert said in line
    assert "Traceback" not in ended.stdout
