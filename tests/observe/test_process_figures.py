"""This process as the system tells of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from rproxy.observe import process_figures as module
from rproxy.observe.process_figures import open_descriptors, process_figures

COUNTING: Final = """
import os
from tests.observe.test_process_figures import counted, listed
before, _ = counted()
descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
print(before, counted()[0], listed())
"""


def counted() -> tuple[int | None, int]:
    """The number of descriptors, and how many steps it took."""
    counting, steps = open_descriptors(), 0
    try:
        while True:
            assert next(counting) == b""
            steps += 1
    except StopIteration as end:
        return end.value, steps


def listed() -> int:
    """Without that of the folder itself."""
    return len(os.listdir("/proc/self/fd")) - 1


def test_descriptors_are_counted() -> None:
    """In a process of its own: what other tests have left open may be closed at any time."""
    project = Path(__file__).parents[2]
    counting = subprocess.check_output([sys.executable, "-c", COUNTING], cwd=project, text=True)
    before, after, there = map(int, counting.split())
    assert after == before + 20 == there


def test_where_the_kernel_has_no_number_they_are_listed_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    stat: Any = os.stat

    class Sizeless:
        st_size = 0
        st_mode = stat("/proc").st_mode

    monkeypatch.setattr(os, "stat", lambda path, *more, **named: Sizeless if "self/fd" in str(path) else stat(path))
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    found, steps = counted()
    assert found == listed()
    assert steps == (found + 1) // 2


def test_without_such_a_folder_their_number_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_FOLDERS", (str(tmp_path / "none"),))
    assert counted() == (None, 0)


def test_the_figures_are_this_process_own() -> None:
    figures = process_figures(7)
    assert figures.open_fds == 7
    assert figures.cpu_seconds == pytest.approx(time.process_time(), abs=0.5)
    assert 0 < figures.resident_bytes < figures.virtual_bytes
    assert 0 < time.time() - figures.started < 86400
    assert figures.max_fds is None or figures.max_fds > 0
