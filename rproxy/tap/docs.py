"""`rproxy docs`: the manual's pages, which the package contains as reStructuredText."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from typing import Final

ENDING: Final = ".rst"


def pages() -> dict[str, str]:
    """The text of every page by its topic, in alphabetical order."""
    found = files("rproxy").joinpath("docs").iterdir()
    texts = {file.name.removesuffix(ENDING): file.read_text("utf-8") for file in found if file.name.endswith(ENDING)}
    return dict(sorted(texts.items()))


def contents(texts: Mapping[str, str]) -> str:
    """A line for each topic, with its page's title."""
    width = max(len(topic) for topic in texts)
    return "".join(f"{topic:{width}}  {text.partition(chr(10))[0]}\n" for topic, text in texts.items())


def unknown(asked: str, texts: Mapping[str, str]) -> str:
    """The message about a topic that has no page, in one line, with the nearest one."""
    wanted = asked.lower().removesuffix(ENDING)
    near = [topic for topic in texts if wanted and topic.startswith(wanted)] or get_close_matches(wanted, texts, 1)
    hint = f"do you mean {near[0]}?" if near else f"there are {', '.join(texts)}"
    return f"there is no topic {asked!r}; {hint}"
