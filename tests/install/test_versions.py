"""What pyproject.toml promises: the lowest versions that it allows on the oldest Python, the newest on all others here.

README's own environment is this Python with the newest; the others are made here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import attrs
import pytest

from tests.install.test_wheel import PROJECT, run
from tests.install.versions import Version, lowest_versions, pythons

pytestmark = pytest.mark.install

NO_UNIT_TESTS: Final = {"benchmarks", "browser", "hosts", "install", "integration", "policies", "study"}
"""Folders; all others mirror the package's. Those of policies and the study take minutes, and use nothing but attrs."""
SMOKE: Final = PROJECT / "tests" / "integration" / "test_smoke.py"
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
    others = [version for version in there if version != sys.version_info[:2]]
    return [Choice(there[0], lowest=True), *(Choice(each, lowest=False) for each in others)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, PROJECT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for temporary files: the paths of Unix sockets have at most 107 bytes."""
    with TemporaryDirectory(prefix="rproxy-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("choice", choices(), ids=str)
def test_the_unit_tests_the_demo_and_a_tls_session_pass(
    choice: Choice, wheel: Path, tmp_path: Path, short_path: Path
) -> None:
    """In an environment of its own."""
    run(pythons()[choice.python], "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in lowest_versions() if choice.lowest))
    options: list[str | Path] = ["-q", "--no-compile", "-c", constraints]
    run(python, "-m", "pip", "install", *options, f"{wheel}[tls,study]", *TOOLS, cwd=tmp_path)
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", short_path / "t"]
    run(python, "-m", "pytest", *options, *unit_tests(), SMOKE, cwd=PROJECT)


def unit_tests() -> list[Path]:
    tests = PROJECT / "tests"
    folders = {path.parent for path in tests.glob("*/test_*.py")}
    return sorted(folder for folder in folders if folder.name not in NO_UNIT_TESTS)


def test_every_dependency_has_a_lowest_version() -> None:
    """Which is what the constraints are made of."""
    assert all("==" in each for each in lowest_versions())
    assert sys.version_info[:2] in pythons()
