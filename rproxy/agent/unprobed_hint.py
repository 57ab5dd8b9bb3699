"""A log line for an agent that no proxy probes. Proxies do not answer hosts that they do not accept."""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from rproxy.net.addresses import Address, written

HINT_AFTER_S: Final = 10.0


class UnprobedHint:
    """Logs what may be wrong after `HINT_AFTER_S` without a probe, and once more if another host probes instead."""

    log = Logger()

    def __init__(self, proxy: Address, now: float) -> None:
        """`now` is the agent's clock, in seconds."""
        self._proxy = proxy
        self.restart(now)

    def restart(self, now: float) -> None:
        """The proxy has stopped probing: the time without a probe starts now, and the hint may be logged again."""
        self._unprobed_since = now
        self._has_logged = False
        self._has_named_prober = False

    def maybe_log(self, now: float, unknown_prober: Address | None) -> None:
        """The proxy has not probed; `unknown_prober` is a host that has without being one of the proxies."""
        if now - self._unprobed_since < HINT_AFTER_S:
            return
        if self._has_logged and (self._has_named_prober or unknown_prober is None):
            return
        self._has_logged, self._has_named_prober = True, unknown_prober is not None
        others = (
            "" if unknown_prober is None else f"; probes come from {written(unknown_prober)}, which no --proxy names"
        )
        self.log.warn(
            "{proxy} does not probe this agent: is it running, does UDP pass both ways, do its --allow and --keyring "
            "fit this host, and does a service of it take this --service-port? trying on{others}",
            proxy=written(self._proxy),
            others=others,
        )
