"""The keys of the configuration, as a file would give them: names and values without an option's dashes."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from rproxy.config.kinds import Key, fields
from rproxy.config.model import AgentConfig, ProxyConfig, ServiceConfig
from rproxy.config.schema import AGENT, PROXY, SERVICE, TIMING
from rproxy.config.validators import ConfigError
from rproxy.sessions.redispatch import Redispatch
from rproxy.sources.agents.prober import Timing


@pytest.mark.parametrize(
    ("keys", "model"), [(SERVICE, ServiceConfig), (PROXY, ProxyConfig), (TIMING, Timing), (AGENT, AgentConfig)]
)
def test_every_key_fills_a_field_of_its_own(keys: dict[str, Key], model: type[Any]) -> None:
    filled = [key.field for key in keys.values() if key.field]
    assert len(set(filled)) == len(filled)
    assert set(filled) <= {field.name for field in attrs.fields(model)}


def test_values_of_a_file_are_read_as_those_of_options_are() -> None:
    given = {"idle-timeout": 60, "saturation": 0.9, "backend-port": 8000, "on-down": "keep", "policy": "random"}
    service = ServiceConfig(**fields(SERVICE, given, "service[1]."))
    assert service == ServiceConfig(
        idle_timeout_s=60, saturation=0.9, backend_port=8000, end_on_down=False, policy="random"
    )


def test_keys_that_are_not_given_keep_the_models_defaults() -> None:
    assert fields(PROXY, {"max-connections": None}) == {}


@pytest.mark.parametrize(
    ("keys", "name", "value", "message"),
    [
        (SERVICE, "saturation", 900, "service[1].saturation 900: must be from 0.001 to 1"),
        (SERVICE, "on-down", "reset", "service[1].on-down reset: must be end or keep"),
        (SERVICE, "redispatch-early", "some", "service[1].redispatch-early some: must be all, unsent or off"),
        (PROXY, "carrier", "fast", "service[1].carrier fast: must be auto, splice or portable"),
        (AGENT, "report", "cpu=101", "service[1].report cpu 101: must be from 0 to 100"),
    ],
)
def test_an_error_names_the_key_with_its_prefix(keys: dict[str, Key], name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        fields(keys, {name: value}, "service[1].")
    assert str(raised.value) == message


def test_a_service_knows_its_keys_as_they_were_written_and_is_the_same_wherever_that_is() -> None:
    first, second = ServiceConfig(), ServiceConfig(prefix="service[1].")
    assert (first.key("listen"), second.key("listen")) == ("--listen", "service[1].listen")
    assert first == second


def test_all_kinds_of_redispatch_can_be_asked_for() -> None:
    for kind in Redispatch:
        assert fields(SERVICE, {"redispatch-early": kind.value}) == {"redispatch": kind}
