"""Which texts are a load, how one is added to the host's, and what is logged of it."""

from __future__ import annotations

import pytest

from rproxy.agent.application_load import LOG_INTERVAL_S, ApplicationSampler, BadLoad, LoadLog, parse_load
from rproxy.agent.sampler import Load
from tests.fakes import StubSampler, logged, texts


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (b"0", 0),
        (b"100", 100),
        (b"42\n", 42),
        (b"42\r\n", 42),
        (b"  42\t\n\n\n", 42),
        (b"busy: yes\n7\n", 7),
        (b"99\r\n\r\n1\r\n", 1),
        (b"99\r1\r", 1),
        (b"\xef\xbb\xbf42\r\n", 42),
        (b"+5", 5),
        (b"0042", 42),
        (b"42.4", 42),
        (b"42.6", 43),
        (b"0.4", 0),
        (b".9", 1),
        (b"5.", 5),
        (b"99.99", 100),
        (b"100.0", 100),
        (b"1e1", 10),
        (b"1E+02", 100),
        (b"3.5e-05", 0),
        (b"1e-999", 0),
        (b"\xff\xfe\n50", 50),
        (b"50\n\0\0", 50),
    ],
)
def test_a_load_is_the_number_in_the_last_line(text: bytes, load: int) -> None:
    assert parse_load(text) == load


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *(
            (text, f"{text.decode()!r} is not a number from 0 to 100")
            for text in (
                *(
                    b"nan",
                    b"inf",
                    b"-inf",
                    b"NaN",
                    b"-3",
                    b"-0",
                    b"-0.0",
                    b"101",
                    b"100.01",
                    b"1e99",
                    b"1e999",
                    b"0x10",
                ),
                *(b"1_0", b"5%", b"5 %", b"5,5", b"4 2", b"e5", b".", b"+", b"load=5", b"--5"),
            )
        ),
        (b"50\nfailed\n", "'failed' is not a number from 0 to 100"),
        (b"", "no number"),
        (b" \r\n\n\t", "no number"),
        (b"\xef\xbb\xbf\n", "no number"),
        (b"\xff\xfe5\x000\x00", r"'\\xff\\xfe5\x000' is not a number from 0 to 100"),
        ("٣".encode(), r"'\\xd9\\xa3' is not a number from 0 to 100"),
        (b"9" * 4000, f"'{'9' * 40}…' is not a number from 0 to 100"),
        (b"0" * 4000, f"'{'0' * 40}…' is not a number from 0 to 100"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_anything_else_is_none_and_the_message_shows_it(text: bytes, shown: str) -> None:
    with pytest.raises(BadLoad) as raised:
        parse_load(text)
    assert str(raised.value) == shown
    assert "\n" not in shown


class Stub:
    """An `ApplicationLoad` that is what the test says."""

    load: int | None = 64

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def percentage(self) -> int | None:
        return self.load


def test_it_is_added_to_the_figures_of_the_host() -> None:
    stub = Stub()
    sampler = ApplicationSampler(StubSampler(Load(1, 2, 3)), stub)
    assert sampler.sample() == Load(1, 2, 3, 64)
    stub.load = None
    assert sampler.sample() == Load(1, 2, 3, None)


def test_changes_are_logged_two_at_once_and_then_one_a_minute() -> None:
    log = LoadLog()
    with logged() as events:
        log.known(0)
        log.unknown("x: exit\nstatus 1", 1)
        log.unknown("x: exit status 2", 2)
        log.known(3)
        log.known(4)
        for now in range(5, 60):
            log.unknown("again", now)
            log.known(now + 0.5)
    unknown = "the service's load cannot be read and is reported as unknown: "
    assert texts(events) == [f"{unknown}x: exit status 1", "the service's load can be read again"]
    with logged() as events:
        log.unknown("later", 1 + LOG_INTERVAL_S)
        log.known(1.5 + LOG_INTERVAL_S)
    assert texts(events) == [f"{unknown}later"]
