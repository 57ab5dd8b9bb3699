"""The built wheel and the editable install, in fresh environments: twistd finds its two commands from any folder.

Packaging that discovers packages by itself drops `twisted.plugins` without a word, and an `__init__.py` in there would
replace Twisted's own: neither shows in the project's folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.install

PROJECT = Path(__file__).parents[2]
COMMANDS = {"rproxy", "rproxy-agent"}


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that must succeed, with nothing of this test's own environment in its way."""
    env = {name: value for name, value in os.environ.items() if not re.match("PYTHONPATH|VIRTUAL_ENV|PYTEST_", name)}
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


class Environment:
    """A virtual environment."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "venv" / "bin"
        self._elsewhere = folder / "empty"
        self._elsewhere.mkdir()
        self._has_ours = False
        run(sys.executable, "-m", "venv", self._bin.parent, cwd=folder)

    def install(self, wheel: Path) -> None:
        """Ours, unless it is there."""
        if not self._has_ours:
            self.run("pip", "install", wheel)
            self._has_ours = True

    def uninstall(self) -> None:
        self.run("pip", "uninstall", "--yes", "rproxy")
        self._has_ours = False

    def run(self, program: str, *arguments: str | Path) -> str:
        return run(self._bin / program, *arguments, cwd=self._elsewhere)

    def listed(self, folder: Path | None = None) -> set[str]:
        """Which of our commands `twistd --help` shows when it runs in `folder`."""
        shown = run(self._bin / "twistd", "--help", cwd=folder or self._elsewhere)
        return COMMANDS & {line.split()[0] for line in shown.splitlines() if line.strip()}


def tracked_files() -> list[str]:
    """Empty where there is no git, or no clone."""
    if not shutil.which("git"):
        return []
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    return listed.stdout.rstrip("\0").split("\0") if listed.returncode == 0 else []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean clone's files, or all of them where there is no clone."""
    source = tmp_path_factory.mktemp("clone") / "rproxy"
    if names := tracked_files():
        for name in names:
            source.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, source / name)
    else:
        shutil.copytree(PROJECT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info"))
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", built, source, cwd=source)
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def installed(environment: Environment, wheel: Path) -> Environment:
    environment.install(wheel)
    return environment


def test_wheel_adds_one_plugin_file_to_twisted_and_replaces_none(wheel: Path) -> None:
    with ZipFile(wheel) as files:
        names = files.namelist()
    assert [name for name in names if name.startswith("twisted/")] == ["twisted/plugins/rproxy_plugin.py"]


def test_wheel_has_every_file_of_the_package(source: Path, wheel: Path) -> None:
    with ZipFile(wheel) as packing:
        packed = {name for name in packing.namelist() if name.startswith("rproxy/")}
    files = (path for path in source.joinpath("rproxy").rglob("*") if path.is_file() and path.suffix != ".pyc")
    there = {str(path.relative_to(source)) for path in files}
    assert {"rproxy/py.typed", "rproxy/docs/operating.rst", "rproxy/config/starting.toml"} <= there
    assert packed == there


def test_installed_wheel_is_found_from_any_folder(installed: Environment) -> None:
    assert installed.listed() == COMMANDS
    assert installed.listed(Path("/")) == COMMANDS


@pytest.mark.parametrize(("command", "option"), [("rproxy", "--listen"), ("rproxy-agent", "--interval")])
def test_installed_command_explains_its_options(installed: Environment, command: str, option: str) -> None:
    assert option in installed.run("twistd", command, "--help")


def test_installed_script_and_module_make_keys_that_the_commands_take(installed: Environment, tmp_path: Path) -> None:
    keys = tmp_path / "rproxy.keys"
    keys.touch(mode=0o600)
    keys.write_text(installed.run("rproxy", "keygen"))
    derived = installed.run("python", "-m", "rproxy", "keygen", "--agent", "10.1.1.1", "--keyring", keys)
    assert re.search(r"^1 agent:[0-9a-f]{64}$", derived, re.MULTILINE)


def test_installed_script_shows_the_manual(installed: Environment, source: Path) -> None:
    topics = [line.split()[0] for line in installed.run("rproxy", "docs").splitlines()]
    assert topics == sorted(path.stem for path in source.joinpath("rproxy", "docs").glob("*.rst"))
    for topic in topics:
        assert installed.run("rproxy", "docs", topic) == source.joinpath("rproxy", "docs", f"{topic}.rst").read_text()


def test_installed_script_prints_a_file_that_it_takes(installed: Environment, tmp_path: Path) -> None:
    path = tmp_path / "rproxy.toml"
    path.write_text(installed.run("rproxy", "config"))
    assert "service web" in installed.run("rproxy", "check", path).splitlines()


def test_after_uninstalling_twisted_works_without_our_commands(installed: Environment) -> None:
    assert installed.listed() == COMMANDS
    installed.uninstall()
    assert installed.listed() == set()
    installed.run("python", "-c", "import twisted.plugins, twisted.web")


def test_editable_install_is_found_from_any_folder(environment: Environment, source: Path) -> None:
    environment.run("pip", "install", "--editable", source)
    try:
        found = {folder: environment.listed(folder) for folder in (None, Path("/"), source)}
        environment.run("python", "-c", "import twisted.plugins, twisted.web")
    finally:
        environment.uninstall()
    assert found == dict.fromkeys(found, COMMANDS)
