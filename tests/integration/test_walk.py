"""The manual's walk, from the demo to Prometheus and halog: its commands, one after another, do what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.conftest import need
from tests.integration.twistd import PROJECT
from tests.integration.walks import blocks, walk

PAGE: Final = "rproxy/docs/operating.rst"
END: Final = "kill %1 %2 %3 $(grep -h . *.pid)"


def test_the_walk_prints_what_it_says(tmp_path: Path) -> None:
    need("curl", "halog", "ip", "prometheus", "promtool", "unshare", root=True)
    assert END in (PROJECT / PAGE).read_text(encoding="utf-8")
    work = walk(tmp_path, blocks(PAGE, "A walk"), END)
    assert "Traceback" not in (work / "rproxy.log").read_text()
