"""`rproxy systemd`: the units that the package contains, with the paths of this installation."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from typing import Final

NAMES: Final = ("rproxy.service", "rproxy.socket", "rproxy-agent.service")
FOLDER: Final = "/etc/systemd/system"
_HOMES: Final = ("/home/", "/root/", "/run/user/")
"""What ProtectHome=yes hides (systemd.exec(5))."""


def unit(name: str) -> str:
    """The text of one of `NAMES`."""
    text = files("rproxy").joinpath("units", name).read_text("utf-8")
    in_home = any(prefix.startswith(_HOMES) for prefix in (sys.prefix, sys.base_prefix))
    return text.replace("@TWISTD@", _twistd()).replace("@PROTECT_HOME@", "read-only" if in_home else "yes")


def all_units() -> str:
    """All of them, each below a comment with its file's name."""
    return "\n".join(f"# {FOLDER}/{name}\n{unit(name)}" for name in NAMES)


def _twistd() -> str:
    """This installation's twistd: it is beside Python in a virtual environment, and often elsewhere without one."""
    beside = os.path.join(os.path.dirname(sys.executable), "twistd")
    if os.path.exists(beside):
        return beside
    from sysconfig import get_path

    return os.path.join(get_path("scripts"), "twistd")
