"""The states of legs: their texts, the table of the legal ones, and the checker that the other tests run under."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import combinations

import pytest

from rproxy.carriers.splice.leg import Leg
from rproxy.carriers.splice.states import (
    BULK,
    CLIENT,
    CLOSED,
    CONNECTING,
    DEAD,
    EARLY,
    EOF,
    HUNG_UP,
    LISTENING,
    NAGLE,
    NAMES,
    ORPHANED,
    READABLE,
    SHUT,
    SLOW_PATH,
    STALLED,
    UNSPLICEABLE,
    WAITING,
    WATCHED,
    WROTE,
    describe,
)
from rproxy.carriers.splice.transfer import Transfer
from tests.carriers.leg_checker import LEGAL, IllegalState, checked_legs, violation
from tests.carriers.moving import Moving
from tests.carriers.splicing import with_one_server
from tests.fakes import logged


def test_a_state_is_described_by_the_names_of_its_bits() -> None:
    assert describe(0) == "0"
    assert describe(CLIENT) == "CLIENT"
    assert describe(STALLED | EOF | CLIENT) == "CLIENT|EOF|STALLED"
    assert describe(1 << 20 | NAGLE) == "NAGLE|0x100000"


def test_every_bit_has_one_name_and_is_one_bit() -> None:
    assert all(bit & (bit - 1) == 0 for bit in NAMES)
    assert len(set(NAMES.values())) == len(NAMES) == 19
    assert sum(NAMES) == (1 << len(NAMES)) - 1


def test_the_long_lived_states_are_small_integers() -> None:
    """CPython makes no objects for integers up to 256."""
    assert all(bit < 256 for bit in NAMES if not bit & SLOW_PATH)


def test_a_leg_shows_its_state(stack: ExitStack) -> None:
    moving = Moving(stack)
    moving.client_end.send(b"question")
    moving.arrived(moving.client)
    moving.client.state |= STALLED
    assert repr(moving.client) == f"<ClientLeg {moving.client.sock.fileno()} CLIENT|STALLED, 8 bytes read>"


@pytest.mark.parametrize(
    "state",
    [
        CLIENT,
        CLIENT | WAITING | READABLE,
        CONNECTING | NAGLE,
        CONNECTING | NAGLE | STALLED,
        NAGLE | EARLY,
        NAGLE | EARLY | WROTE | SHUT,
        EOF | HUNG_UP | SHUT | STALLED,
        CLIENT | EOF | DEAD | READABLE,
        CLIENT | STALLED | ORPHANED,
        BULK | UNSPLICEABLE,
        0,
        CLOSED,
        LISTENING,
        WATCHED,
    ],
    ids=describe,
)
def test_a_state_that_a_leg_can_be_in_is_legal(state: int) -> None:
    assert violation(None, state) is None


@pytest.mark.parametrize(
    "state",
    [
        CLIENT | CONNECTING,
        CLIENT | NAGLE,
        CLIENT | WROTE,
        CLIENT | EARLY,
        CONNECTING,
        CONNECTING | NAGLE | READABLE,
        CONNECTING | NAGLE | EARLY,
        CONNECTING | NAGLE | DEAD,
        WAITING,
        CLIENT | WAITING | STALLED,
        CLIENT | WAITING | DEAD,
        CLOSED | CLIENT,
        CLOSED | ORPHANED,
        LISTENING | READABLE,
        WATCHED | CLOSED,
        1 << 20,
    ],
    ids=describe,
)
def test_a_state_that_no_leg_can_be_in_is_illegal(state: int) -> None:
    assert violation(None, state) == f"{describe(state)} is no legal state"


def test_no_state_is_of_two_kinds() -> None:
    for one, other in combinations(LEGAL, 2):
        assert not (one.includes(other.required) and other.includes(one.required))


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        (CONNECTING | NAGLE, NAGLE | EARLY, None),
        (CONNECTING | NAGLE | STALLED, NAGLE | EARLY, None),
        (CLIENT | READABLE | BULK, CLIENT, None),
        (CLIENT | EOF | SHUT, CLOSED, None),
        (CLOSED, CLOSED, None),
        (CLOSED, CLIENT, "a closed leg becomes CLIENT"),
        (CLIENT | EOF | SHUT, CLIENT | SHUT, "CLIENT|EOF|SHUT loses EOF"),
        (CLIENT, 0, "CLIENT loses CLIENT"),
        (DEAD | READABLE, READABLE, "READABLE|DEAD loses DEAD"),
        (ORPHANED, 0, "ORPHANED loses ORPHANED"),
        (NAGLE, NAGLE | CONNECTING, "NAGLE becomes CONNECTING"),
        (0, CLIENT, "0 becomes CLIENT"),
    ],
)
def test_some_changes_of_legal_states_are_illegal(before: int, after: int, wrong: str | None) -> None:
    assert violation(before, after) == wrong


def test_the_checker_catches_an_illegal_state(stack: ExitStack) -> None:
    moving = Moving(stack)
    with checked_legs() as found:
        with pytest.raises(IllegalState, match=r"CLIENT\|NAGLE is no legal state"):
            moving.client.state |= NAGLE
        with pytest.raises(IllegalState, match="STALLED without anything to be written"):
            moving.backend.state |= STALLED
        with pytest.raises(IllegalState, match=r"CLIENT\|ORPHANED with a peer"):
            moving.client.state |= ORPHANED
        with pytest.raises(IllegalState, match="CONNECTING is no legal state"):
            Leg(moving.backend.sock, moving.session, CONNECTING, None)
    assert (len(found), moving.client.state, moving.backend.state) == (4, CLIENT, 0)


def test_the_checker_catches_it_where_the_carrier_logs_the_exception(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the code: data for a back-end that has just connected gives its client one of its bits."""

    def wrong(_: Transfer, leg: Leg, __: int) -> None:
        assert leg.peer is not None
        leg.peer.state |= EARLY

    monkeypatch.setattr(Transfer, "before_write", wrong)
    with checked_legs() as found:
        bench = with_one_server(stack)
        client, _ = bench.joined()
        with logged() as events:
            client.send(b"question")
            bench.until(lambda: not bench.capacity.sessions)
    assert found == ["CLIENT|EARLY is no legal state"]
    assert [event["log_format"] for event in events][:1] == ["an event's session failed"]


def test_without_the_checker_states_are_plain_attributes() -> None:
    before = Leg.__dict__["state"]
    with checked_legs():
        assert isinstance(Leg.__dict__["state"], property)
    assert Leg.__dict__["state"] is before
    assert type(before).__name__ == "member_descriptor"
