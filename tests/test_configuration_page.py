"""The page of all keys of the configuration file: it has what the program takes, and what it takes by default."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from rproxy.config.file_schema import SERVICE_TABLE, proxy_table
from rproxy.config.kinds import Key, Kind, Table
from rproxy.config.model import BackendConfig, BackendLimits, ProxyConfig, SendTlsConfig, ServiceConfig, TlsConfig
from rproxy.tap import docs
from tests.config.files import file_config
from tests.config.keyfiles import FIRST, key_file
from tests.test_docs import table

PAGE: Final = docs.pages()["configuration"]
SERVICE: Final = '[[service]]\nname = "a"\nlisten = 80\n'
FILES: Final[dict[str, tuple[Mapping[str, Key] | Key, str]]] = {
    "``[proxy]``": (proxy_table(None), "[proxy]\n{}"),
    "``[[service]]``": (SERVICE_TABLE, f"{SERVICE}{{}}"),
    "``[service.backends]``": (SERVICE_TABLE["backends"], f"{SERVICE}[service.backends]\n{{}}"),
    "``[[service.backend]]``": (
        SERVICE_TABLE["backend"],
        f'{SERVICE}[[service.backend]]\naddress = "10.1.1.9:80"\n{{}}',
    ),
    "in ``listen``": (SERVICE_TABLE["listen"], '[[service]]\nname = "a"\n[[service.listen]]\naddress = 80\n{}'),
    "in ``tls``": (SERVICE_TABLE["tls"], f'{SERVICE}[service.tls]\ncertificate = "a.pem"\n{{}}'),
    "in ``send-tls``": (SERVICE_TABLE["send-tls"], f"{SERVICE}[service.send-tls]\n{{}}"),
}
"""By the heading of a table: its keys, and a file with a place for one of them."""
MODELS: Final[dict[str, type[Any]]] = {
    "``[proxy]``": ProxyConfig,
    "``[[service]]``": ServiceConfig,
    "``[service.backends]``": BackendLimits,
    "``[[service.backend]]``": BackendConfig,
    "in ``tls``": TlsConfig,
    "in ``send-tls``": SendTlsConfig,
}
"""By the same headings, what is made of them."""
BY_THE_FILE: Final = {"name", "backend-port"}
"""Keys whose default depends on the rest of the file."""

each_table: Final = pytest.mark.parametrize("heading", FILES)


def keys_of(heading: str) -> Mapping[str, Key]:
    keys, _ = FILES[heading]
    if isinstance(keys, Key):
        assert isinstance(keys.kind, Table)
        return keys.kind.keys
    return keys


def rows(heading: str) -> list[tuple[str, str, str]]:
    """Key, default and what is said of the value."""
    _, *found = table(f"{heading} ", PAGE)
    return [(name.strip("`"), default, value) for name, default, value in found]


@each_table
def test_every_key_is_on_the_page(heading: str) -> None:
    assert sorted(name for name, *_ in rows(heading)) == sorted(keys_of(heading))


def test_there_are_no_other_tables_of_keys() -> None:
    tables = {name for keys in (proxy_table(None), SERVICE_TABLE) for name in _tables(keys)}
    assert tables == {"backends", "backend", "listen", "tls", "send-tls"}
    assert len(re.findall(r"^\S.* default +value$", PAGE, re.MULTILINE)) == len(FILES)


def _tables(keys: Mapping[str, Key]) -> Iterator[str]:
    for name, key in keys.items():
        if isinstance(key.kind, Table):
            yield name
            yield from _tables(key.kind.keys)


@each_table
def test_the_range_of_every_key_is_the_programs(heading: str) -> None:
    for name, _, value in rows(heading):
        kind = keys_of(heading)[name].kind
        if isinstance(kind, Kind) and "such as" not in kind.expected:
            for bound in re.findall(r"\d+(?:\.\d+)?", kind.expected):
                assert re.search(rf"(?<![\d.]){re.escape(bound)}(?![\d.])", value), (name, bound)
            for choice in re.findall(r'"[^"]+"', kind.expected):
                assert choice in value, (name, choice)


@each_table
def test_the_default_of_every_key_is_the_programs(tmp_path: Path, heading: str) -> None:
    """Writing it changes nothing."""
    (tmp_path / "a.pem").touch()
    _, text = FILES[heading]
    without = file_config(tmp_path, text.format(""))
    for name, default, _ in rows(heading):
        if default.startswith("``") and default.endswith("``"):
            assert file_config(tmp_path, text.format(f"{name} = {default.strip('`')}")) == without, name
        elif name not in BY_THE_FILE:
            assert not default_of(heading, keys_of(heading)[name].field), name


def default_of(heading: str, field: str) -> Any:
    """The model's default; None where the field has none, or is of a table that has a heading of its own."""
    found = attrs.fields_dict(MODELS[heading]).get(field) if heading in MODELS else None
    return None if found is None or found.default is attrs.NOTHING or attrs.has(type(found.default)) else found.default


def test_the_example_is_right(tmp_path: Path) -> None:
    key_file(tmp_path, FIRST, name="rproxy.keys")
    begin = PAGE.index("::\n\n    [proxy]") + len("::\n\n")
    lines = PAGE[begin : PAGE.index("\n\nEverything has a default", begin)].splitlines()
    config = file_config(tmp_path, "\n".join(line.removeprefix("    ") for line in lines), allow=())
    assert [service.name for service in config.services] == ["web", "db"]
