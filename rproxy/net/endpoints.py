"""Twisted's endpoints, as far as it offers no way to inspect them."""

from __future__ import annotations

from typing import Any


def innermost(endpoint: Any) -> Any:
    """The endpoint within all wrappers such as ``haproxy:``, which is `endpoint` itself if it is no wrapper."""
    while hasattr(endpoint, "_wrappedEndpoint"):
        endpoint = endpoint._wrappedEndpoint
    return endpoint
