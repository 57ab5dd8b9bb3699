"""`rproxy systemd`: units that systemd finds nothing wrong with, and that give an intruder little."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from rproxy.tap import systemd
from rproxy.tap.command import main
from tests.conftest import output_of

Captured = pytest.CaptureFixture[str]
EXPOSURE_MAX: Final = 2.0
SERVICES: Final = [name for name in systemd.NAMES if name.endswith(".service")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where all units are."""
    for name in systemd.NAMES:
        tmp_path.joinpath(name).write_text(systemd.unit(name))
    return tmp_path


def analyze(folder: Path, *arguments: str) -> str:
    return output_of("systemd-analyze", *arguments, folder=folder)


def test_systemd_finds_nothing_wrong_with_any(folder: Path) -> None:
    assert analyze(folder, "verify", *[f"./{name}" for name in systemd.NAMES]) == ""


@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_is_small(folder: Path, name: str) -> None:
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", analyze(folder, "security", "--offline=true", name))
    assert found is not None
    assert float(found[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("name", systemd.NAMES)
def test_a_unit_is_printed_by_its_name(capfd: Captured, name: str) -> None:
    assert main(["systemd", name]) == 0
    assert capfd.readouterr() == (systemd.unit(name), "")
    assert not re.search("@[A-Z]", systemd.unit(name))  # nothing is left to be filled in


def test_without_a_name_all_are_printed_with_their_files(capfd: Captured) -> None:
    assert main(["systemd"]) == 0
    printed, _ = capfd.readouterr()
    for name in systemd.NAMES:
        assert f"# /etc/systemd/system/{name}\n{systemd.unit(name)}" in printed


def test_an_unknown_name_is_one_line(capfd: Captured) -> None:
    assert main(["systemd", "rproxy.timer"]) == 2
    assert capfd.readouterr() == (
        "",
        "rproxy systemd: error: there is no unit 'rproxy.timer', but rproxy.service, rproxy.socket, "
        "rproxy-agent.service\n",
    )


def test_it_starts_this_installations_twistd() -> None:
    (command,) = re.findall("^ExecStart=(\\S+)", systemd.unit("rproxy.service"), re.MULTILINE)
    assert command == os.path.join(os.path.dirname(sys.executable), "twistd")
    assert os.access(command, os.X_OK)


@pytest.mark.parametrize(
    ("prefix", "protection"), [("/opt/rproxy", "yes"), ("/home/me/venv", "read-only"), ("/root/venv", "read-only")]
)
def test_an_installation_in_a_home_is_not_hidden(monkeypatch: pytest.MonkeyPatch, prefix: str, protection: str) -> None:
    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    for name in SERVICES:
        assert f"\nProtectHome={protection}\n" in systemd.unit(name)
