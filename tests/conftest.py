"""What every test may need of the machine: `need`. In CI (environment variable CI set) nothing may be skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from typing import Final

import pytest

PACKAGES: Final = {"ip": "iproute2", "mini_httpd": "mini-httpd"}
"""The Debian packages of programs that are not called like theirs."""


def need(*programs: str, root: bool = False) -> None:
    """Skip the test unless it runs as root, where it must, and the programs are there; the reason says what to do."""
    lacking = ["root"] if root and os.geteuid() != 0 else []
    missing = [PACKAGES.get(program, program) for program in programs if not shutil.which(program)]
    if missing:
        lacking.append(f"apt-get install {' '.join(missing)}")
    if lacking:
        pytest.skip(f"needs {' and '.join(lacking)}")


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
