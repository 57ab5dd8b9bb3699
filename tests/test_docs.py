"""README and the manual: they render, their links work, and they agree with the program."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from docutils import nodes
from docutils.core import publish_doctree, publish_string

from rproxy.observe.access_formats import json_lines, termination_state
from rproxy.observe.choice_list import UNKNOWN_RULE, document
from rproxy.observe.choices import ChoiceBook
from rproxy.policies.own_options import described
from rproxy.policies.registry import POLICIES
from rproxy.policies.rules import DRAWN, FIRST_WITH_ROOM, HOT_COLD, LOWEST, TOURNAMENT
from rproxy.pool.admission import Refusal
from rproxy.pool.comparison import OWN_RULE
from rproxy.pool.states import TRANSITIONS, Event, State
from rproxy.sessions.endings import Ending
from rproxy.tap import agent, docs, proxy
from rproxy.wire.pdu import Flaw, Pdu, ProbeRequest, ProbeResponse, Register, Unregister, encode
from tests.fakes import FakeLink, pool_with
from tests.observe.records import record
from tests.pool.driving import Driver
from tests.pool.driving import agent as agent_at

PROJECT: Final = Path(__file__).parent.parent
README: Final = PROJECT / "README.rst"
MANUAL: Final = PROJECT / "rproxy" / "docs"
TEXTS: Final = [README, PROJECT / "CHANGELOG.rst", *sorted(MANUAL.glob("*.rst"))]
STRICT: Final = {"report_level": 1, "halt_level": 5, "input_encoding": "utf-8"}
"""Notes of docutils count as well as warnings."""

each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)


def links(path: Path) -> list[str]:
    """The external references of a text."""
    tree = publish_doctree(path.read_text(encoding="utf-8"), str(path), settings_overrides=STRICT)
    return [node["refuri"] for node in tree.findall(nodes.reference) if "refuri" in node]


def broken(path: Path) -> list[str]:
    """Its links to missing files."""
    return [link for link in links(path) if not urlsplit(link).scheme and not path.parent.joinpath(link).is_file()]


@each_text
def test_every_text_renders_without_a_warning(path: Path) -> None:
    said = StringIO()
    overrides = {**STRICT, "warning_stream": said}
    html = publish_string(path.read_bytes(), str(path), writer="html5", settings_overrides=overrides)
    assert said.getvalue() == ""
    assert b"<h1" in html


@pytest.mark.parametrize("path", [README, *sorted(MANUAL.glob("*.rst"))], ids=lambda path: path.name)
def test_every_line_fits_a_terminal_of_120_columns(path: Path) -> None:
    """The pager shows the source text."""
    assert [line for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 120] == []


@each_text
def test_every_link_leads_to_a_file(path: Path) -> None:
    assert broken(path) == []


def test_a_link_to_no_file_is_found(tmp_path: Path) -> None:
    text = tmp_path / "text.rst"
    text.write_text("`One <text.rst>`_, `two <texts.rst>`_, https://example.com/ and `three <../two/one.rst>`_.\n")
    assert broken(text) == ["texts.rst", "../two/one.rst"]


def test_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert {f"rproxy/docs/{path.name}" for path in MANUAL.glob("*.rst")} <= set(links(README))


def test_the_manuals_topics_are_its_files() -> None:
    topics = (
        "access_log agents api backends choices choosing clients commands configuration developing doubts measured "
        "metrics operating page protocol reload status steering systemd tls"
    )
    assert list(docs.pages()) == topics.split()
    assert {f"{topic}.rst" for topic in docs.pages()} == {path.name for path in MANUAL.glob("*.rst")}


def images(path: Path) -> set[str]:
    """The images that a text shows."""
    tree = publish_doctree(path.read_text(encoding="utf-8"), str(path), settings_overrides=STRICT)
    return {node["uri"] for node in tree.findall(nodes.image)}


def test_every_other_file_of_the_manual_is_an_image_that_a_page_shows() -> None:
    shown = set().union(*(images(path) for path in MANUAL.glob("*.rst")))
    assert {path.name for path in MANUAL.iterdir()} == {path.name for path in MANUAL.glob("*.rst")} | shown
    assert all((MANUAL / name).stat().st_size < 100 * 1024 for name in shown)


def table(first_heading: str, text: str) -> list[list[str]]:
    """The cells of the simple table that begins with this heading, and whose rows are one line each."""
    lines = text.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith(first_heading))
    border = lines[heading - 1]
    end = lines.index(border, heading + 2)
    columns = [(match.start(), match.end()) for match in re.finditer("=+", border)]
    rows = [lines[heading], *lines[heading + 2 : end]]
    return [[row[start:stop].strip() for start, stop in columns] for row in rows]


def test_the_rules_by_which_back_ends_are_picked_are_the_programs() -> None:
    _, *rows = table("``rule``          ``key``", docs.pages()["choices"])
    told = {rule.strip("`"): key for rule, key, _ in rows if rule}
    rules = (LOWEST, DRAWN, TOURNAMENT, HOT_COLD, FIRST_WITH_ROOM, OWN_RULE)
    assert told == {**{rule.name: ", ".join(rule.parts) for rule in rules}, UNKNOWN_RULE: ""}


def test_the_fields_of_a_choice_are_the_programs() -> None:
    _, *rows = table("field             meaning", docs.pages()["choices"])
    told = [name.strip("`") for field, _ in rows if field for name in field.split(", ")]
    book = ChoiceBook(lambda: 0.0)
    book.add("default", pool_with(1)).choose(1, FakeLink(), 0.0, (), None)
    shown = document("default", book.logs[0].kept[0])
    assert set(told) == shown.keys() - {"service", "client", "given", "others_from"} | {"services"}


def test_the_transition_table_is_the_programs() -> None:
    heading, *rows = table("event        registered", docs.pages()["backends"])
    shown = {
        State(state): {Event(row[0]): State(row[column]) for row in rows if row[column]}
        for column, state in enumerate(heading)
        if column
    }
    assert {row[0] for row in rows} == set(Event)
    assert {**shown, State.FORGOTTEN: {}} == TRANSITIONS


def test_every_reason_for_dropping_a_datagram_is_explained() -> None:
    _, told = docs.pages()["status"].split("Why datagrams are dropped\n")
    explained = re.findall(r"``([a-z-]+)``", told)
    reasons = [name for name in explained if not name.startswith("--")]
    assert sorted(reasons) == sorted(each.value for each in (*Flaw, *Refusal))


def test_every_option_is_described() -> None:
    described = set(re.findall(r"^``--([a-z-]+)``", docs.pages()["operating"], re.MULTILINE))
    options = {
        *(name.replace("_", "-").rstrip("=") for name in proxy.Options().longOpt),
        *(name.replace("_", "-").rstrip("=") for name in agent.Options().longOpt),
    }
    assert described == options - {"help", "version"}


PORT: Final = 0x1234
FIELDS: Final = {
    **{f"type {number}": number << 5 for number in range(1, 5)},
    "0": 0,
    "service port": PORT >> 8,
    "(2 bytes)": PORT & 0xFF,
    "interval": 20_000,
    "sequence number": 0x0A0B0C0D,
    "instance": 0x1122334455667788,
    "token": 0x99AABBCCDDEEFF00,
    "weight": 300,
    "session limit": 77,
    "instance tag": 0x55667788,
    "CPU": 11,
    "memory": 22,
    "application load": 33,
    "TCP connections": 444,
    "own sessions": 5 + 1,
    "others' sessions": 6 + 1,
}
PDUS: Final[dict[str, Pdu]] = {
    "REGISTER": Register(PORT, 20_000, FIELDS["instance"], 300, max_connections=77),
    "PROBE REQUEST": ProbeRequest(FIELDS["sequence number"], FIELDS["token"], 5, FIELDS["instance tag"]),
    "PROBE RESPONSE": ProbeResponse(FIELDS["sequence number"], FIELDS["token"], 11, 22, 33, 444, others=6),
    "UNREGISTER": Unregister(PORT, FIELDS["instance"]),
}


@pytest.mark.parametrize("name", PDUS)
def test_the_layout_of_the_protocols_page_is_the_programs(name: str) -> None:
    heading, *rows = table("offset size REGISTER", docs.pages()["protocol"])
    column = heading.index(name)
    data = b""
    for row in rows:
        assert int(row[0]) == len(data)
        data += FIELDS[row[column]].to_bytes(int(row[1]), "big")
    assert data == encode(PDUS[name])


def test_every_policy_is_described() -> None:
    assert {name for name in POLICIES if f"``{name}``" not in docs.pages()["operating"]} == set()


@pytest.mark.parametrize("heading", ["which back-end", "``score``"])
def test_every_policy_is_in_the_tables_of_policies(heading: str) -> None:
    _, *rows = table(f"{'``--policy``':<21} {heading}", docs.pages()["choosing"])
    assert sorted(name for name, *_ in rows) == sorted(f"``{name}``" for name in POLICIES)


def test_every_option_of_a_policy_is_in_the_table_of_options() -> None:
    _, *rows = table("policy              option", docs.pages()["choosing"])
    shown = [f"{policy} {option.strip('`')}: {meaning}" for policy, option, meaning in rows]
    assert sorted(shown) == sorted(
        f"``{name}`` {line}" for name in POLICIES for line in described(POLICIES[name].options)
    )


def test_the_policy_that_is_shown_chooses() -> None:
    """It chooses the back-end with the shorter round trip, regardless of its sessions."""
    tree = publish_doctree((MANUAL / "developing.rst").read_text(encoding="utf-8"), settings_overrides=STRICT)
    (example,) = [block.astext() for block in tree.findall(nodes.literal_block) if "class " in block.astext()]
    names: dict[str, Any] = {}
    exec(example, names)
    driver = Driver(names["make"]({}, None))
    far, near = driver.up(agent_at(1)), driver.up(agent_at(2))
    for backend, rtt_s in ((far, 0.02), (near, 0.01)):
        driver.report(backend, after_s=rtt_s)
    assert driver.pool.would_choose(driver.now) is near
    assert driver.pool.would_choose(driver.now, (near,)) is far


def test_the_page_of_the_access_log_has_every_key_and_every_ending() -> None:
    page = docs.pages()["access_log"]
    _, *fields = table("field          meaning", page)
    (line,) = json_lines([record()], 0.0)
    assert [name for field, _ in fields if (name := field.strip("`"))] == list(json.loads(line))
    _, *endings = table("ending              meaning", page)
    unconnected: dict[str, Any] = {"connect_s": None, "tries": 0}
    states = {
        ending: {
            termination_state(record(ending=ending, **fields))
            for fields in ({}, unconnected, {**unconnected, "tries": 1})
        }
        for ending in Ending
    }
    assert {ending.strip("`") for ending, *_ in endings} == set(Ending)
    for ending, _, state in endings:
        assert state.strip("`") in states[Ending(ending.strip("`"))], ending
