"""A missing program skips a test with the reason; in CI the test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = {
    "test_program.py": "from conftest import need\ndef test_it(): need('sh', 'mini_httpd')\n",
    "test_root.py": "from conftest import need\ndef test_it(): need(root=True)\n",
    "test_module.py": "import pytest\npytest.skip('too hard', allow_module_level=True)\n",
    "test_xfail.py": "import pytest\n@pytest.mark.xfail\ndef test_it(): raise ValueError\n",
    "sitecustomize.py": "import os\nos.geteuid = lambda: 1000\n",
    "pytest.ini": "[pytest]\n",
}


@pytest.mark.parametrize(
    ("ci", "summary", "status"),
    [
        pytest.param("", "3 skipped, 1 xfailed", 0, id="by hand"),
        pytest.param("true", "2 failed, 1 xfailed, 1 error", 1, id="in CI"),
    ],
)
def test_what_is_lacking_skips_and_in_ci_fails(tmp_path: Path, ci: str, summary: str, status: int) -> None:
    tests = Path(__file__).parent
    shutil.copy(tests / "conftest.py", tmp_path)
    tmp_path.joinpath("tests").mkdir()
    shutil.copy(tests / "parallel.py", tmp_path / "tests")
    for name, text in MODULES.items():
        tmp_path.joinpath(name).write_text(text)
    tmp_path.joinpath("bin").mkdir()
    tmp_path.joinpath("bin", "sh").symlink_to("/bin/sh")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "--continue-on-collection-errors"],
        cwd=tmp_path,
        env={
            **os.environ,
            "CI": ci,
            "PATH": str(tmp_path / "bin"),
            "PYTHONPATH": str(tmp_path),
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    for reason in ("needs apt-get install mini-httpd", "needs root", "too hard"):
        assert reason in done.stdout
    assert summary in done.stdout
    assert done.returncode == status
