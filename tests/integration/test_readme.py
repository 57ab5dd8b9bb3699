"""README's services from a file: its commands, one after another, do what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.conftest import need
from tests.integration.twistd import PROJECT
from tests.integration.walks import blocks, walk

SECTION: Final = "Two services, from a file"
END: Final = "kill %1 $(grep -h . *.pid)"


def test_the_commands_of_two_services_do_what_they_say(tmp_path: Path) -> None:
    need("nginx", "curl", "unshare", "ip", root=True)
    assert END in (PROJECT / "README.rst").read_text(encoding="utf-8")
    work = walk(tmp_path, blocks("README.rst", SECTION), END, pause_s=1)
    assert "Traceback" not in (work / "rproxy.log").read_text()
