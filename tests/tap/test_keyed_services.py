"""The two commands with keys and without: what they send is sealed, or plain."""

from __future__ import annotations

from pathlib import Path

import pytest

from rproxy.config.keyfile import Keyring
from rproxy.pool.limits import Limits
from rproxy.tap import proxy
from rproxy.wire.pdu import Flaw, MalformedPdu, Register, decode
from rproxy.wire.seal import Sealed
from tests.config.commands import parsed
from tests.config.keyfiles import AGENT, FIRST, PDU, SECOND, key_file, opens, seals_with
from tests.tap.services import AgentBench, ProxyBench


@pytest.mark.usefixtures("reactor")
def test_a_proxy_is_made_with_its_keys_and_its_limits(tmp_path: Path) -> None:
    path = str(key_file(tmp_path, FIRST, SECOND))
    service = proxy.makeService(parsed("--keyring", path, "--max-backends", "7", allow=()))
    assert seals_with(service.monitor.envelope) == FIRST.id
    assert opens(service.monitor.envelope, SECOND)
    assert service.service.pool.limits == Limits.for_pool(7)


@pytest.mark.usefixtures("reactor")
def test_a_proxy_without_keys_is_made_for_plain_pdus() -> None:
    service = proxy.makeService(parsed())
    assert service.monitor.envelope.seal(PDU, AGENT) == PDU
    with pytest.raises(MalformedPdu) as caught:
        service.monitor.envelope.open(PDU + bytes(20), AGENT)
    assert caught.value.flaw is Flaw.SEALED


def sent_by(bench: AgentBench) -> bytes:
    ((datagram, _),) = bench.reactor.datagrams[0].written
    return bytes(datagram)


@pytest.mark.parametrize(
    ("advertise", "address"), [(None, "127.0.0.1"), ("192.0.2.7", "192.0.2.7"), ("2001:db8::5", "2001:db8::5")]
)
def test_an_agent_seals_for_its_advertised_address_or_that_of_its_route(
    tmp_path: Path, advertise: str | None, address: str
) -> None:
    keyring = Keyring.read(str(key_file(tmp_path, FIRST)), derived=True)
    bench = AgentBench(proxies=(("127.0.0.1", 5555),), keyring=keyring, advertise=advertise)
    proxys = Sealed((FIRST,))
    assert isinstance(decode(proxys.open(sent_by(bench), address)), Register)
    with pytest.raises(MalformedPdu, match=r"^seal$"):
        proxys.open(sent_by(bench), "10.9.9.9")


def test_an_agent_without_keys_sends_plain_pdus() -> None:
    assert len(sent_by(AgentBench())) == 24


def test_a_demo_has_the_proxys_keys(tmp_path: Path) -> None:
    keyring = Keyring.read(str(key_file(tmp_path, FIRST)), derived=False)
    bench = ProxyBench(listen=("8080",), monitors=(("127.0.0.1", 5555),), demo=2, keyring=keyring)
    bench.start()
    bench.reactor.run()
    for transport in bench.reactor.datagrams[1:]:
        ((datagram, address),) = transport.written
        assert address == ("127.0.0.1", 5555)
        bench.service.monitor.datagramReceived(bytes(datagram), ("127.0.0.1", 40000))
    assert bench.service.status()["counters"]["accepted"] == {"register": 2}
