"""Which tests one worker runs one after the other, and which of them run alone."""

from __future__ import annotations

import os
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
began = time.monotonic()
time.sleep(0.3)
with open(os.environ["IMPORTS"], "a") as times:
    times.write(f"{os.environ['PYTEST_XDIST_WORKER']} {began} {time.monotonic()}\\n")
assert "PYTHONDONTWRITEBYTECODE" not in os.environ
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


@pytest.fixture(scope="module")
def run_of_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by three workers: `times` has a line for each test, `imports` for each import of a module."""
    folder = tmp_path_factory.mktemp("run")
    environment = {
        **os.environ,
        "TIMES": f"{folder}/times",
        "IMPORTS": f"{folder}/imports",
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for number in range(6):
        marked = "pytestmark = pytest.mark.alone" if number < 2 else ""
        folder.joinpath(f"test_{number}.py").write_text(f"{TIMES}\n{marked}\n")
    folder.joinpath("pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    shutil.copy(parallel.__file__, folder / "copied.py")  # has a lock of its own: this run may hold the original's
    plugins = ["-p", "xdist.plugin", "-p", "copied"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "-n", "3"]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return folder


def rows(path: Path) -> list[tuple[str, float, float]]:
    """What it is about, and when it began and ended."""
    words = (line.split() for line in path.read_text().splitlines())
    return [(what, float(began), float(ended)) for what, began, ended in words]


def test_beside_what_is_marked_no_other_test_runs(run_of_three: Path) -> None:
    times = sorted((began, ended, alone == "1") for alone, began, ended in rows(run_of_three / "times"))
    overlapping = [pair for pair in combinations(times, 2) if pair[0][1] > pair[1][0]]
    assert sum(alone for _, _, alone in times) == 2 * len(times) / 6 == 16
    assert [pair for pair in overlapping if pair[0][2] or pair[1][2]] == []
    assert overlapping


def test_one_worker_compiles_the_tests_before_the_others_read_them(run_of_three: Path) -> None:
    imports = sorted((began, ended, worker) for worker, began, ended in rows(run_of_three / "imports"))
    assert len({worker for _, _, worker in imports[:6]}) == 1
    assert len({worker for _, _, worker in imports[6:]}) == 2
    assert imports[5][1] <= imports[6][0]
    assert len(list(run_of_three.glob("__pycache__/test_*.pyc"))) == 6
