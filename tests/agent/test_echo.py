"""What each proxy is told of the others' sessions."""

from __future__ import annotations

import pytest

from rproxy.agent.echo import FORGET_S, SWITCH_MAX, Echo
from rproxy.net.addresses import Address
from rproxy.wire.pdu import COUNT_MAX, UINT32_MAX, ProbeRequest

A: Address = ("10.1.1.10", 5555)
B: Address = ("10.1.1.11", 5555)
C: Address = ("2001:db8::12", 5555)


class Telling:
    """An echo, and the proxies that its agent has now. Each counts its probes from a number of its own."""

    def __init__(self) -> None:
        self.present: list[Address | None] = [A, B, C, None]
        self.now = 1000.0
        self._echo = Echo(lambda: self.present)
        self._next = {A: 0, B: 1_000_000, C: 2_000_000}

    def say(self, source: Address, sessions: int | None, sequence: int | None = None) -> int | None:
        """What the proxy at `source`, which says that, is told."""
        number = self._next[source] if sequence is None else sequence % (UINT32_MAX + 1)
        self._next[source] = number + 1
        self._echo.record(source, ProbeRequest(number, 1, sessions), self.now)
        return self.told(source)

    def told(self, source: Address) -> int | None:
        return self._echo.others(source, self.now)


def test_each_is_told_what_the_others_said_last() -> None:
    telling = Telling()
    assert telling.say(A, 3) is None
    assert telling.say(B, 40) == 3
    assert telling.say(C, 500) == 43
    assert [telling.told(each) for each in (A, B, C)] == [540, 503, 43]
    assert telling.say(A, 0) == 540
    assert [telling.told(each) for each in (B, C)] == [500, 40]


def test_one_that_says_nothing_counts_for_nothing_and_0_is_a_count() -> None:
    telling = Telling()
    assert telling.say(A, None) is None
    assert telling.say(B, 7) is None
    assert telling.told(A) == 7
    assert telling.say(B, 0) is None
    assert telling.told(A) == 0
    telling.say(B, None)
    assert telling.told(A) is None


def test_what_was_said_is_forgotten_12_seconds_later() -> None:
    telling = Telling()
    telling.say(B, 7)
    telling.now += FORGET_S / 2
    telling.say(C, 5)
    telling.now += FORGET_S / 2 - 0.001
    assert telling.told(A) == 12
    telling.now += 0.001
    assert telling.told(A) == 5
    telling.now += FORGET_S / 2
    assert telling.told(A) is None
    telling.say(B, 1)
    assert telling.told(A) == 1


def test_the_sum_is_at_most_what_the_wire_carries() -> None:
    telling = Telling()
    telling.say(B, COUNT_MAX)
    assert telling.told(A) == COUNT_MAX
    telling.say(C, COUNT_MAX)
    assert telling.told(A) == COUNT_MAX


def test_a_proxy_that_has_moved_to_another_address_of_its_name_does_not_count_twice() -> None:
    telling = Telling()
    telling.present = [A, B]
    telling.say(A, 3)
    telling.say(B, 40)
    telling.present = [A, C]
    assert telling.say(C, 41) == 3
    assert telling.told(A) == 41
    assert telling.say(A, 4) == 41


def test_a_restarted_proxy_is_believed_at_once() -> None:
    telling = Telling()
    telling.say(A, 3)
    telling.say(B, 40, 5000)
    assert telling.say(B, 0, 0) == 3
    assert telling.told(A) == 0


@pytest.mark.parametrize("lost", [0, 1, SWITCH_MAX - 1])
@pytest.mark.parametrize("first", [0, 77, UINT32_MAX])
def test_two_addresses_that_are_named_of_one_proxy_are_one(first: int, lost: int) -> None:
    """It numbers its probes in one sequence, and probes from where it was registered with last."""
    telling = Telling()
    number = first
    for turn in range(6):
        source = (A, B)[turn % 2]
        for _ in range(3):
            assert telling.say(source, 10 + turn, number) is None
            number += 1
        telling.now += 1
        number += lost
    telling.say(C, 5)
    assert telling.told(B) == 5
    assert telling.told(C) == 15


def test_two_proxies_whose_numbers_are_the_same_by_chance_are_two() -> None:
    telling = Telling()
    telling.say(A, 3, 100)
    telling.say(B, 40, 101)  # taken for the same until the first of them is heard again
    for number in range(101, 200):
        assert telling.say(A, 3, number) == 40
        assert telling.say(B, 40, number + 1) == 3


def test_a_lost_probe_hides_another_proxy_at_most_until_that_is_heard() -> None:
    telling = Telling()
    telling.say(A, 3, 100)
    telling.say(B, 40, 100)
    telling.say(A, 3, 101)
    assert telling.say(B, 40, 102) is None
    assert telling.say(A, 3, 102) == 40
    assert telling.say(B, 40, 103) == 3


def test_the_table_holds_no_address_that_is_no_proxys_any_longer() -> None:
    telling = Telling()
    telling.present = []
    for number in range(100):
        address = (f"10.2.0.{number}", 5555)
        telling.present = [address]
        telling._echo.record(address, ProbeRequest(number * 1000, 1, 1), telling.now)
    assert telling.told(A) == 1
