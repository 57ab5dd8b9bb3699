"""The report's network (chapter 5) out of network namespaces: every host has its own interfaces, ports and routes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import attrs

PORT: Final = "eth0"
_PREFIX: Final = f"rproxy{os.getpid()}"


def ip(*words: str) -> None:
    """Run `ip`; the exception has its output."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@attrs.frozen
class Host:
    """One namespace. `prefix` is the start of a command line that runs in it, as that very process."""

    name: str
    address: str
    address6: str = ""

    @property
    def namespace(self) -> str:
        return f"{_PREFIX}-{self.name}"

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.namespace]

    def output(self, *command: str) -> bytes:
        """Run `command` to its end. Raises `CalledProcessError`."""
        return subprocess.run([*self.prefix, *command], stdout=subprocess.PIPE, check=True, timeout=30).stdout

    def write(self, path: str, text: str) -> None:
        """Write to a file that each namespace has its own of, as those under /proc/sys/net."""
        self.output("sh", "-c", f"echo {text} > {path}")

    def filter(self, rules: str) -> None:
        """Give nftables a file of rules."""
        subprocess.run([*self.prefix, "nft", "-f", "-"], input=rules.encode(), check=True, timeout=30)

    def cut(self) -> None:
        """The host vanishes: it neither answers nor refuses anything from now on."""
        ip("-n", self.namespace, "link", "set", PORT, "down")


class Wiring:
    """Makes namespaces and cables, and removes the namespaces, with all in them, when it is closed."""

    def __init__(self) -> None:
        self._undo = ExitStack()

    def close(self) -> None:
        self._undo.close()

    def host(self, name: str, address: str = "", address6: str = "") -> Host:
        host = Host(name, address, address6)
        ip("netns", "add", host.namespace)
        self._undo.callback(self._remove, host)
        ip("-n", host.namespace, "link", "set", "lo", "up")
        return host

    def _remove(self, host: Host) -> None:
        with suppress(RuntimeError):  # the others are still to be removed
            ip("netns", "del", host.namespace)

    def bridge(self, switch: Host, name: str) -> None:
        ip("-n", switch.namespace, "link", "add", name, "type", "bridge")
        ip("-n", switch.namespace, "link", "set", name, "up")

    def plug(self, host: Host, address: str, switch: Host, bridge: str, *, port: str = PORT) -> None:
        """A cable from `port` of `host`, which gets `address`, and its IPv6 one if it has any, to a bridge."""
        far = f"{host.name}-{port}"
        ip("link", "add", port, "netns", host.namespace, "type", "veth", "peer", "name", far, "netns", switch.namespace)
        ip("-n", switch.namespace, "link", "set", far, "master", bridge, "up")
        ip("-n", host.namespace, "address", "add", f"{address}/24", "dev", port)
        if host.address6:  # at once, without looking whether another has it
            ip("-n", host.namespace, "address", "add", f"{host.address6}/64", "dev", port, "nodad")
        ip("-n", host.namespace, "link", "set", port, "up")


_REPLACED: Final = """
table bridge blocked {{
}}
delete table bridge blocked
table bridge blocked {{
    chain forward {{
        {chain}
    }}
}}
"""


@attrs.frozen
class Network:
    """The report's hosts. The clients' subnet lies behind the router; `switch` is what all cables end in."""

    servers: tuple[Host, Host]
    proxy: Host
    router: Host
    client: Host
    switch: Host

    def block_udp(self, *hosts: Host) -> None:
        """Drop all datagrams to or from these hosts at the switch."""
        chain = ["type filter hook forward priority 0"]
        chain += [f"ip protocol udp ip {end} {host.address} drop" for host in hosts for end in ("saddr", "daddr")]
        self.switch.filter(_REPLACED.format(chain="\n".join(chain)))

    def translate(self, inside: Host) -> None:
        """Enable NAT for a host of the clients' subnet: it is seen at the router's address."""
        self.router.filter(f"""
            table ip translation {{
                chain outwards {{
                    type nat hook postrouting priority srcnat
                    ip saddr {inside.address} oifname {PORT} masquerade
                }}
                chain inwards {{
                    type nat hook prerouting priority dstnat
                    iifname {PORT} tcp dport 80 dnat to {inside.address}
                }}
            }}
        """)


@contextmanager
def report_network() -> Iterator[Network]:
    """Build the network, and remove it at the end."""
    wiring = Wiring()
    try:
        yield _build(wiring)
    finally:
        wiring.close()


def _build(wiring: Wiring) -> Network:
    switch = wiring.host("switch")
    for bridge in ("lan", "far"):
        wiring.bridge(switch, bridge)
    router = wiring.host("router", "10.1.1.254")
    wiring.plug(router, "10.1.1.254", switch, "lan")
    wiring.plug(router, "10.2.2.254", switch, "far", port="eth1")
    router.write("/proc/sys/net/ipv4/ip_forward", "1")
    network = Network(
        servers=(
            wiring.host("servidor1", "10.1.1.1", "fd00:10:1:1::1"),
            wiring.host("servidor2", "10.1.1.2", "fd00:10:1:1::2"),
        ),
        proxy=wiring.host("servidor3", "10.1.1.10", "fd00:10:1:1::10"),
        router=router,
        client=wiring.host("cliente1", "10.2.2.1"),
        switch=switch,
    )
    for host in (*network.servers, network.proxy):
        _connect(wiring, host, switch, "lan", gateway="10.1.1.254")
    _connect(wiring, network.client, switch, "far", gateway="10.2.2.254")
    return network


def _connect(wiring: Wiring, host: Host, switch: Host, bridge: str, *, gateway: str) -> None:
    wiring.plug(host, host.address, switch, bridge)
    ip("-n", host.namespace, "route", "add", "default", "via", gateway)
