"""`rproxy docs`: the manual's pages, on a terminal and elsewhere."""

from __future__ import annotations

import functools
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from rproxy.tap import docs
from rproxy.tap.command import main

Captured = pytest.CaptureFixture[str]
COMMAND: Final = [sys.executable, "-m", "rproxy", "docs"]
TOPICS: Final = list(docs.pages())


def message_of(capfd: Captured, topic: str) -> str:
    """The one line for a topic that has no page."""
    assert main(["docs", topic]) == 2
    output = capfd.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    return line


def ended(**how: Any) -> tuple[int, str]:
    """The status of `rproxy docs operating`, and what it says on stderr."""
    done = subprocess.run([*COMMAND, "operating"], stderr=subprocess.PIPE, text=True, check=False, timeout=60, **how)
    return done.returncode, done.stderr


def on_terminal(pager: str, *arguments: str) -> str:
    """All that the command writes to a terminal, where $PAGER is `pager`."""
    terminal, end = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name != "MANPAGER"}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=end, stdout=end, stderr=end, env={**env, "PAGER": pager, "TERM": "xterm"}
    )
    os.close(end)
    written = b""
    try:
        while data := os.read(terminal, 65536):
            written += data
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(terminal)
    assert process.wait(60) == 0
    return written.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_printed_as_it_is(capfd: Captured, topic: str) -> None:
    assert main(["docs", topic]) == 0
    assert capfd.readouterr() == (docs.pages()[topic], "")


def test_the_topics_are_listed_with_their_titles(capfd: Captured) -> None:
    assert main(["docs"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == TOPICS
    assert "choosing       How a back-end is chosen" in lines


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("oprating", "operating"),
        ("op", "operating"),
        ("Operating", "operating"),
        ("operating.rst", "operating"),
        ("OPERATIGN", "operating"),
        ("protocols", "protocol"),
        ("choose", "choosing"),
    ],
)
def test_an_unknown_topic_is_one_line_with_the_nearest(capfd: Captured, asked: str, meant: str) -> None:
    message = f"rproxy docs: error: there is no topic {asked!r}; do you mean {meant}?"
    assert message_of(capfd, asked) == message


@pytest.mark.parametrize("asked", ["xyz", "", " ", ".rst", "../../README", "two\nlines", "\udcff", "a" * 1000])
def test_a_topic_that_is_near_none_is_one_line_with_all(capfd: Captured, asked: str) -> None:
    message = f"rproxy docs: error: there is no topic {asked!r}; there are {', '.join(TOPICS)}"
    assert message_of(capfd, asked) == message


def test_on_a_terminal_it_goes_through_the_pager() -> None:
    assert on_terminal("sed 's/^/paged: /'", "protocol").startswith("paged: The monitoring protocol\npaged: ====")


def test_a_pager_that_is_left_early_is_no_error() -> None:
    assert on_terminal("head -n 1", "operating") == f"{docs.pages()['operating'].splitlines()[0]}\n"


def test_it_is_utf_8_whatever_the_locale() -> None:
    env = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*COMMAND, "measured"], env=env, capture_output=True, check=True, timeout=60)
    assert done.stdout.decode() == docs.pages()["measured"]


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert ended(stdout=writer) == (0, "")
    finally:
        os.close(writer)


def test_output_that_is_full_or_closed_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        assert ended(stdout=full) == (1, "rproxy docs: error: standard output: No space left on device\n")
    closed = functools.partial(os.close, 1)
    assert ended(preexec_fn=closed) == (1, "rproxy docs: error: standard output: it is closed\n")
