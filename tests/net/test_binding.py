"""Addresses that include others."""

from __future__ import annotations

import pytest

from rproxy.net.addresses import Address
from rproxy.net.binding import widest


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([("", 1)], [("", 1)]),
        ([("", 1), ("::", 1)], [("", 1)]),
        ([("10.0.0.1", 1), ("0.0.0.0", 1)], [("0.0.0.0", 1)]),
        ([("10.0.0.1", 1), ("::", 1)], [("::", 1)]),
        ([("::1", 1), ("0.0.0.0", 1)], [("::1", 1), ("0.0.0.0", 1)]),
        ([("0.0.0.0", 1), ("::", 1)], [("", 1)]),
        ([("10.0.0.1", 1), ("10.0.0.1", 1), ("", 2)], [("10.0.0.1", 1), ("", 2)]),
        ([("", 0), ("10.0.0.1", 0)], [("", 0), ("10.0.0.1", 0)]),
    ],
)
def test_of_addresses_that_include_each_other_the_widest_stay(given: list[Address], kept: list[Address]) -> None:
    assert list(widest(given)) == kept
