"""Key files: what is read from them, and what is said of those that cannot be used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.wire.keyfile import KeyringError, format_key, parse_keys
from rproxy.wire.seal import KEY_BYTES_MIN, Key
from tests.wire.keys import DIGITS, SECRET, keyrings, keys

lines = st.tuples(keys.map(format_key), st.sampled_from(["", " #", " 1", "0", "g"])).map("".join)


def line(number: int, length: int = KEY_BYTES_MIN) -> str:
    return f"{number} {bytes([number]).hex() * length}"


def known(text: str) -> list[tuple[int, bytes, bool]]:
    return [(key.id, key.secret, key.is_derived) for key in parse_keys(text)]


def complaint(text: str) -> str:
    """The one line that says what is wrong with a key file; the digits of its keys are in none."""
    with pytest.raises(KeyringError) as caught:
        parse_keys(text)
    told = str(caught.value)
    assert "\n" not in told
    words = (word.removeprefix("agent:") for word in text.split())
    assert [word for word in words if len(word) >= 8 and word[:8] in repr(caught.value)] == []
    return told


@given(keyrings)
def test_keys_survive_writing_and_reading(ring: tuple[Key, ...]) -> None:
    text = "\n".join(format_key(key) for key in ring)
    assert known(text) == [(key.id, key.secret, key.is_derived) for key in ring]


@given(st.lists(lines | st.text(max_size=20), max_size=5))
def test_any_text_is_a_key_file_or_a_complaint_in_one_line(several: list[str]) -> None:
    text = "\n".join(several)
    try:
        ring = parse_keys(text)
    except KeyringError:
        complaint(text)
        return
    assert known("\n".join(format_key(key) for key in ring)) == known(text)


def test_a_key_file_has_a_key_a_line_in_their_order() -> None:
    assert known(f"7 {DIGITS}\n3 {DIGITS[::-1]}\n255 {DIGITS}\n0 {DIGITS}\n") == [
        (7, SECRET, False),
        (3, bytes.fromhex(DIGITS[::-1]), False),
        (255, SECRET, False),
        (0, SECRET, False),
    ]


@pytest.mark.parametrize(
    "text",
    [
        f"7 {DIGITS}",
        f"7 {DIGITS}\n",
        f"7 {DIGITS}\r\n",
        f"# of the office\n7 {DIGITS}\n",
        f"\n\n   \n\t\n7 {DIGITS}\n\n",
        f"7 {DIGITS} # until June\n",
        f"7 {DIGITS}# until June\n",
        f"7 {DIGITS}\n# 7 {DIGITS}\n  #7 {DIGITS}\n#",
        f"  7 \t {DIGITS}  \n",
        f"007 {DIGITS}",
        f"7 {DIGITS.upper()}",
    ],
)
def test_comments_blank_lines_and_space_do_not_count(text: str) -> None:
    assert known(text) == [(7, SECRET, False)]


def test_a_line_may_hold_an_agents_own_key() -> None:
    assert known(f"7 agent:{DIGITS}\n8 {DIGITS}") == [(7, SECRET, True), (8, SECRET, False)]


@pytest.mark.parametrize("size", [32, 33, 64, 1000])
def test_a_key_has_32_bytes_or_more(size: int) -> None:
    assert known(line(9, size)) == [(9, bytes([9]) * size, False)]


@pytest.mark.parametrize("digits", [2, 32, 62, 63])
@pytest.mark.parametrize("kind", ["", "agent:"])
def test_a_shorter_key_is_refused(digits: int, kind: str) -> None:
    told = complaint(f"{line(1)}\n7 {kind}{DIGITS[:digits]}")
    assert told.startswith("line 2: the key is ")
    if digits % 2 == 0:
        assert told == "line 2: the key is shorter than 32 bytes (64 digits)"


@pytest.mark.parametrize(
    "key",
    [
        f"{DIGITS}g0",
        f"x{DIGITS[1:]}",
        f"0x{DIGITS}",
        f"{DIGITS}0",
        f"{DIGITS[:-1]}é",
        f"{DIGITS[:-2]}٣٣",
        f"{DIGITS[:32]}:{DIGITS[32:]}",
        f"Agent:{DIGITS}",
        f"agent:agent:{DIGITS}",
        f"agent:{DIGITS}g0",
        f"master:{DIGITS}",
    ],
)
def test_what_is_not_hexadecimal_is_refused(key: str) -> None:
    assert complaint(f"7 {key}") == "line 1: the key is not in hexadecimal digits, two a byte"


@pytest.mark.parametrize("number", ["-1", "+1", "256", "1000", "9" * 5000, "x", "0x1", "1.0", "٣", "²", "1_0", DIGITS])
def test_an_id_is_a_number_from_0_to_255(number: str) -> None:
    assert complaint(f"{line(1)}\n\n{number} {DIGITS}") == "line 3: the key id is not a number from 0 to 255"


@pytest.mark.parametrize(
    "text",
    [
        "7",
        DIGITS,
        f"7{DIGITS}",
        f"7:{DIGITS}",
        f"7 {DIGITS} {DIGITS}",
        f"7 {DIGITS[:32]} {DIGITS[32:]}",
        f"7 agent: {DIGITS}",
        f"7 #{DIGITS}",
        f"7 agent {DIGITS}",
    ],
)
def test_a_line_has_an_id_and_a_key_and_nothing_more(text: str) -> None:
    assert complaint(f"# keys\n{text}") == "line 2: not of the form ID HEX"


@pytest.mark.parametrize("again", ["7", "007"])
@pytest.mark.parametrize("kind", ["", "agent:"])
def test_an_id_that_is_repeated_is_refused(again: str, kind: str) -> None:
    assert complaint(f"7 {DIGITS}\n8 {DIGITS}\n{again} {kind}{DIGITS[::-1]}") == "line 3: key id 7 is there twice"


@pytest.mark.parametrize("text", ["", "\n", "  \n\t\n", "# nothing yet\n", f"#7 {DIGITS}"])
def test_a_file_without_a_key_is_refused(text: str) -> None:
    assert complaint(text) == "there is no key in it"


@pytest.mark.parametrize(("is_derived", "text"), [(False, f"7 {DIGITS}"), (True, f"7 agent:{DIGITS}")])
def test_a_key_is_written_as_a_line(is_derived: bool, text: str) -> None:
    assert format_key(Key(7, SECRET, is_derived)) == text
