"""The two twistd commands. Imports nothing of rproxy: an import error would hide both commands."""

from difflib import get_close_matches

from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins

NAMES = ("rproxy", "rproxy-agent")
LIKE = 0.55
"""The least similarity, 0..1, of a misspelling to the name (`difflib`)."""


class Name(str):
    """A command's name, which also equals its misspellings, unless they are another command's name.

    For an unknown command twistd prints its whole help, without a suggestion. This way it runs the command that was
    meant, which fails with the suggestion; `asked` is the misspelling.
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
