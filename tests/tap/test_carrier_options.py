"""The options of `twistd rproxy` that say what carries the sessions, and how many."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Final

import pytest

from rproxy.carriers import registry
from rproxy.carriers.portable.carrier import PortableCarrier
from rproxy.carriers.splice.reactor import SpliceCarrier
from rproxy.config.validators import ConfigError
from rproxy.sessions.capacity import sessions_for
from rproxy.tap import proxy
from rproxy.tap.proxy import ProxyService, makeService
from tests.config.commands import one_line, parsed
from tests.fakes import Reactor
from tests.tap.services import config


@pytest.mark.parametrize(
    ("carrier", "can_splice", "kind"),
    [
        ("auto", True, SpliceCarrier),
        ("splice", True, SpliceCarrier),
        ("portable", True, PortableCarrier),
        ("auto", False, PortableCarrier),
        ("portable", False, PortableCarrier),
    ],
)
def test_the_carrier_is_the_one_asked_for_or_what_there_is(
    monkeypatch: pytest.MonkeyPatch, carrier: str, can_splice: bool, kind: type[object]
) -> None:
    monkeypatch.setattr(registry, "CAN_SPLICE", can_splice)
    assert type(ProxyService(Reactor(), config(carrier=carrier)).carrier) is kind


@pytest.mark.parametrize("descriptors", [100, 1024, 20_000])
def test_without_a_limit_of_sessions_there_are_as_many_as_descriptors_allow(descriptors: int) -> None:
    service = ProxyService(Reactor(), config(), descriptors=descriptors)
    assert service.capacity.sessions_max == sessions_for(descriptors)


def test_a_limit_of_sessions_is_kept_up_to_what_descriptors_allow() -> None:
    fit = sessions_for(1024)
    for most in (1, fit):
        assert ProxyService(Reactor(), config(max_connections=most), descriptors=1024).capacity.sessions_max == most
    with pytest.raises(ConfigError, match=rf"^--max-connections {fit + 1}: 1024 open files are enough for {fit} "):
        ProxyService(Reactor(), config(max_connections=fit + 1), descriptors=1024)


def test_too_few_descriptors_for_any_session_are_told() -> None:
    with pytest.raises(ConfigError, match=r"^41 open files are too few for any session"):
        ProxyService(Reactor(), config(), descriptors=41)


def test_a_limit_above_what_descriptors_allow_is_one_line(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "raise_descriptor_limit", lambda: 256)
    options = parsed("--max-connections", "1000")
    with pytest.raises(SystemExit) as ended:
        makeService(options)
    text = one_line(ended.value)
    assert "--max-connections 1000" in text
    assert "256 open files" in text
    assert reactor.ports == []


@pytest.mark.usefixtures("reactor")
def test_a_service_raises_the_limit_of_open_files_and_uses_it() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 512), hard))
    options = parsed()
    service = makeService(options)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert service.capacity.sessions_max > sessions_for(512)


ELSEWHERE: Final = """
import os, select, socket
for module in (select, socket):
    for name in dir(module):
        if name.lower().startswith("epoll") or name in ("SOCK_NONBLOCK", "TCP_QUICKACK", "MSG_MORE"):
            delattr(module, name)
del os.splice
from twisted.internet import reactor
from rproxy.tap import proxy
from rproxy.tap.proxy import ProxyService
from rproxy.config.model import ProxyConfig
print(type(ProxyService(reactor, ProxyConfig()).carrier).__name__)
"""


def test_without_what_only_linux_has_there_is_the_portable_carrier() -> None:
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("PortableCarrier\n", "")
