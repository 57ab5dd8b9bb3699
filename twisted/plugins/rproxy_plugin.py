"""The two twistd commands. Nothing of ours is imported here: an import error would hide both."""

from difflib import get_close_matches

from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins

NAMES = ("rproxy", "rproxy-agent")
LIKE = 0.55
"""How much of a name must be right for it to be meant, from 0 to 1."""


class Name(str):
    """A command's name, which also equals its misspellings, unless another command is called so.

    For an unknown command twistd prints its whole help, and not the name that was meant. So it takes it for ours, which
    then says so; `asked` is the spelling.
    """

    asked = ""

    def __eq__(self, other):
        if str.__eq__(self, other):
            return True
        if not isinstance(other, str) or get_close_matches(other, NAMES, 1, LIKE) != [str(self)]:
            return False
        if any(str(maker.tapname) == other for maker in getPlugins(IServiceMaker)):
            return False
        self.asked = other
        return True

    __hash__ = str.__hash__


rproxy = ServiceMaker(
    "rproxy",
    "rproxy.tap.proxy",
    "A TCP reverse proxy that knows how loaded its back-ends are.",
    Name("rproxy"),
)

rproxy_agent = ServiceMaker(
    "rproxy-agent",
    "rproxy.tap.agent",
    "Registers this host with an rproxy and reports its load.",
    Name("rproxy-agent"),
)
