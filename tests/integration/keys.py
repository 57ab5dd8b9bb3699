"""Key files, made by the project's own command as a user makes them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.integration.polling import READY_S
from tests.integration.twistd import environment

PART: Final = 16
"""Digits of a key: nobody writes so many of them by chance."""


class Keys:
    """Makes key files in `folder`, and knows every key that was in one of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: set[str] = set()

    def master(self, name: str) -> Path:
        """The file of a proxy: one new key."""
        return self._keygen(name)

    def derived(self, name: str, master: Path, agent: str, *options: str) -> Path:
        """The file of the agent at that address."""
        return self._keygen(name, "--agent", agent, "--keyring", str(master), *options)

    def further(self, master: Path) -> str:
        """The line of a new key, to stand in a file beside those of `master`."""
        return self._keygen("further", "--keyring", str(master)).read_text()

    def _keygen(self, name: str, *options: str) -> Path:
        """With its output redirected, by a shell that lets everybody read what it makes."""
        file = self._folder / name
        with file.open("wb") as output:
            subprocess.run(
                [sys.executable, "-m", "rproxy", "keygen", *options],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                check=True,
                timeout=READY_S,
            )
        self._known.update(re.findall(r"[0-9a-f]{64,}", file.read_text()))
        return file

    def told_by(self, text: str) -> list[str]:
        """The keys of which any part that tells one from another is in `text`."""
        text = text.lower()
        return [key for key in self._known if any(key[at : at + PART] in text for at in range(0, len(key), PART))]

    def assert_secret(self) -> None:
        """None is in any log, or in anything else that a program has said, in the folder."""
        assert self._known
        said = [file for file in self._folder.rglob("*") if file.suffix in (".log", ".err")]
        assert said
        assert [file for file in said if self.told_by(file.read_text(errors="replace"))] == []
