"""What README says that the program knows better."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from rproxy.pool.admission import Refusal
from rproxy.pool.states import TRANSITIONS, Event, State
from rproxy.tap import agent, settings
from rproxy.wire.pdu import Flaw

README: Final = (Path(__file__).parent.parent / "README.rst").read_text(encoding="utf-8")


def table(first_heading: str) -> list[list[str]]:
    """The cells of the simple table that begins with this heading, and whose rows are one line each."""
    lines = README.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith(first_heading))
    border = lines[heading - 1]
    end = lines.index(border, heading + 2)
    columns = [(match.start(), match.end()) for match in re.finditer("=+", border)]
    rows = [lines[heading], *lines[heading + 2 : end]]
    return [[row[start:stop].strip() for start, stop in columns] for row in rows]


def test_the_transition_table_is_the_programs() -> None:
    heading, *rows = table("state      answered")
    shown = {
        State(row[0]): {Event(event): State(cell) for event, cell in zip(heading[1:], row[1:], strict=True) if cell}
        for row in rows
    }
    assert set(heading[1:]) == set(Event)
    assert {**shown, State.FORGOTTEN: {}} == TRANSITIONS


def test_every_reason_for_dropping_a_datagram_is_explained() -> None:
    begin = README.index("Why datagrams are dropped:")
    explained = re.findall(r"``([a-z-]+)``", README[begin : README.index("With ``--trace``", begin)])
    reasons = [name for name in explained if not name.startswith("--")]
    assert sorted(reasons) == sorted(each.value for each in (*Flaw, *Refusal))


def test_every_option_is_described() -> None:
    described = set(re.findall(r"^``--([a-z-]+)``", README, re.MULTILINE))
    there_are = {
        *(name.replace("_", "-").rstrip("=") for name in settings.Options().longOpt),
        *(name.replace("_", "-").rstrip("=") for name in agent.Options().longOpt),
    }
    assert described == there_are - {"help", "version"}
