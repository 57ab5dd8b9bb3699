"""Walks through the manual: the commands of a section, one after another, print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from docutils import nodes
from docutils.core import publish_doctree

from tests.integration.twistd import PROJECT, environment

PROMPT: Final = "$ "
ANYTHING: Final = "…"
"""Stands for what differs from place to place."""
LONG_S: Final = 90
ALONE: Final = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""A network whose ports are all free, and where every process ends with the shell."""
COMMANDS: Final = {
    "twistd": "-c 'from twisted.scripts.twistd import run; run()'",
    "rproxy": "-m rproxy",
    "python3": "",
}
"""What an environment has in which the program is installed, as arguments of this Python."""


def blocks(path: str, section: str) -> list[str]:
    """The literal blocks of a section of a page."""
    text = (PROJECT / path).read_text(encoding="utf-8")
    settings = {"report_level": 5}  # pages have roles and links of the manual's own
    sections = {
        each[0].astext(): each for each in publish_doctree(text, settings_overrides=settings).findall(nodes.section)
    }
    return [block.astext() for block in sections[section].findall(nodes.literal_block)]


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
    return {**given, "PATH": f"{folder}:{given['PATH']}:/usr/sbin"}


def walk(folder: Path, texts: Sequence[str], end: str, *, pause_s: int = 0) -> Path:
    """Run these blocks, and `end` at last, which ends all processes. Returns where they were run.

    A block is a script, or a session, whose output is compared; `pause_s` follows each command of one.
    """
    work = folder / "work"
    work.mkdir()
    steps: list[tuple[str, str]] = []
    lines = ["set -e", "ip link set lo up"]
    for text in texts:
        if not text.startswith(PROMPT):
            lines.append(text)
            continue
        for command, printed in session(text):
            lines += [f"( {command} ) > ../{len(steps)}.out 2> ../{len(steps)}.err", f"sleep {pause_s}"]
            steps.append((command, printed))
    lines += [end, "for i in $(seq 100); do ls *.pid || exit 0; sleep 0.1; done; exit 1"]
    done = subprocess.run(
        [*ALONE, "bash", "-c", "\n".join(lines)],
        cwd=work,
        env=installed(folder / "bin"),
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG_S,
    )
    for number, (command, expected) in enumerate(steps):
        printed = _text(folder / f"{number}.out").replace("\r\n", "\n")
        pattern = re.escape(expected).replace(ANYTHING, ".*")
        assert re.fullmatch(pattern, printed), (command, printed, _text(folder / f"{number}.err"), done.stderr)
    assert done.returncode == 0, done.stderr
    return work


def _text(path: Path) -> str:
    """What a command has written; a note where it was not reached."""
    return path.read_text() if path.exists() else "(not reached)"
