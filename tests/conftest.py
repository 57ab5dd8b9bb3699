"""`need` checks for programs and root. In CI (environment variable CI set) a skipped test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from glob import glob
from pathlib import Path
from typing import Final

import pytest

from tests.parallel import (
    pytest_collection,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_protocol,
    pytest_xdist_make_scheduler,
)

__all__ = [
    "need",
    "output_of",
    "pytest_collection",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_protocol",
    "pytest_xdist_make_scheduler",
]

PACKAGES: Final = {
    "chromedriver": "chromium chromium-driver",
    "halog": "haproxy",
    "initdb": "postgresql",
    "ip": "iproute2",
    "libfaketime.so.1": "libfaketime",
    "mini_httpd": "mini-httpd",
    "nft": "nftables",
    "nginx": "nginx-light libnginx-mod-stream",
    "nsenter": "util-linux",
    "pgbench": "postgresql",
    "postgres": "postgresql",
    "promtool": "prometheus",
    "psql": "postgresql",
    "redis-benchmark": "redis-tools",
    "redis-cli": "redis-tools",
    "scp": "openssh-client",
    "setpriv": "util-linux",
    "ss": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
    "taskset": "util-linux",
    "unshare": "util-linux",
}
"""Debian packages by program, where the names differ."""
POSTGRESQL: Final = "/usr/lib/postgresql/*/bin"
"""Debian's folder for PostgreSQL programs, which is not on PATH."""
LIBRARIES: Final = {"libfaketime.so.1": "/usr/lib/*/faketime/libfaketime.so.1"}
"""Shared libraries for LD_PRELOAD, by name."""


def need(*programs: str, root: bool = False) -> list[str]:
    """The paths of programs, or of `LIBRARIES`. Skips the test, and says what for, if one is missing or if it must be
    root and is not.
    """
    lacking = ["root"] if root and os.geteuid() != 0 else []
    paths = {program: _path(program) for program in programs}
    missing = dict.fromkeys(PACKAGES.get(program, program) for program, path in paths.items() if not path)
    if missing:
        lacking.append(f"apt-get install {' '.join(missing)}")
    if lacking:
        pytest.skip(f"needs {' and '.join(lacking)}")
    return [path for path in paths.values() if path]


def output_of(program: str, *arguments: str, folder: Path) -> str:
    """What a program prints in `folder`, on either stream. It must succeed; see `need`."""
    (path,) = need(program)
    done = subprocess.run(
        [path, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _path(program: str) -> str | None:
    if program in LIBRARIES:
        return next(iter(glob(LIBRARIES[program])), None)
    folders = [os.environ.get("PATH", os.defpath), *glob(POSTGRESQL)]
    return shutil.which(program, path=os.pathsep.join(folders))


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"nothing may be skipped in CI: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report
