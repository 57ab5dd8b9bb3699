"""Why an agent asks for no new clients: a file is there, or its service fails its check."""

from __future__ import annotations

import os
from typing import Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from rproxy.agent.agent import Agent
from rproxy.agent.checks import CommandCheck, ConnectCheck, HttpCheck, Own
from rproxy.agent.service_check import Check, ServiceCheck
from rproxy.timing.loops import keep_looping

LOOK_S: Final = 1.0
"""How often it is looked whether the file of `--drain-file` is there."""
PATH_MAX: Final = 2000
NO_CHECK: Final = "none"
CONNECT: Final = "connect"
_HTTP: Final = "http:"
_COMMAND: Final = "command:"
_FILE: Final = "file"
_SERVICE: Final = "service"


def check_of(text: str | None, service_port: int) -> str:
    """`--check` as it is used: what was given, or what is best. Raises `UsageError`."""
    if text is None:
        return CONNECT if service_port else NO_CHECK
    if text == CONNECT or text.startswith(_HTTP):
        if text != CONNECT:
            _check_path(text)
        if not service_port:
            raise usage.UsageError(f"--check {text}: needs --service-port, which is where to connect to")
    elif text.startswith(_COMMAND):
        if not text.removeprefix(_COMMAND).strip():
            raise usage.UsageError(f"--check {text}: no command is named")
    elif text != NO_CHECK:
        raise usage.UsageError(f"--check {text}: not one of connect, http:/path, command:CMD and none")
    return text


def _check_path(text: str) -> None:
    path = text.removeprefix(_HTTP)
    if not path.startswith("/") or path.startswith("//"):
        raise usage.UsageError(f"--check {text}: not of the form http:/path (the host is this one)")
    if not all("!" <= character <= "~" for character in path):
        raise usage.UsageError(f"--check {text!r}: a path has only visible ASCII characters, others as %XX")
    if len(path) > PATH_MAX:
        raise usage.UsageError(f"--check http:/…: the path is longer than {PATH_MAX} characters")


def _check(reactor: Any, text: str, port: int, own: Own) -> Check | None:
    if text == NO_CHECK:
        return None
    if text == CONNECT:
        return ConnectCheck(reactor, port, own)
    if text.startswith(_HTTP):
        return HttpCheck(reactor, port, own, text.removeprefix(_HTTP))
    return CommandCheck(reactor, text.removeprefix(_COMMAND))


class Draining:
    """Looks for the file, checks the service, and has the agent ask for no new clients while either says so.

    An agent with a check is to hold back (see `Agent`) until the first one has ended.
    """

    log = Logger()

    def __init__(self, reactor: Any, agent: Agent, file: str | None, check: str) -> None:
        self._agent = agent
        self._file = file
        self._reasons: dict[str, str] = {}
        """Why no new clients, by what found out."""
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        one = _check(reactor, check, agent.service.port, agent.own_addresses)
        self._check = None if one is None else ServiceCheck(one, reactor, self._checked)
        if self._file_is_there:
            self._reasons[_FILE] = f"{file} is there"
            agent.draining = True

    def start(self) -> None:
        if self._file is not None:
            if self._reasons:
                self._say(self._reasons[_FILE], "asking for no new clients")
            keep_looping(self._looking, LOOK_S, now=False, failed=self._failed)
        if self._check is not None:
            self._check.start()

    def stop(self) -> None:
        if self._looking.running:
            self._looking.stop()
        if self._check is not None:
            self._check.stop()

    def _failed(self, failure: Failure) -> None:
        self.log.failure("looking for {file}", failure, file=self._file)

    @property
    def _file_is_there(self) -> bool:
        return self._file is not None and os.path.exists(self._file)

    def _look(self) -> None:
        there = self._file_is_there
        if there and _FILE not in self._reasons:
            self._begin(_FILE, f"{self._file} is there")
        elif not there and _FILE in self._reasons:
            self._end(_FILE, f"{self._file} is gone")

    def _checked(self, well: bool, reason: str) -> None:
        if not well:
            self._begin(_SERVICE, f"the service fails its check ({reason})")
        elif _SERVICE in self._reasons:
            self._end(_SERVICE, "the service passes its check again")
        if self._agent.held_back:
            self._agent.begin()

    def _begin(self, what: str, reason: str) -> None:
        self._reasons[what] = reason
        if not self._agent.draining:
            self._agent.drain()
        self._say(reason, "asking for no new clients")

    def _end(self, what: str, event: str) -> None:
        del self._reasons[what]
        if self._reasons:
            self._say(event, f"still asking for no new clients, as {' and '.join(self._reasons.values())}")
        else:
            self._agent.drain(False)
            self._say(event, "clients may come")

    def _say(self, event: str, consequence: str) -> None:
        self.log.info("{event}: {consequence}", event=event, consequence=consequence)
