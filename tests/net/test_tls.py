"""TLS listeners that have no protocols of their own ignore those that clients offer; others do not."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import _sslverify

from rproxy.net.tls import ignore_offered_protocols


@pytest.mark.parametrize(("protocols", "calls"), [((), 0), ((b"h2",), 1)], ids=["none", "named"])
def test_only_listeners_that_name_protocols_choose_one(
    protocols: tuple[bytes, ...], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(_sslverify, "setupForALPN", lambda *arguments: called.append(arguments), raising=False)
    for _ in range(2):
        ignore_offered_protocols()
    set_up: Any = _sslverify.setupForALPN
    set_up("context", protocols)
    assert called == [("context", protocols)] * calls


def test_where_twisted_does_it_another_way_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_sslverify, "setupForALPN", raising=False)
    ignore_offered_protocols()
    assert not hasattr(_sslverify, "setupForALPN")
