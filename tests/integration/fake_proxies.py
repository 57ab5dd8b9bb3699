"""A proxy that probes an agent datagram by datagram."""

from __future__ import annotations

import attrs

from rproxy.wire.pdu import ProbeRequest, ProbeResponse, Register
from tests.integration.datagrams import Peer


@attrs.frozen
class FakeProxy:
    """Probes the agent that `peer` hears, as the test says."""

    peer: Peer

    def ask(self, sequence: int, sessions: int | None) -> ProbeResponse:
        token = sequence << 32 | self.peer.address[1]
        self.peer.tell(ProbeRequest(sequence, token, sessions))
        while isinstance(answer := self.peer.hear(), Register):
            pass
        assert isinstance(answer, ProbeResponse)
        assert (answer.sequence, answer.token) == (sequence, token)
        return answer
