"""README's services from a file: its commands, one after another, do what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from docutils import nodes
from docutils.core import publish_doctree

from tests.conftest import need
from tests.integration.twistd import PROJECT, environment

SECTION: Final = "Two services, from a file"
END: Final = "kill %1 $(grep -h . *.pid)"
PROMPT: Final = "$ "
ANYTHING: Final = "…"
"""Stands for what differs from place to place."""
LONG_S: Final = 60
ALONE: Final = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""A network whose ports are all free, and where every process ends with the shell."""
COMMANDS: Final = {
    "twistd": "-c 'from twisted.scripts.twistd import run; run()'",
    "rproxy": "-m rproxy",
    "python3": "",
}
"""What an environment has in which the program is installed, as arguments of this Python."""


def blocks() -> list[str]:
    """The literal blocks of the section."""
    text = (PROJECT / "README.rst").read_text(encoding="utf-8")
    assert END in text
    sections = {each[0].astext(): each for each in publish_doctree(text).findall(nodes.section)}
    return [block.astext() for block in sections[SECTION].findall(nodes.literal_block)]


def session(text: str) -> list[tuple[str, str]]:
    """The commands of a terminal session, each with what it prints."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith(PROMPT):
            found.append((line.removeprefix(PROMPT), ""))
        else:
            command, printed = found[-1]
            found[-1] = command, f"{printed}{line}\n"
    return found


def installed(folder: Path) -> Mapping[str, str]:
    """The environment of a shell that has the commands, made in that folder."""
    folder.mkdir()
    for name, arguments in COMMANDS.items():
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        command.chmod(0o755)
    given = environment()
    return {**given, "PATH": f"{folder}:{given['PATH']}"}


def test_the_commands_of_two_services_do_what_they_say(tmp_path: Path) -> None:
    need("nginx", "curl", "unshare", "ip", root=True)
    commands, shown = blocks()
    work = tmp_path / "work"
    work.mkdir()
    steps = session(shown)
    lines = ["set -e", "ip link set lo up", commands]
    for number, (command, _) in enumerate(steps):
        lines += [f"( {command} ) > ../{number}.out 2> ../{number}.err", "sleep 1"]
    lines += [END, "for i in $(seq 100); do ls *.pid || exit 0; sleep 0.1; done; exit 1"]
    done = subprocess.run(
        [*ALONE, "bash", "-c", "\n".join(lines)],
        cwd=work,
        env=installed(tmp_path / "bin"),
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG_S,
    )
    for number, (command, expected) in enumerate(steps):
        printed = _text(tmp_path / f"{number}.out").replace("\r\n", "\n")
        pattern = re.escape(expected).replace(ANYTHING, ".*")
        assert re.fullmatch(pattern, printed), (command, printed, _text(tmp_path / f"{number}.err"), done.stderr)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in (work / "rproxy.log").read_text()


def _text(path: Path) -> str:
    """What a command has written; a note where it was not reached."""
    return path.read_text() if path.exists() else "(not reached)"
