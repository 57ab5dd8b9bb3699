"""The command line of `twistd rproxy`: what it comes to, and how it complains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rproxy.config.model import ProxyConfig
from rproxy.config.options import ProxyOptions

ANY_HOST = ("--allow", "0.0.0.0/0")
"""Somebody must be allowed to register."""


def parsed(*arguments: str, allow: Sequence[str] = ANY_HOST) -> ProxyOptions:
    options = ProxyOptions()
    options.parseOptions([*(() if "--allow" in arguments else allow), *arguments])
    return options


def config_of(*arguments: str, allow: Sequence[str] = ANY_HOST) -> ProxyConfig:
    return parsed(*arguments, allow=allow).config


def field(config: ProxyConfig, name: str) -> Any:
    """A field of the process, or else of its one service."""
    (service,) = config.services
    return getattr(config if hasattr(config, name) else service, name)


def message_of(*arguments: str, allow: Sequence[str] = ANY_HOST) -> str:
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        config_of(*arguments, allow=allow)
    return one_line(ended.value)


def one_line(ended: SystemExit) -> str:
    text = str(ended.code)
    assert text.startswith("twistd rproxy: ")
    assert "\n" not in text
    return text
