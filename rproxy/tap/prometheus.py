"""`rproxy prometheus`: the files for Prometheus and Grafana that the package contains."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

FILES: Final = {
    "config": ("prometheus.yml", "a configuration to start with: what to scrape, and the alert rules"),
    "alerts": ("alerts.yml", "alert rules"),
    "dashboard": ("dashboard.json", "a dashboard, to be imported into Grafana"),
}
"""Their names in the package and what they are, by the names that users give."""


def text_of(name: str) -> str:
    """The file of one of these names."""
    return files("rproxy").joinpath("admin", FILES[name][0]).read_text("utf-8")


def contents() -> str:
    """A line for each."""
    width = max(map(len, FILES))
    return "".join(f"{name:{width}}  {meaning}\n" for name, (_, meaning) in FILES.items())
