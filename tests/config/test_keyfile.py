"""Key files, as they are read at the start."""

from __future__ import annotations

import os
import socket
import traceback
from pathlib import Path

import pytest

from rproxy.config.keyfile import Keyring, envelope, read_keys
from rproxy.config.secret_file import BYTES_MAX
from rproxy.wire.keyfile import KeyringError
from rproxy.wire.pdu import Flaw, MalformedPdu
from tests.config.keyfiles import (
    AGENT,
    BROKEN,
    FIRST,
    OWN,
    PDU,
    SECOND,
    Damage,
    key_file,
    opens,
    seals_with,
    shows_a_key,
    text_file,
)
from tests.conftest import need


def message_of(path: Path, *, derived: bool = False) -> str:
    with pytest.raises(KeyringError) as caught:
        read_keys(str(path), derived=derived)
    assert not shows_a_key("".join(traceback.format_exception(caught.value)))
    return str(caught.value)


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
    message = message_of(key_file(tmp_path, FIRST, mode=mode))
    assert message == "others than its owner may use it (chmod 600 mends that)"


@pytest.mark.parametrize(("mode", "refused"), [(0o600, False), (0o644, True)])
def test_a_link_is_as_good_as_the_file_that_it_leads_to(tmp_path: Path, mode: int, refused: bool) -> None:
    link = tmp_path / "link"
    link.symlink_to(key_file(tmp_path, FIRST, mode=mode))
    if refused:
        message_of(link)
    else:
        assert len(read_keys(str(link), derived=False)) == 1


@pytest.mark.parametrize("derived", [False, True])
@BROKEN
def test_a_broken_file_is_refused_and_says_why(tmp_path: Path, damage: Damage, reason: str, derived: bool) -> None:
    path = key_file(tmp_path, FIRST)
    damage(path)
    assert message_of(path, derived=derived).startswith(reason)


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
    assert message_of(path) == "it is no regular file"


def test_what_becomes_a_fifo_before_it_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = tmp_path / "fifo", key_file(tmp_path, FIRST)
    os.mkfifo(path, 0o600)
    as_it_was = os.stat(file)
    monkeypatch.setattr(os, "stat", lambda _: as_it_was)
    assert message_of(path) == "it is no regular file"


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
        assert len(Keyring.read(str(path), derived=False, owner=4321).reread().keys) == 1


def test_ones_own_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(root=True)
    path = key_file(tmp_path, FIRST)
    os.chown(path, 1000, 0)
    message_of(path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert len(read_keys(str(path), derived=False)) == 1


@pytest.mark.parametrize("data", [b"\xff\xfe7\x00", b"\x807 ", "\ufeff7 ".encode(), b"7 \xc3"])
def test_a_file_of_other_than_ascii_is_refused(tmp_path: Path, data: bytes) -> None:
    path = text_file(tmp_path, "")
    path.write_bytes(data + FIRST.secret.hex().encode())
    assert message_of(path) == "it is not a text of ASCII characters"


@pytest.mark.parametrize("keys", [(OWN,), (OWN, FIRST), (FIRST, OWN)])
def test_an_agents_key_is_refused_where_a_master_is_needed_and_read_where_it_is_not(
    tmp_path: Path, keys: tuple[object, ...]
) -> None:
    path = key_file(tmp_path, *keys)  # type: ignore[arg-type]
    assert message_of(path) == "it has an agent's key: a proxy needs the master key that it was derived from"
    assert [key.is_derived for key in read_keys(str(path), derived=True)] == [key is OWN for key in keys]


def test_a_keyring_is_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    key_file(tmp_path, FIRST)
    keyring = Keyring.read("keys", derived=False)
    monkeypatch.chdir("/")
    key_file(tmp_path, SECOND)
    assert [key.id for key in keyring.keys] == [FIRST.id]
    assert [key.id for key in keyring.reread().keys] == [SECOND.id]


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


def test_a_file_that_is_too_long_is_refused_and_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_text("#" * (BYTES_MAX - 67) + "\n7 " + "ab" * 40)
    with pytest.raises(KeyringError, match="longer than any key file"):
        read_keys(str(path), derived=False)
