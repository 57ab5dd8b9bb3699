"""What the HTTP listener serves is what its page of the manual lists."""

from __future__ import annotations

import re
from typing import Any

from rproxy.tap import docs
from tests.tap.services import ProxyBench


def paths(folder: Any, prefix: str = "") -> set[str]:
    """Those of the resources that a folder has; one with resources of its own is not one itself."""
    found = set()
    for name, child in folder.children.items():
        path = f"{prefix}/{name.decode()}"
        found |= paths(child, path) if child.children else {path}
    return found


def test_every_document_is_in_the_manual() -> None:
    site = ProxyBench(admin=("127.0.0.1", 8404)).service._operators.site(1024)
    served = {path for path in paths(site.resource) if not path.startswith("/static/")}
    text = docs.pages()["api"]
    listed = set(re.findall(r"^``(/[a-z./]*)``", text, re.MULTILINE))
    assert served == listed
