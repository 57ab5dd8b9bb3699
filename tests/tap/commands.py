"""The command line of `twistd rproxy`: what it comes to, and how it complains."""

from __future__ import annotations

import pytest

from rproxy.tap.settings import Options, Settings


def settings(*arguments: str) -> Settings:
    options = Options()
    options.parseOptions(list(arguments))
    return options.settings


def complaint(*arguments: str) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        settings(*arguments)
    return one_line(ended.value)


def one_line(ended: SystemExit) -> str:
    text = str(ended.code)
    assert text.startswith("twistd rproxy: ")
    assert "\n" not in text
    return text
