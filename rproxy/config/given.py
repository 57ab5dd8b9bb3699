"""What the user has given, before the model is made of it: the values of options and of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from rproxy.config.validators import ConfigError

Values = Mapping[str, Any]
"""The model's values by the names of the keys that were given."""


@attrs.frozen
class OptionValues:
    """What the command line says, by the options' names without dashes."""

    proxy: Values = attrs.Factory(dict)
    service: Values = attrs.Factory(dict)
    """For every service."""
    policy_options: Mapping[str, str] = attrs.Factory(dict)
    shadow_options: Mapping[str, str] = attrs.Factory(dict)
    environment: Values = attrs.Factory(dict)
    """What the environment says of the process; a file wins over it."""
    texts: Mapping[str, str] = attrs.Factory(dict)
    """As they were written."""


@attrs.frozen
class FileValues:
    """What a file says, and what is wrong with it."""

    proxy: Values | None = attrs.Factory(dict)
    """None for a table with errors."""
    services: Sequence[Values | None] = ()
    """In the file's order."""
    errors: Sequence[ConfigError] = ()
    """Their keys are whole paths."""
    name: str = ""
    """What messages call it."""
    path: str | None = None
    """Absolute; None where there is no file."""
