"""Makes the model of what the options and a file say together; options win."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from rproxy.config.file_errors import FileErrors
from rproxy.config.file_schema import SERVICE_TABLE, proxy_table
from rproxy.config.given import FileValues, OptionValues, Values
from rproxy.config.kinds import filled
from rproxy.config.mistakes import mistakes
from rproxy.config.model import DEMO_ADMIN_PORT, LOOPBACK, ProxyConfig, ServiceConfig
from rproxy.config.schema import TIMING
from rproxy.config.validators import ConfigError
from rproxy.net.binding import widest
from rproxy.sources.agents.prober import Timing

SERVICE: Final = "service"
SEVERAL_PORT: Final = 80
"""The service port of the agents of a service that names none, where there are several services."""
_OF_AGENTS: Final = ("monitor", "keyring", "allow", "demo")
"""Keys of the process that are for agents alone."""


def assembled(options: OptionValues, file: FileValues | None = None) -> ProxyConfig:
    """The model. Raises `ConfigError`: for a file, `FileErrors` with everything that is wrong."""
    config, errors = combined(options, file)
    if errors:
        raise errors[0] if file is None else FileErrors(file.name, errors)
    return config


def combined(options: OptionValues, file: FileValues | None = None) -> tuple[ProxyConfig, list[ConfigError]]:
    """The model, in which tables of the file with errors have their defaults, and everything that is wrong."""
    given = FileValues() if file is None else file
    proxy = {**(given.proxy or {}), **options.proxy}
    config = ProxyConfig(
        services=_services(options, given, is_for_agents=any(proxy.get(name) for name in _OF_AGENTS)),
        file=given.path,
        prefix="--" if file is None else "proxy.",
        options=frozenset(options.proxy),
        **_process({**options.environment, **proxy}),
    )
    return config, [*given.errors, *mistakes(config, options, given)]


def _process(given: Values) -> dict[str, Any]:
    fields = filled(proxy_table(None), given)
    timing = {key.field: fields.pop(key.field) for key in TIMING.values() if key.field in fields}
    monitors = fields.get("monitors", ProxyConfig().monitors)
    if fields.get("demo"):  # its agents are on this host, so that others need not reach it
        monitors = tuple((host or LOOPBACK, port) for host, port in monitors)
        if not {"admin", "admin_path"} & fields.keys():
            fields |= {"admin": (LOOPBACK, DEMO_ADMIN_PORT), "admin_names": (LOOPBACK,), "admin_is_default": True}
    fields["monitors"] = widest(monitors)
    return {**fields, "timing": Timing(**timing)}


def _services(options: OptionValues, file: FileValues, *, is_for_agents: bool) -> tuple[ServiceConfig, ...]:
    """Those of the file, or the command line's one."""
    if not file.services:
        return (_service(options, {}, {}),)
    alone = len(file.services) == 1
    services: list[ServiceConfig] = []
    for number, values in enumerate(file.services):
        given = values or {}
        fields = _of_file(given, number)
        port = {**given, **options.service}.get("backend-port", None if alone else SEVERAL_PORT)
        takes_agents = not given.get("backend") or bool({"backend-port", "from"} & given.keys())
        fields |= {"service_port": port, "takes_agents": takes_agents or (alone and is_for_agents)}
        if "name" not in given and any(fields["name"] == each.name for each in services):
            fields["name"] = f"{SERVICE}[{number}]"
        services.append(_service(options, given, fields))
    return tuple(services)


def _of_file(given: Values, number: int) -> dict[str, Any]:
    """Fields that follow from a service's place in the file."""
    prefix = f"{SERVICE}[{number}]."
    backends = given.get("backend", ())
    listeners = given["listen"]["listen"] if "listen" in given else ()
    return {
        "prefix": prefix,
        "name": given.get("name") or (listeners[0] if listeners else ServiceConfig().name),
        "backends": tuple(
            attrs.evolve(each, prefix=f"{prefix}backend[{index}].") for index, each in enumerate(backends)
        ),
    }


def _service(options: OptionValues, given: Values, fields: Mapping[str, Any]) -> ServiceConfig:
    """The service of the values that a file has `given`, and of further `fields`."""
    whole = {**filled(SERVICE_TABLE, {**given, **options.service}), **fields}
    own = dict(whole.get("policy_options", {}))
    if "saturation" in options.service:
        own.pop("saturation", None)
    whole["policy_options"] = {**own, **options.policy_options}
    if whole.get("shadow") is not None:
        whole["shadow_options"] = {**whole["shadow_options"], **options.shadow_options}
    return ServiceConfig(options=frozenset(options.service), **whole)
