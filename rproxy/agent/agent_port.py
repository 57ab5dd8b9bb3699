"""The agent's UDP port, which changes while no proxy probes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.agent.agent import Agent
from rproxy.net.udp_port import listen_udp
from rproxy.timing.loops import keep_looping

UNPROBED_S: Final = 60.0
"""Time without a probe after which the port changes."""
_POLL_S: Final = UNPROBED_S / 12


class AgentPort:
    """The UDP port of an agent, on `host`, or on every address of both families if that is empty.

    With `alternates`, it changes between `number` and an ephemeral port while no proxy probes: a stateful firewall or
    NAT may go on forwarding the flow of the old port to a host that is no longer the proxy. It changes back because
    other firewalls pass `number` only.
    """

    log = Logger()

    def __init__(self, reactor: Any, agent: Agent, host: str, number: int, *, alternates: bool) -> None:
        """`number` 0 stands for an ephemeral port."""
        self._reactor = reactor
        self._agent = agent
        self._host = host
        self._number = number
        self._alternates = alternates
        self._port: IListeningPort | None = None
        """None before `open`, while the port changes, and if none could be opened the last time."""
        self._uses_number = True
        """Whether to open `number`, or else an ephemeral port."""
        self._changed_at = reactor.seconds()
        self._has_logged = False
        """Whether the change was logged since the last probe."""
        self._stopped = False
        self._polling = LoopingCall(self._poll)
        self._polling.clock = reactor

    def open(self) -> None:
        """Open the port, unless it is open. Raises what `listen_udp` raises."""
        if self._port is None:
            self._listen()

    def start(self) -> None:
        """Change the port from now on while no proxy probes, if it alternates."""
        self._stopped = False
        if self._alternates:
            keep_looping(self._polling, _POLL_S, now=False, failed=self._failed)

    def stop(self) -> Deferred[Any]:
        """Unregister if the port is open, close it, and leave no timer. May be called at any time.

        Fires when the port is closed.
        """
        self._stopped = True
        if self._polling.running:
            self._polling.stop()
        if self._port is not None:
            self._agent.unregister()
        return self._close()

    def _failed(self, failure: Failure) -> None:
        self.log.failure("changing the port", failure)

    def _poll(self) -> None:
        now = self._reactor.seconds()
        if self._agent.probed_at > self._changed_at:
            self._has_logged = False
        if now - max(self._agent.probed_at, self._changed_at) >= UNPROBED_S:
            self._changed_at = now
            self._uses_number = not self._uses_number
            self._close().addCallback(lambda _: self._reopen())
        elif self._port is None:
            self._reopen()

    def _reopen(self) -> None:
        """Open the next port in turn; if that is in use, an ephemeral one; if that fails, try again later."""
        if self._stopped:
            return
        try:
            self._listen()
        except Exception:
            self._uses_number = False
            with suppress(Exception):
                self._listen()
        if not self._has_logged:
            self._has_logged = True
            self.log.info(
                "nobody has probed this agent for {seconds:g} s: trying another UDP port, and {port} again, in turn",
                seconds=UNPROBED_S,
                port=self._number,
            )

    def _listen(self) -> None:
        self._port = listen_udp(self._reactor, self._number if self._uses_number else 0, self._agent, self._host)

    def _close(self) -> Deferred[Any]:
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)
