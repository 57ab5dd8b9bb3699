"""What pyproject.toml promises: the lowest versions that it allows, and the newest, on every Python that there is here.

README's own environment is this Python with the newest; the others are made here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs
import pytest

from tests.install.test_wheel import PROJECT, run
from tests.install.versions import Version, lowest_versions, pythons

pytestmark = pytest.mark.install

UNIT_TESTS: Final = ["wire", "pool", "monitoring", "scoring", "carrying", "tap", "admin"]
SMOKE: Final = "integration/test_smoke.py"
TOOLS: Final = ["hypothesis", "pytest", "pytest-twisted"]


@attrs.frozen
class Choice:
    """A Python, with the lowest or the newest of what the project depends on."""

    python: Version
    lowest: bool

    def __str__(self) -> str:
        return f"{'lowest' if self.lowest else 'newest'}-on-{'.'.join(map(str, self.python))}"


def choices() -> list[Choice]:
    there = list(pythons())
    oldest_and_newest = dict.fromkeys([there[0], there[-1]])
    others = [version for version in there if version != sys.version_info[:2]]
    return [Choice(each, lowest=True) for each in oldest_and_newest] + [Choice(each, lowest=False) for each in others]


def check(choice: Choice, wheel: Path, folder: Path) -> None:
    """In an environment of its own."""
    run(pythons()[choice.python], "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in lowest_versions() if choice.lowest))
    run(python, "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}[tls]", *TOOLS, cwd=folder)
    modules = [f"tests/{name}" for name in [*UNIT_TESTS, SMOKE]]
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", folder / "tests", *modules, cwd=PROJECT)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """One of every choice, two at a time."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, PROJECT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    with ThreadPoolExecutor(2) as pool:
        yield {
            str(choice): pool.submit(check, choice, wheel, tmp_path_factory.mktemp(str(choice))) for choice in choices()
        }


@pytest.mark.parametrize("choice", [str(each) for each in choices()])
def test_the_unit_tests_the_demo_and_a_tls_session_pass(choice: str, checks: dict[str, Future[None]]) -> None:
    checks[choice].result()


def test_every_dependency_has_a_lowest_version() -> None:
    """Which is what the constraints are made of."""
    assert all("==" in each for each in lowest_versions())
    assert sys.version_info[:2] in pythons()
