"""`--access-log` and its keys: a path, or a word that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.config.validators import ConfigError
from rproxy.tap.plan import described
from tests.config.commands import config_of
from tests.config.files import file_config


def test_a_path_is_relative_to_the_folder_or_to_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert config_of().access_log is None
    assert config_of("--access-log", "x/y").access_log == "/x/y"
    assert file_config(tmp_path, '[proxy]\naccess-log = "x/y"').access_log == str(tmp_path / "x" / "y")
    assert file_config(tmp_path, '[proxy]\naccess-log = "./journal"').access_log == str(tmp_path / "journal")


@pytest.mark.parametrize("word", ["-", "journal"])
def test_a_word_is_no_path(tmp_path: Path, word: str) -> None:
    assert config_of("--access-log", word).access_log == word
    assert file_config(tmp_path, f'[proxy]\naccess-log = "{word}"').access_log == word


def test_an_empty_option_turns_that_of_the_file_off(tmp_path: Path) -> None:
    assert file_config(tmp_path, '[proxy]\naccess-log = "a"', "--access-log", "").access_log is None


def test_there_are_three_formats(tmp_path: Path) -> None:
    assert config_of().access_log_format == "text"
    assert config_of("--access-log-format", "haproxy").access_log_format == "haproxy"
    assert file_config(tmp_path, '[proxy]\naccess-log-format = "json"').access_log_format == "json"
    with pytest.raises((ConfigError, SystemExit), match="--access-log-format xml: must be text, json or haproxy"):
        config_of("--access-log-format", "xml")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--access-log", "/var/log/a"), "a line for each session (text) in /var/log/a"),
        (("--access-log", "-", "--access-log-format", "json"), "a line for each session (json) in standard output"),
        (("--access-log", "journal"), "a line for each session (text) in the journal"),
    ],
)
def test_the_plan_says_where_the_lines_go(options: tuple[str, ...], line: str) -> None:
    assert f"  {line}" in list(described(config_of(*options), {}))
    assert "session (" not in "".join(described(config_of(), {}))
