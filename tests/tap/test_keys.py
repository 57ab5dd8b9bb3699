"""Key files: read at the start, and again while the commands run."""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel

from rproxy.tap import agent, proxy
from rproxy.tap.keys import BYTES_MAX, Keyring, at_signal, envelope, read_keys, rotate
from rproxy.wire.keyfile import KeyringError
from rproxy.wire.pdu import Flaw, MalformedPdu
from rproxy.wire.seal import Envelope, Unsealed
from tests.conftest import need
from tests.fakes import Reactor, logged, run, texts
from tests.tap.keyfiles import (
    AGENT,
    BROKEN,
    FIRST,
    OWN,
    PDU,
    SECOND,
    key_file,
    opens,
    seals_with,
    shows_a_key,
    text_file,
)
from tests.tap.services import AgentBench, ProxyBench

Damage = Callable[[Path], None]


@attrs.define
class Owner:
    """Who has an envelope."""

    envelope: Envelope = attrs.Factory(Unsealed)


def complaint(path: Path, *, derived: bool = False) -> str:
    with pytest.raises(KeyringError) as caught:
        read_keys(str(path), derived=derived)
    assert not shows_a_key("".join(traceback.format_exception(caught.value)))
    return str(caught.value)


def lines(events: EventLoggingObserver, level: object) -> list[str]:
    """What was logged, all of it at that level; none of it shows a key."""
    assert {event["log_level"] for event in events} == {level}
    assert not shows_a_key(repr(list(events)))
    return texts(events)


@pytest.mark.parametrize("derived", [False, True])
def test_the_keys_of_a_file_come_in_its_order(tmp_path: Path, derived: bool) -> None:
    keys = read_keys(str(key_file(tmp_path, SECOND, FIRST)), derived=derived)
    assert [(key.id, key.secret) for key in keys] == [(each.id, each.secret) for each in (SECOND, FIRST)]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o500])
def test_a_file_for_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    (key,) = read_keys(str(key_file(tmp_path, FIRST, mode=mode)), derived=False)
    assert key.secret == FIRST.secret


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o660, 0o666, 0o777, 0o004])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    told = complaint(key_file(tmp_path, FIRST, mode=mode))
    assert told == "others than its owner may use it (chmod 600 mends that)"


@pytest.mark.parametrize(("mode", "refused"), [(0o600, False), (0o644, True)])
def test_a_link_is_as_good_as_the_file_that_it_leads_to(tmp_path: Path, mode: int, refused: bool) -> None:
    link = tmp_path / "link"
    link.symlink_to(key_file(tmp_path, FIRST, mode=mode))
    if refused:
        complaint(link)
    else:
        assert len(read_keys(str(link), derived=False)) == 1


@pytest.mark.parametrize("derived", [False, True])
@BROKEN
def test_a_broken_file_is_refused_and_why_is_told(tmp_path: Path, damage: Damage, told: str, derived: bool) -> None:
    path = key_file(tmp_path, FIRST)
    damage(path)
    assert complaint(path, derived=derived).startswith(told)


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    assert complaint(path) == "it is no regular file"


def test_what_becomes_a_fifo_before_it_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = tmp_path / "fifo", key_file(tmp_path, FIRST)
    os.mkfifo(path, 0o600)
    as_it_was = os.stat(file)
    monkeypatch.setattr(os, "stat", lambda _: as_it_was)
    assert complaint(path) == "it is no regular file"


@pytest.mark.parametrize(("owner", "refused"), [(0, False), (1234, True), (4321, False)])
@pytest.mark.parametrize("user", [0, 1000])
def test_the_file_belongs_to_root_or_to_whom_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, user: int, refused: bool
) -> None:
    need(root=True)
    path = key_file(tmp_path, FIRST)
    os.chown(path, owner, 0)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if refused:
        with pytest.raises(KeyringError) as caught:
            read_keys(str(path), derived=False, owner=4321)
        assert str(caught.value) == "it belongs to user 1234, who is neither root nor the one that uses it"
    else:
        assert len(read_keys(str(path), derived=False, owner=4321)) == 1
        assert len(Keyring.read(str(path), derived=False, owner=4321).again().keys) == 1


def test_ones_own_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(root=True)
    path = key_file(tmp_path, FIRST)
    os.chown(path, 1000, 0)
    complaint(path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert len(read_keys(str(path), derived=False)) == 1


@pytest.mark.parametrize("data", [b"\xff\xfe7\x00", b"\x807 ", "\ufeff7 ".encode(), b"7 \xc3"])
def test_a_file_of_other_than_ascii_is_refused(tmp_path: Path, data: bytes) -> None:
    path = text_file(tmp_path, "")
    path.write_bytes(data + FIRST.secret.hex().encode())
    assert complaint(path) == "it is not a text of ASCII characters"


@pytest.mark.parametrize("keys", [(OWN,), (OWN, FIRST), (FIRST, OWN)])
def test_an_agents_key_is_refused_where_a_master_is_needed_and_read_where_it_is_not(
    tmp_path: Path, keys: tuple[object, ...]
) -> None:
    path = key_file(tmp_path, *keys)  # type: ignore[arg-type]
    assert complaint(path) == "it has an agent's key: a proxy needs the master key that it was derived from"
    assert [key.is_derived for key in read_keys(str(path), derived=True)] == [key is OWN for key in keys]


def test_a_keyring_is_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key_file(tmp_path, FIRST)
    keyring = Keyring.read("keys", derived=False)
    monkeypatch.chdir("/")
    key_file(tmp_path, SECOND)
    assert [key.id for key in keyring.keys] == [FIRST.id]
    assert [key.id for key in keyring.again().keys] == [SECOND.id]


def test_a_keyring_shows_no_key(tmp_path: Path) -> None:
    keyring = Keyring.read(str(key_file(tmp_path, FIRST, SECOND)), derived=False)
    assert not shows_a_key(f"{keyring!r} {keyring}")


def test_without_a_keyring_pdus_are_plain() -> None:
    assert envelope(None).seal(PDU, AGENT) == PDU


def test_with_a_keyring_the_first_key_seals_and_all_open(tmp_path: Path) -> None:
    sealed = envelope(Keyring.read(str(key_file(tmp_path, SECOND, FIRST)), derived=False))
    assert seals_with(sealed) == SECOND.id
    assert opens(sealed, FIRST)
    assert opens(sealed, SECOND)
    with pytest.raises(MalformedPdu) as caught:
        sealed.open(PDU, AGENT)
    assert caught.value.flaw is Flaw.UNSEALED


def test_a_rotation_takes_the_keys_that_the_file_holds_now(tmp_path: Path) -> None:
    keyring = Keyring.read(str(key_file(tmp_path, FIRST)), derived=False)
    owner = Owner(envelope(keyring))
    for keys in [(FIRST, SECOND), (SECOND, FIRST), (SECOND,)]:
        key_file(tmp_path, *keys)
        with logged() as events:
            rotate(keyring, owner)
        assert seals_with(owner.envelope) == keys[0].id
        assert [opens(owner.envelope, key) for key in (FIRST, SECOND)] == [key in keys for key in (FIRST, SECOND)]
        (told,) = lines(events, LogLevel.info)
        assert told == f"keys read again: {', '.join(str(key.id) for key in keys)}; the first one seals"


@BROKEN
def test_a_broken_file_keeps_the_keys_and_logs_one_error(tmp_path: Path, damage: Damage, told: str) -> None:
    path = key_file(tmp_path, FIRST)
    keyring = Keyring.read(str(path), derived=False)
    before = envelope(keyring)
    owner = Owner(before)
    damage(path)
    with logged() as events:
        rotate(keyring, owner)
    assert owner.envelope is before
    (line,) = lines(events, LogLevel.error)
    assert line.startswith(f"--keyring {path}: {told}")
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


class WorkQueue(Clock):
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
    turns, called = WorkQueue(), []
    at_signal(turns, lambda: called.append(1))
    signal.raise_signal(signum)
    assert called == []
    turns.turn()
    assert called == [1]


@pytest.mark.usefixtures("_signals")
def test_many_signals_are_one_call_at_once_and_one_after_the_last() -> None:
    turns = WorkQueue()
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
    turns = WorkQueue()
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
    """Else they would be strangers as soon as their key is taken out of the file."""
    keyring = Keyring.read(str(key_file(tmp_path, FIRST)), derived=False)
    bench = ProxyBench(listen=("8080",), monitor=("127.0.0.1", 5555), demo=1, keyring=keyring)
    bench.start()
    bench.reactor.run()
    sent = bench.reactor.datagrams[1].written
    assert {datagram[24] for datagram, _ in sent} == {FIRST.id}
    key_file(tmp_path, SECOND)
    bench.service.rotate_keys()
    sent.clear()
    run(bench.reactor, 30.0)
    assert {datagram[24] for datagram, _ in sent} == {SECOND.id}


def test_a_file_that_is_too_long_is_refused_and_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_text("#" * (BYTES_MAX - 67) + "\n7 " + "ab" * 40)
    with pytest.raises(KeyringError, match="longer than any key file"):
        read_keys(str(path), derived=False)
