from __future__ import annotations

from twisted.logger import Logger, LogLevel

from rproxy.observe.service_log import logger_of
from rproxy.sessions.service import DEFAULT
from tests.fakes import logged, texts

OWN = Logger("rproxy.somewhere")


def test_a_line_about_a_named_service_begins_with_its_name() -> None:
    with logged() as events:
        logger_of("web", OWN).warn("{count} clients", count=3)
    assert texts(events) == ["web: 3 clients"]
    assert (events[0]["log_level"], events[0]["log_namespace"]) == (LogLevel.warn, "rproxy.somewhere")


def test_a_name_with_braces_is_shown_as_it_is() -> None:
    with logged() as events:
        logger_of("{count}", OWN).info("{count} clients", count=3)
    assert texts(events) == ["{count}: 3 clients"]


def test_an_exception_is_logged_with_the_name() -> None:
    with logged() as events:
        try:
            raise ValueError
        except ValueError:
            logger_of("web", OWN).failure("no {what}", what="luck")
    assert texts(events)[0].startswith("web: no luck")
    assert events[0]["log_failure"].type is ValueError


def test_the_service_of_the_command_line_has_no_name_in_the_log() -> None:
    assert logger_of(DEFAULT, OWN) is OWN
