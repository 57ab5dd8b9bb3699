"""Which tests one worker runs one after the other, and which of them run alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from tests import parallel
from tests.parallel import unit

CARRIERS = "tests/integration/test_carriers.py"

TIMES = """
import os, time, pytest
@pytest.mark.parametrize("number", range(8))
def test_it(number, request):
    alone = request.node.get_closest_marker("alone") is not None
    began = time.monotonic()
    time.sleep(0.05)
    with open(os.environ["TIMES"], "a") as times:
        times.write(f"{alone:d} {began} {time.monotonic()}\\n")
"""


@pytest.mark.parametrize(
    ("nodeid", "expected"),
    [
        (f"{CARRIERS}::test_it[splice-uvloop]", f"{CARRIERS} splice-uvloop"),
        (f"{CARRIERS}::test_it[portable-asyncio-client-10]", f"{CARRIERS} portable-asyncio"),
        (f"{CARRIERS}::test_it[client-splice-epoll]", f"{CARRIERS} splice-epoll"),
        ("tests/integration/test_hostile.py::test_it[keyed]", "tests/integration/test_hostile.py keyed"),
        ("tests/pool/test_bounds.py::TestBounds::test_it[splice]", "tests/pool/test_bounds.py splice"),
        ("tests/integration/test_outages.py::test_splice", "tests/integration/test_outages.py"),
    ],
)
def test_a_module_is_cut_by_its_variants(nodeid: str, expected: str) -> None:
    assert unit(nodeid) == expected


def test_beside_what_is_marked_no_other_test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TIMES": f"{tmp_path}/times",
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }.items():
        monkeypatch.setenv(name, value)
    for number in range(6):
        marked = "pytestmark = pytest.mark.alone" if number < 2 else ""
        tmp_path.joinpath(f"test_{number}.py").write_text(f"{TIMES}\n{marked}\n")
    tmp_path.joinpath("pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    shutil.copy(parallel.__file__, tmp_path / "copied.py")  # has a lock of its own: this run may hold the original's
    plugins = ["-p", "xdist.plugin", "-p", "copied"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "-n", "3"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60, stdout=subprocess.DEVNULL)
    rows = [line.split() for line in tmp_path.joinpath("times").read_text().splitlines()]
    times = sorted((float(began), float(ended), alone == "1") for alone, began, ended in rows)
    overlapping = [pair for pair in combinations(times, 2) if pair[0][1] > pair[1][0]]
    assert sum(alone for _, _, alone in times) == 2 * len(times) / 6 == 16
    assert [pair for pair in overlapping if pair[0][2] or pair[1][2]] == []
    assert overlapping
