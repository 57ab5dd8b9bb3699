"""What of a changed configuration a running process can use, and what has to wait for its next start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from rproxy.config.file_schema import proxy_table
from rproxy.config.mistakes import admitted_unasked, unguarded
from rproxy.config.model import ProxyConfig
from rproxy.config.schema import TIMING

_CHANGEABLE: Final = {
    *("services", "allow", "max_connections", "drain_timeout_s", "access_log", "access_log_format"),
    "admin_token_file",
    *("prefix", "options", "file"),
}
"""Fields of the configuration that may change at any time; `keyring` may, if there is one before and after."""
_ADMIN: Final = ("admin", "admin_names", "admin_path")


def in_force(before: ProxyConfig, after: ProxyConfig, *, monitored: bool) -> ProxyConfig:
    """`after`, as far as it can be used without a restart; of the rest, `before`.

    The ports for agents may change until they are `monitored`, that is, open. Raises `ConfigError` if the two together
    would let any host register, or see what only operators may.
    """
    fields = {field.name for field in attrs.fields(ProxyConfig)} - _CHANGEABLE
    if before.keyring is not None and after.keyring is not None:
        fields.discard("keyring")
    if not monitored:
        fields.discard("monitors")
    mixed = attrs.evolve(after, **{name: getattr(before, name) for name in fields})
    for error in unguarded(mixed):
        raise error
    new = {error.key for error in admitted_unasked(after)}
    for error in admitted_unasked(mixed):
        if error.key not in new:
            raise error
    return mixed


def waiting(used: ProxyConfig, after: ProxyConfig) -> list[str]:
    """The keys that `after` changes and a restart has to wait for; `used` is what `in_force` made of it."""
    return [after.key(name) for name in _waiting(used, after)]


def _waiting(used: ProxyConfig, after: ProxyConfig) -> Iterator[str]:
    for name, key in proxy_table(None).items():
        fields = [key.field] if key.field else _ADMIN
        first, second = (used.timing, after.timing) if name in TIMING else (used, after)
        if name == "keyring":
            if (used.keyring is None) is not (after.keyring is None):
                yield name
        elif any(getattr(first, field) != getattr(second, field) for field in fields):
            yield name
