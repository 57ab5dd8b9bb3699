"""The options of what becomes of clients without a back-end."""

from __future__ import annotations

import pytest

from rproxy.sessions.redispatch import Redispatch
from tests.config.commands import config_of, field, message_of


def test_clients_wait_five_seconds_and_are_redispatched_and_no_silence_is_evidence_by_default() -> None:
    (service,) = config_of().services
    assert (service.wait_s, service.redispatch, service.first_byte_s) == (5, Redispatch.ALL, 0)


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--wait-for-backend", "0"], "wait_s", 0),
        (["--wait-for-backend", "2.5"], "wait_s", 2.5),
        (["--redispatch-early", "off"], "redispatch", Redispatch.OFF),
        (["--redispatch-early", "unsent"], "redispatch", Redispatch.UNSENT),
        (["--redispatch-early", "all"], "redispatch", Redispatch.ALL),
        (["--first-byte", "10"], "first_byte_s", 10),
        (["--first-byte", "0"], "first_byte_s", 0),
    ],
)
def test_an_option_is_a_setting(arguments: list[str], name: str, value: object) -> None:
    assert field(config_of(*arguments), name) == value


@pytest.mark.parametrize("option", ["--wait-for-backend", "--first-byte", "--redispatch-early"])
@pytest.mark.parametrize("value", ["", "abc", "-1", "nan", "inf", "1e300", "3601", "All", "0x5"])
def test_what_cannot_be_is_one_line_that_names_the_option(option: str, value: str) -> None:
    assert option in message_of(f"{option}={value}")


def test_a_first_byte_must_be_given_time() -> None:
    assert "--first-byte 0.01" in message_of("--first-byte", "0.01")
