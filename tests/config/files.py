"""Configuration files: what they come to, and how they complain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rproxy.config.model import ProxyConfig, ServiceConfig
from tests.config.commands import parsed

NAME = "rproxy.toml"


def toml(folder: Path, text: str) -> str:
    """The path of a file with that text."""
    path = folder / NAME
    path.write_text(text, encoding="utf-8")
    return str(path)


def file_config(
    folder: Path, text: str, *options: str, allow: tuple[str, ...] = ("--allow", "0.0.0.0/0")
) -> ProxyConfig:
    """What a file and options come to; any host may register unless `allow` says otherwise."""
    return parsed("--config", toml(folder, text), *options, allow=allow).config


def only_service(folder: Path, text: str, *options: str) -> ServiceConfig:
    """The one service of a file that has `text` in it."""
    (service,) = file_config(folder, f'[[service]]\nlisten = "80"\n{text}', *options).services
    return service


def errors_of(folder: Path, text: str, *options: str, allow: tuple[str, ...] = ("--allow", "0.0.0.0/0")) -> list[str]:
    """The lines that the command ends with, without its name and the file's folder."""
    path = toml(folder, text)
    with pytest.raises(SystemExit) as ended:
        parsed("--config", path, *options, allow=allow)
    lines = str(ended.value.code).split("\n")
    assert all(line.startswith("twistd rproxy: ") for line in lines)
    return [line.removeprefix("twistd rproxy: ").replace(f"{path}: ", f"{NAME}: ", 1) for line in lines]


def error_of(folder: Path, text: str, *options: str, **more: Any) -> str:
    """The only line, without the file's name."""
    (line,) = errors_of(folder, text, *options, **more)
    assert line.startswith(f"{NAME}: ")
    return line.removeprefix(f"{NAME}: ")
