"""The three formats of the access log."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from math import inf, nan
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rproxy.observe.access_formats import (
    HaproxyLines,
    json_lines,
    no_header,
    syslog_header,
    termination_state,
    text_lines,
    word,
)
from rproxy.sessions.endings import Ending
from tests.conftest import need
from tests.observe.records import REFUSED, record

OFFSET_S: Final = 1_700_000_000.0
"""Unix time where the clock of the records began: 14 November 2023, 22:13:20 UTC."""
ENDED: Final = "2023-11-14T22:30:00.250Z"
KEYS: Final = [
    *("time", "client", "service", "listener", "backend", "score", "report_age"),
    *("tries", "queue", "connect", "duration", "up", "down", "ending"),
]


@pytest.fixture
def kathmandu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """5 h 45 min before UTC, all year."""
    monkeypatch.setenv("TZ", "NPT-5:45")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def haproxy(*records: Any, header: Any = no_header) -> list[str]:
    return HaproxyLines(header, lambda: (5, {"web": 3}))(records, OFFSET_S)


def test_json_has_all_keys_times_in_seconds_and_the_time_of_the_end() -> None:
    (line,) = json_lines([record()], OFFSET_S)
    assert json.loads(line) == {
        "time": ENDED,
        "client": "192.0.2.7:50312",
        "service": "web",
        "listener": "0.0.0.0:80",
        "backend": "10.1.1.2:80",
        "score": 0.36124,
        "report_age": 0.51,
        "tries": 1,
        "queue": 0,
        "connect": 0.000123,
        "duration": 0.0441,
        "up": 312,
        "down": 10240,
        "ending": "closed",
    }
    assert list(json.loads(line)) == KEYS


def test_json_has_null_for_what_is_unknown() -> None:
    (line,) = json_lines([record(**{**REFUSED, "queue_s": 0.03})], OFFSET_S)
    read = json.loads(line)
    assert list(read) == KEYS
    assert {key for key, value in read.items() if value is None} == {"backend", "score", "report_age", "connect"}
    assert (read["time"], read["queue"], read["tries"], read["ending"]) == (ENDED, 0.03, 0, "no-backend")


@pytest.mark.parametrize("score", [inf, -inf, nan])
def test_json_has_null_for_a_score_that_it_has_no_number_for(score: float) -> None:
    (line,) = json_lines([record(score=score)], OFFSET_S)
    assert json.loads(line)["score"] is None


times = st.floats(0, 1e6).map(lambda value: round(value, 6))


@given(
    service=st.text(min_size=1),
    listener=st.text(),
    numbers=st.tuples(times, times, times, times),
    score=st.floats(allow_nan=False, allow_infinity=False),
    carried=st.tuples(st.integers(0, 2**63), st.integers(0, 2**63)),
    known=st.booleans(),
)
def test_json_can_be_read_whatever_is_in_it(
    service: str, listener: str, numbers: tuple[float, ...], score: float, carried: tuple[int, int], known: bool
) -> None:
    """Both ways of making a line: the fast one of records that are complete, and the other."""
    queue_s, connect_s, duration_s, age_s = numbers
    made = record(
        service=service,
        listener=listener,
        queue_s=queue_s,
        connect_s=connect_s,
        duration_s=duration_s,
        score=score,
        report_age_s=age_s if known else None,
        up=carried[0],
        down=carried[1],
    )
    (line,) = json_lines([made], OFFSET_S)
    assert "\n" not in line
    read = json.loads(line)
    assert list(read) == KEYS
    assert (read["service"], read["listener"], read["up"], read["down"]) == (service, listener, *carried)
    assert read["score"] == pytest.approx(score, rel=1e-5)
    assert (read["connect"], read["duration"]) == pytest.approx((connect_s, duration_s), abs=1e-6)
    assert read["queue"] == pytest.approx(queue_s, rel=1e-5, abs=1e-6)
    assert read["report_age"] == (pytest.approx(age_s, abs=1e-3) if known else None)


def test_text_has_fixed_columns_first_and_then_names_with_values() -> None:
    lines = text_lines([record(), record("[2001:db8::1]:4321", **REFUSED)], OFFSET_S)
    assert lines == [
        f"{ENDED} 192.0.2.7:50312 web 10.1.1.2:80 closed "
        "duration=0.044100 up=312 down=10240 tries=1 queue=0 connect=0.000123",
        f"{ENDED} [2001:db8::1]:4321 web - no-backend duration=0.044100 up=0 down=0 tries=0 queue=0 connect=-",
    ]


def test_text_has_the_last_back_end_of_a_client_that_was_never_connected() -> None:
    (line,) = text_lines([record(connect_s=None, ending=Ending.CLIENT_GONE)], OFFSET_S)
    assert " 10.1.1.2:80 client-gone " in line
    assert line.endswith(" connect=-")


def test_a_name_of_several_words_is_one_word_of_a_line() -> None:
    assert [word(text) for text in ("web", "", "my web", "a\nb", "\N{EURO SIGN}")] == [
        "web",
        "-",
        "my\\x20web",
        "a\\x0ab",
        "\\xe2\\x82\\xac",
    ]
    for lines in (text_lines, HaproxyLines(no_header, lambda: (0, {}))):
        (line,) = lines([record(service="my web\n")], OFFSET_S)
        assert "my\\x20web\\x0a" in line
        assert "\n" not in line


def test_seconds_that_follow_each_other_are_told_apart() -> None:
    for lines in (json_lines, text_lines):
        ends = lines([record(started_at=at, duration_s=0.0) for at in (1.9999, 2.0, 2.9994, 1.5)], OFFSET_S)
        assert [re.search(r":(\d\d\.\d{3})Z", line)[1] for line in ends] == [  # type: ignore[index]
            "21.999",
            "22.000",
            "22.999",
            "21.500",
        ]


@pytest.mark.usefixtures("kathmandu")
def test_the_lines_of_haproxy_are_those_of_its_tcplog_in_local_time() -> None:
    made = record(queue_s=1.0029, connect_s=0.0015, duration_s=3.5, tries=2, started_at=996.75)
    assert haproxy(made) == [
        "192.0.2.7:50312 [15/Nov/2023:04:14:56.750] web web/10.1.1.2:80 1002/1/3500 10240 -- 5/3/3/0/+1 0/0"
    ]
    (line,) = haproxy(made, header=syslog_header("host", "rproxy", 42))
    assert line.startswith("Nov 15 04:15:00 host rproxy[42]: 192.0.2.7:50312 [15/Nov/")


def test_the_day_of_syslogs_header_has_two_characters() -> None:
    header = syslog_header("host", "rproxy", 1)
    assert re.fullmatch(r"Nov  [12] \d\d:\d\d:\d\d host rproxy\[1\]: ", header(1_698_840_000))


def test_haproxy_writes_ipv6_clients_without_brackets_and_knows_no_names_of_unix_ones() -> None:
    lines = haproxy(record("[2001:db8::1]:4321"), record("/run/client"), record("@a"))
    assert [line.partition(" ")[0] for line in lines] == ["2001:db8::1:4321", "unix:0", "unix:0"]


def test_haproxys_times_of_what_did_not_come_about_are_minus_one() -> None:
    (line,) = haproxy(record(**REFUSED))
    assert " web/<NOSRV> -1/-1/44 0 SC " in line


@pytest.mark.parametrize("ending", Ending)
def test_every_ending_has_a_termination_state_that_haproxy_knows(ending: Ending) -> None:
    states = {termination_state(record(ending=ending)), termination_state(record(**{**REFUSED, "ending": ending}))}
    assert all(re.fullmatch(r"--|[CSPDKcs][RQCD]", state) for state in states), states
    assert ("--" in states) is (ending is Ending.CLOSED)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"ending": Ending.CLIENT_RESET}, "CD"),
        ({"ending": Ending.BACKEND_RESET}, "SD"),
        ({"ending": Ending.IDLE}, "cD"),
        ({"ending": Ending.BACKEND_DOWN}, "DD"),
        ({"ending": Ending.STOPPED}, "KD"),
        ({"ending": Ending.CLIENT_GONE, "connect_s": None}, "CC"),
        ({**REFUSED, "ending": Ending.CLIENT_GONE, "queue_s": 1.0}, "CQ"),
        ({**REFUSED, "ending": Ending.UNREACHABLE, "tries": 3}, "SC"),
        ({**REFUSED, "ending": Ending.QUEUE_FULL}, "SQ"),
        ({**REFUSED, "ending": Ending.QUEUE_TIMEOUT, "queue_s": 5.0}, "sQ"),
        ({**REFUSED, "ending": Ending.DENIED}, "PR"),
        ({**REFUSED, "ending": Ending.HEADER_TIMEOUT}, "cR"),
    ],
)
def test_termination_states_say_who_ended_the_session_and_when(fields: dict[str, Any], state: str) -> None:
    assert termination_state(record(**fields)) == state


def test_halog_reads_the_lines_of_haproxy() -> None:
    """It counts lines, finds their servers, and gaps between the times of accepting."""
    (halog,) = need("halog")
    ends = [record(started_at=at) for at in (1000.0, 1000.01, 1003.0)]
    lines = haproxy(*ends, record(**REFUSED), header=syslog_header("host", "rproxy", 42))

    def read(options: str) -> str:
        command = [halog, "-q", *shlex.split(options)]
        done = subprocess.run(command, input="\n".join([*lines, ""]), capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout

    assert read("-c -v -time :1") == "4\n"  # each has a date that it can read
    assert [line.split()[0] for line in read("-srv").splitlines()[1:]] == ["web/10.1.1.2:80", "web/<NOSRV>"]
    (gap,) = read("-ad 1000").splitlines()
    assert gap.split()[2:] == ["2795", "1"]
