"""Reads a configuration file: TOML, structured by cattrs, with every error that is in it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final, Required, TypedDict

import attrs
from cattrs import Converter
from cattrs.errors import BaseValidationError, IterableValidationError, IterableValidationNote
from cattrs.gen import override
from cattrs.gen.typeddicts import make_dict_structure_fn

from rproxy.config.file_errors import FileErrors, flattened, unknown_keys
from rproxy.config.file_schema import SERVICE_TABLE, proxy_table
from rproxy.config.given import FileValues, Values
from rproxy.config.kinds import Key, Kind, Table, filled
from rproxy.config.validators import ConfigError
from rproxy.net.files import open_regular

BYTES_MAX: Final = 1 << 20
PROXY: Final = "proxy"
SERVICE: Final = "service"

Hook = Callable[[Any, Any], Any]
"""How cattrs structures a value: gets it and its type. Raises `ConfigError` or cattrs' `BaseValidationError`."""


def read_file(path: str, name: str, owner: int | None = None) -> FileValues:
    """The values of the file at an absolute path. `owner` is as for `keyfile.read_keys`.

    Raises `FileErrors` if it is no TOML at all.
    """
    try:
        tables = _tables(path)
    except ConfigError as error:
        raise FileErrors(name, [error]) from None
    return attrs.evolve(_Reader(os.path.dirname(path), owner).read(tables), name=name, path=path)


def starting_file() -> str:
    """A file to begin with, which works as it is."""
    return files("rproxy.config").joinpath("starting.toml").read_text("utf-8")


def _tables(path: str) -> dict[str, Any]:
    """The file as TOML. Raises `ConfigError`."""
    try:
        with open_regular(path) as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from None
    if len(data) > BYTES_MAX:
        raise ConfigError(f"it is longer than {BYTES_MAX} bytes")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"it is not a text in UTF-8 (at line {line}, byte {data[error.start]:#04x})") from None
    except RecursionError:
        raise ConfigError("its values are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what Python says of a number of thousands of digits
        raise ConfigError(str(error).replace("\n", " ")) from None


class _Reader:
    """Structures the tables of one file, and keeps every error."""

    def __init__(self, folder: str, owner: int | None) -> None:
        self._folder = folder
        self._converter = Converter()
        tables = {PROXY: Table(proxy_table(owner), dict), SERVICE: Table(SERVICE_TABLE, dict)}
        self._read = {name: self._structured(table) for name, table in tables.items()}
        self._known = {"": list(tables)}
        for name, table in tables.items():
            self._known |= _names(name, table)
        self._errors: list[ConfigError] = []

    def read(self, tables: dict[str, Any]) -> FileValues:
        """Everything in the file."""
        self._errors += unknown_keys(tables.keys() - self._read.keys(), "", self._known)
        proxy = self._table(PROXY, tables.get(PROXY, {}), PROXY)
        services = tables.get(SERVICE, [])
        if not isinstance(services, list):
            self._errors.append(ConfigError("must be a list of tables: [[service]], in two brackets", SERVICE))
            services = []
        values = [self._table(SERVICE, each, f"{SERVICE}[{number}]") for number, each in enumerate(services)]
        return FileValues(proxy, values, self._errors)

    def _table(self, name: str, value: Any, path: str) -> Values | None:
        """The values of a table by the names of its keys; None if there are errors."""
        try:
            values: Values = self._read[name](value)
        except (ConfigError, BaseValidationError) as error:
            self._errors += flattened(error, path, self._known)
            return None
        return values

    def _structured(self, table: Table) -> Callable[[Any], Any]:
        """Reads a table, and gives its values by the names of its keys."""
        kind: Any = TypedDict(  # type: ignore[misc] # the keys are data
            "Table", {name: Required[Any] if name in table.required else Any for name in table.keys}, total=False
        )
        hooks: dict[str, Any] = {name: override(struct_hook=self._hook(key)) for name, key in table.keys.items()}
        read = make_dict_structure_fn(
            kind, self._converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True, **hooks
        )

        def structure(value: Any) -> Any:
            if not isinstance(value, dict):
                raise ConfigError(f"must be {table.expected}", value=value)
            return read(value, kind)

        return structure

    def _hook(self, key: Key) -> Hook:
        one = self._built(key.kind) if isinstance(key.kind, Table) else self._single(key.kind)
        return one if key.collect is None else _list(one, key.collect)

    def _single(self, kind: Kind) -> Hook:
        return lambda value, _: kind.of_file(value, self._folder)

    def _built(self, table: Table) -> Hook:
        """Makes what a table that is a key of another one stands for."""
        structured, short = self._structured(table), table.short

        def build(value: Any, _: Any) -> Any:
            if short is not None and not isinstance(value, dict):
                return short.of_file(value, self._folder)
            return table.build(filled(table.keys, structured(value)))

        return build


def _list(one: Hook, collect: Callable[[list[Any]], Any]) -> Hook:
    """Structures a list, or a single value for a list of one."""

    def structure(value: Any, kind: Any) -> Any:
        if not isinstance(value, list):
            return collect([one(value, kind)])
        values, errors = [], []
        for index, each in enumerate(value):
            try:
                values.append(one(each, kind))
            except (ConfigError, BaseValidationError) as error:
                error.add_note(IterableValidationNote(f"element {index}", index, kind))
                errors.append(error)
        if errors:
            raise IterableValidationError("elements", errors, list)
        return collect(values)

    return structure


def _names(name: str, table: Table) -> dict[str, list[str]]:
    """The names of the keys of a table, and of the tables in it, by the table's name."""
    names = {name: list(table.keys)}
    for each, key in table.keys.items():
        if isinstance(key.kind, Table):
            names |= _names(f"{name}.{each}", key.kind)
    return names
