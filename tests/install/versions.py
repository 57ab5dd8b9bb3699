"""The Pythons that this machine has, and the lowest versions that pyproject.toml allows. `python -m` prints both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any, Final

PROJECT: Final = Path(__file__).parents[2]
NEWEST: Final = 30
"""No Python 3 has a minor number as high."""
_USABLE: Final = "import ensurepip, sqlite3, ssl, venv"
"""What tests and their tools need, and what a Python that was built in haste lacks."""

Version = tuple[int, int]


def _pyproject() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def lowest_python() -> Version:
    """The one that pyproject.toml asks for."""
    found = re.fullmatch(r">=3\.(\d+)", _pyproject()["requires-python"])
    assert found
    return 3, int(found[1])


def lowest_versions() -> list[str]:
    """One constraint for each of the project's own dependencies."""
    return [_lowest(each) for each in _pyproject()["dependencies"]]


def _lowest(dependency: str) -> str:
    found = re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9.]+)", dependency)
    assert found, f"{dependency}: has no lowest version"
    return f"{found[1]}=={found[2]}"


def pythons() -> dict[Version, str]:
    """By version, from the lowest that will do: this one, those on PATH, and pyenv's."""
    found: dict[Version, str] = {}
    for minor in range(lowest_python()[1], NEWEST):
        path = next(_usable(3, minor), None)
        if path is not None:
            found[3, minor] = path
    return found


def _usable(*version: int) -> Iterator[str]:
    name = ".".join(map(str, version))
    if sys.version_info[:2] == version:
        yield sys.executable
    on_path = shutil.which(f"python{name}")
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    for path in [*([on_path] if on_path else []), *sorted(glob(f"{pyenv}/versions/{name}.*/bin/python"))]:
        if subprocess.run([path, "-c", _USABLE], capture_output=True, check=False).returncode == 0:
            yield path


if __name__ == "__main__":
    print(f"Python {', '.join('.'.join(map(str, version)) for version in pythons())}; {', '.join(lowest_versions())}")
