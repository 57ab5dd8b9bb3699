"""The limits that the proxy sets itself, or refuses, before it starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.conftest import Starter
from tests.integration.test_commands import PROXY, assert_it_says_in_one_line
from tests.integration.twistd import run_twistd, shell


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(start: Starter) -> None:
    proxy = start.proxy(wrapper=shell("ulimit -Sn 64 && ulimit -Hn 2000"))
    limits = Path(f"/proc/{proxy.pid}/limits").read_text()
    assert re.findall(r"Max open files +(\d+) +(\d+)", limits) == [("2000", "2000")]


def test_more_connections_than_descriptors_allow_are_refused(tmp_path: Path) -> None:
    done = run_twistd(tmp_path, *PROXY, "--max-connections", "1000", prefix=shell("ulimit -n 1000"))
    assert_it_says_in_one_line(done, tmp_path, "--max-connections 1000")


def test_the_file_that_wants_more_connections_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rproxy.toml"
    path.write_text("[proxy]\nmax-connections = 1001\n")
    done = run_twistd(tmp_path, *PROXY, "--config", str(path), prefix=shell("ulimit -n 1000"))
    assert_it_says_in_one_line(done, tmp_path, f"{path}: proxy.max-connections: 1001: ")


def test_descriptors_for_no_session_at_all_are_refused(tmp_path: Path) -> None:
    done = run_twistd(tmp_path, *PROXY, prefix=shell("ulimit -n 40"))
    assert_it_says_in_one_line(done, tmp_path, "40 open files")


WRONG = [
    "--max-connections -1",
    "--max-connections many",
    "--idle-timeout -1",
    "--idle-timeout nan",
    "--half-close-timeout soon",
    "--carrier pigeon",
]


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_limit_is_named(tmp_path: Path, option: str) -> None:
    done = run_twistd(tmp_path, *PROXY, *option.split())
    assert_it_says_in_one_line(done, tmp_path, option)
