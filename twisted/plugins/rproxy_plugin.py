"""The two twistd commands. Nothing else is imported here: an import error would hide both."""

from twisted.application.service import ServiceMaker

rproxy = ServiceMaker(
    "rproxy",
    "rproxy.tap.proxy",
    "A TCP reverse proxy that knows how loaded its back-ends are.",
    "rproxy",
)

rproxy_agent = ServiceMaker(
    "rproxy-agent",
    "rproxy.tap.agent",
    "Registers this host with an rproxy and reports its load.",
    "rproxy-agent",
)
