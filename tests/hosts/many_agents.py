"""Real agents in one process, each at its own address: `python -m tests.hosts.many_agents PROXY KEYS ADDRESS …`."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor

from rproxy.config.keyfile import Keyring
from rproxy.config.model import AGENT_PORT, MONITOR_PORT, AgentConfig
from rproxy.tap.agent import AgentService
from rproxy.tap.startup import use_monotonic_time


def main(proxy: str, keys: str, *addresses: str) -> None:
    running: Any = reactor
    use_monotonic_time(running)
    keyring = Keyring.read(keys, derived=True)
    for address in addresses:
        told = AgentConfig(
            proxies=((proxy, MONITOR_PORT),),
            port=AGENT_PORT,
            service_port=80,
            keyring=keyring,
            advertise=address,
            report={"cpu": 10, "memory": 10, "tcp": 0},
        )
        AgentService(running, told, host=address).startService()
    running.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
