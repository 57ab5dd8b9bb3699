"""The command line of `twistd rproxy`: what it comes to, and how it complains."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rproxy.tap.settings import Options, Settings

ANYBODY = ("--allow", "0.0.0.0/0")
"""Somebody must be allowed to register."""


def parsed(*arguments: str, allow: Sequence[str] = ANYBODY) -> Options:
    options = Options()
    options.parseOptions([*(() if "--allow" in arguments else allow), *arguments])
    return options


def settings(*arguments: str, allow: Sequence[str] = ANYBODY) -> Settings:
    return parsed(*arguments, allow=allow).settings


def complaint(*arguments: str, allow: Sequence[str] = ANYBODY) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        settings(*arguments, allow=allow)
    return one_line(ended.value)


def one_line(ended: SystemExit) -> str:
    text = str(ended.code)
    assert text.startswith("twistd rproxy: ")
    assert "\n" not in text
    return text
