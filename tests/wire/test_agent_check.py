"""HAProxy's words for agent checks: tests/integration/test_agent_checks.py has HAProxy itself read the same lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.agent_check import (
    COUNT_MAX,
    LINE_MAX,
    PERCENT_MAX,
    TEXT_MAX,
    Incomplete,
    Reply,
    Weight,
    line_of,
    read,
)

WORDS = {
    "": Reply(),
    " \t, ,": Reply(),
    "up": Reply("up"),
    "DOWN": Reply("down"),
    "Fail": Reply("fail"),
    "stopped": Reply("stopped"),
    "ready": Reply(administration="ready"),
    "Drain": Reply(administration="drain"),
    "maint": Reply(administration="maint"),
    "75%": Reply(weight=Weight(75, relative=True)),
    "0%": Reply(weight=Weight(0, relative=True)),
    "150%": Reply(weight=Weight(150, relative=True)),
    "99999999999999999999%": Reply(weight=Weight(PERCENT_MAX, relative=True)),
    "weight:50": Reply(weight=Weight(50, relative=False)),
    "WEIGHT:0": Reply(weight=Weight(0, relative=False)),
    "weight:+256": Reply(weight=Weight(256, relative=False)),
    "weight:50%": Reply(weight=Weight(50, relative=True)),
    "maxconn:30": Reply(max_connections=30),
    "MaxConn:0": Reply(max_connections=0),
    f"maxconn:{COUNT_MAX}": Reply(max_connections=COUNT_MAX),
    "ready,up,75%": Reply("up", administration="ready", weight=Weight(75, relative=True)),
    "drain\t25%  maxconn:5, up": Reply(
        "up", administration="drain", weight=Weight(25, relative=True), max_connections=5
    ),
    "up down": Reply("down"),
    "drain ready maint": Reply(administration="maint"),
    "25% weight:9 75%": Reply(weight=Weight(75, relative=True)),
    "down # disk full": Reply("down", "disk full"),
    "down #disk full, really ": Reply("down", "disk full, really"),
    "fail,#\t no route": Reply("fail", "no route"),
    "up # fine": Reply("up", "fine"),
    "# only a description": Reply(),
    "75% # of nothing": Reply(weight=Weight(75, relative=True)),
    "#down": Reply(),
    "down # up 10%": Reply("down", "up 10%"),
}
"""What each line says."""
UNREAD = {
    "down#full": Reply(unread="down#full"),
    "upp": Reply(unread="upp"),
    "%": Reply(unread="%"),
    "-5%": Reply(unread="-5%"),
    "x75%": Reply(unread="x75%"),
    "1.5%": Reply(unread="weight 1.5%"),
    "75%%": Reply(unread="weight 75%%"),
    "75% 5%x": Reply(unread="weight 5%x"),
    "weight:": Reply(unread="weight "),
    "weight:257": Reply(unread="weight 257"),
    "weight:-1": Reply(unread="weight -1"),
    "weight:1:2": Reply(unread="weight 1:2"),
    "weight:٣": Reply(unread="weight ?"),
    "maxconn:": Reply(unread="maxconn:"),
    "maxconn:-1": Reply(unread="maxconn:-1"),
    "maxconn:5x": Reply(unread="maxconn:5x"),
    f"maxconn:{COUNT_MAX + 1}": Reply(unread=f"maxconn:{COUNT_MAX + 1}"),
    "hello world up": Reply("up", unread="hello"),
    "\x1b[31m": Reply(unread="?[31m"),
    "x" * 200: Reply(unread="x" * TEXT_MAX),
}


@pytest.mark.parametrize(("line", "reply"), [*WORDS.items(), *UNREAD.items()])
def test_a_line_says(line: str, reply: Reply) -> None:
    assert read(line) == reply


@pytest.mark.parametrize(
    ("received", "line"),
    [
        (b"up\n", "up"),
        (b"up\r\n", "up"),
        (b"up\r", "up"),
        (b"75%\nup\n", "75%"),
        (b"\n", ""),
        (b"\nup\n", ""),
        (b"up", None),
        (b"", None),
        (b"\xff\n", "ÿ"),
        (b"x" * LINE_MAX + b"\n", "x" * LINE_MAX),
        (b"x" * LINE_MAX, None),
    ],
)
def test_the_first_cr_or_lf_ends_the_line(received: bytes, line: str | None) -> None:
    assert line_of(received, ended=False) == line


@pytest.mark.parametrize(
    ("received", "ended", "reason"),
    [
        (b"up", True, "the line has no end"),
        (b"", True, "the line has no end"),
        (b"x" * (LINE_MAX + 1), False, "longer than"),
        (b"x" * (LINE_MAX + 1) + b"\n", False, "longer than"),
        (b"down\0\n", False, "NUL"),
    ],
)
def test_what_is_no_line_says_nothing(received: bytes, ended: bool, reason: str) -> None:
    with pytest.raises(Incomplete, match=reason):
        line_of(received, ended=ended)


@given(st.binary(max_size=64), st.integers(0, 64))
def test_fragments_are_read_as_the_whole(received: bytes, cut: int) -> None:
    """Once the first part is a line, it is that of the whole."""

    def outcome(part: bytes, *, ended: bool) -> str | None:
        try:
            return line_of(part, ended=ended)
        except Incomplete as error:
            return f"raised: {error}"

    first = outcome(received[:cut], ended=False)
    assert first is None or first == outcome(received, ended=True)


words = st.sampled_from([*WORDS, *UNREAD, "weight:", "maxconn:", "#"]) | st.text(max_size=6)


@given(st.lists(words, max_size=6), st.sampled_from([" ", ",", "\t", ", "]))
def test_whatever_is_said_can_be_logged_and_is_in_range(parts: list[str], separator: str) -> None:
    reply = read(separator.join(parts))
    assert (reply.description + reply.unread).isascii()
    assert (reply.description + reply.unread).isprintable()
    assert reply.weight is None or reply.weight.number in range(PERCENT_MAX + 1)
    assert reply.max_connections is None or reply.max_connections in range(COUNT_MAX + 1)


@given(
    st.lists(st.sampled_from(["up", "down", "drain", "ready", "50%", "maxconn:5"]), unique=True).flatmap(
        lambda kinds: st.permutations(kinds)
    )
)
def test_the_order_of_different_kinds_does_not_matter(parts: list[str]) -> None:
    reply = read(" ".join(parts))
    assert (reply.weight == Weight(50, relative=True)) is ("50%" in parts)
    assert (reply.max_connections == 5) is ("maxconn:5" in parts)
    assert (reply.health is not None) is bool({"up", "down"} & set(parts))
    assert not reply.unread
