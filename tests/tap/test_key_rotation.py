"""Keys are read again while the commands run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel

from rproxy.config.keyfile import Keyring, envelope
from rproxy.tap import agent, proxy
from rproxy.tap.key_rotation import at_signal, rotate
from rproxy.wire.seal import Envelope, Unsealed
from tests.config.keyfiles import BROKEN, FIRST, OWN, SECOND, Damage, key_file, opens, seals_with, shows_a_key
from tests.fakes import Reactor, logged, run, texts
from tests.tap.services import AgentBench, ProxyBench


@attrs.define
class Owner:
    """Who has an envelope."""

    envelope: Envelope = attrs.Factory(Unsealed)


def lines(events: EventLoggingObserver, level: object) -> list[str]:
    """What was logged, all of it at that level; none of it shows a key."""
    assert {event["log_level"] for event in events} == {level}
    assert not shows_a_key(repr(list(events)))
    return texts(events)


def test_a_rotation_takes_the_keys_that_the_file_holds_now(tmp_path: Path) -> None:
    keyring = Keyring.read(str(key_file(tmp_path, FIRST)), derived=False)
    owner = Owner(envelope(keyring))
    for keys in [(FIRST, SECOND), (SECOND, FIRST), (SECOND,)]:
        key_file(tmp_path, *keys)
        with logged() as events:
            rotate(keyring, owner)
        assert seals_with(owner.envelope) == keys[0].id
        assert [opens(owner.envelope, key) for key in (FIRST, SECOND)] == [key in keys for key in (FIRST, SECOND)]
        (message,) = lines(events, LogLevel.info)
        assert message == f"keys read again: {', '.join(str(key.id) for key in keys)}; the first one seals"


@BROKEN
def test_a_broken_file_keeps_the_keys_and_logs_one_error(tmp_path: Path, damage: Damage, reason: str) -> None:
    path = key_file(tmp_path, FIRST)
    keyring = Keyring.read(str(path), derived=False)
    before = envelope(keyring)
    owner = Owner(before)
    damage(path)
    with logged() as events:
        rotate(keyring, owner)
    assert owner.envelope is before
    (line,) = lines(events, LogLevel.error)
    assert line.startswith(f"--keyring {path}: {reason}")
    assert line.endswith("; the keys stay as they were")


def test_after_a_broken_file_a_good_one_is_taken(tmp_path: Path) -> None:
    path = key_file(tmp_path, FIRST)
    keyring = Keyring.read(str(path), derived=False)
    owner = Owner(envelope(keyring))
    with logged():
        path.write_text("7 0123")
        rotate(keyring, owner)
        key_file(tmp_path, SECOND)
        rotate(keyring, owner)
    assert seals_with(owner.envelope) == SECOND.id


@pytest.mark.parametrize("derived", [False, True])
def test_a_rotation_is_as_strict_about_agents_keys_as_the_start_was(tmp_path: Path, derived: bool) -> None:
    keyring = Keyring.read(str(key_file(tmp_path, FIRST)), derived=derived)
    owner = Owner(envelope(keyring))
    key_file(tmp_path, OWN)
    with logged():
        rotate(keyring, owner)
    assert seals_with(owner.envelope) == (OWN if derived else FIRST).id


def test_without_a_keyring_a_rotation_changes_nothing_and_says_so() -> None:
    owner = Owner()
    before = owner.envelope
    with logged() as events:
        rotate(None, owner)
    assert owner.envelope is before
    assert lines(events, LogLevel.warn) == ["told to read the keys again, but there is no --keyring"]


SIGNALS = [signal.SIGUSR2, signal.SIGHUP]


@pytest.fixture
def _signals() -> Iterator[None]:
    before = [signal.getsignal(each) for each in SIGNALS]
    yield
    for each, handler in zip(SIGNALS, before, strict=True):
        signal.signal(each, handler)


class ReactorTurns(Clock):
    """A reactor's queue of calls from elsewhere, and its time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Callable[[], None]] = []

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.asked.append(call)

    def turn(self) -> None:
        asked, self.asked = self.asked, []
        for call in asked:
            call()


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("signum", SIGNALS)
def test_at_a_signal_the_call_comes_in_the_reactors_own_time(signum: signal.Signals) -> None:
    turns, called = ReactorTurns(), []
    at_signal(turns, lambda: called.append(1))
    signal.raise_signal(signum)
    assert called == []
    turns.turn()
    assert called == [1]


@pytest.mark.usefixtures("_signals")
def test_many_signals_are_one_call_at_once_and_one_after_the_last() -> None:
    turns = ReactorTurns()
    called: list[float] = []
    at_signal(turns, lambda: called.append(turns.seconds()))
    for _ in range(25):
        for signum in SIGNALS:
            signal.raise_signal(signum)
        turns.turn()
        turns.advance(0.1)
    last = turns.seconds() - 0.1
    turns.advance(1)
    assert called[0] == 0.0
    assert called[-1] > last
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(called))
    assert len(called) == 4
    assert turns.getDelayedCalls() == []


def made_proxy(path: Path) -> Owner:
    options = proxy.Options()
    options.parseOptions(["--keyring", str(path)])
    monitor: Any = proxy.makeService(options).monitor
    return cast(Owner, monitor)


def made_agent(path: Path) -> Owner:
    options = agent.Options()
    options.parseOptions(["--keyring", str(path), "--proxy", "10.1.1.10"])
    made: Any = agent.makeService(options).agent
    return cast(Owner, made)


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("make", [made_proxy, made_agent])
def test_both_commands_read_their_keys_again_at_the_signal(
    tmp_path: Path, reactor: Reactor, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Owner]
) -> None:
    turns = ReactorTurns()
    monkeypatch.setattr(reactor, "callFromThread", turns.callFromThread, raising=False)
    owner = make(key_file(tmp_path, FIRST))
    assert seals_with(owner.envelope) == FIRST.id
    key_file(tmp_path, SECOND)
    signal.raise_signal(signal.SIGUSR2)
    assert seals_with(owner.envelope) == FIRST.id
    (call,) = turns.asked
    call()
    assert seals_with(owner.envelope) == SECOND.id


def test_both_services_go_on_with_the_keys_they_had_where_the_file_is_broken(tmp_path: Path) -> None:
    path = key_file(tmp_path, FIRST)
    monitored = ProxyBench(keyring=Keyring.read(str(path), derived=False)).service
    registered = AgentBench(keyring=Keyring.read(str(path), derived=True), start=False).service
    path.unlink()
    with logged() as events:
        monitored.rotate_keys()
        registered.rotate_keys()
    assert seals_with(monitored.monitor.envelope) == seals_with(registered.agent.envelope) == FIRST.id
    assert len(lines(events, LogLevel.error)) == 2


def test_the_demos_agents_follow_a_rotation(tmp_path: Path) -> None:
    """Otherwise they would be unknown as soon as their key is removed from the file."""
    keyring = Keyring.read(str(key_file(tmp_path, FIRST)), derived=False)
    bench = ProxyBench(listen=("8080",), monitors=(("127.0.0.1", 5555),), demo=1, keyring=keyring)
    bench.start()
    bench.reactor.run()
    sent = bench.reactor.datagrams[1].written
    assert {datagram[24] for datagram, _ in sent} == {FIRST.id}
    key_file(tmp_path, SECOND)
    bench.service.rotate_keys()
    sent.clear()
    run(bench.reactor, 30.0)
    assert {datagram[24] for datagram, _ in sent} == {SECOND.id}
