"""When an agent asks for no new clients: while a file exists, or while its service fails its check."""

from __future__ import annotations

import os
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.agent.agent import Agent
from rproxy.agent.check_loop import Check, CheckLoop
from rproxy.timing.loops import keep_looping

FILE_INTERVAL_S: Final = 1.0
"""How often the file is looked for."""
_FILE: Final = "file"
_SERVICE: Final = "service"


class Draining:
    """Drains an agent while `file` exists, or while its service fails `check`; either may be None.

    With a check, the agent is held back until the first one has ended.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, agent: Agent, file: str | None, check: Check | None) -> None:
        """To be constructed before the agent's port opens: the first registration is to say whether it drains."""
        self._agent = agent
        self._file = file
        self._reasons: dict[str, str] = {}
        """Why the agent drains, as logged, by `_FILE` and `_SERVICE`; empty while it does not."""
        self._looking = LoopingCall(self._look_for_file)
        self._looking.clock = clock
        self._checks = None if check is None else CheckLoop(check, clock, self._checked)
        agent.held_back = check is not None
        if self._file_exists():
            self._reasons[_FILE] = f"{file} is there"
            agent.draining = True

    def start(self) -> None:
        """Look for the file and check the service from now on. The agent's port is open."""
        if self._file is not None:
            if self._reasons:
                self._log(self._reasons[_FILE], "asking for no new clients")
            keep_looping(self._looking, FILE_INTERVAL_S, now=False, failed=self._failed)
        if self._checks is not None:
            self._checks.start()

    def stop(self) -> None:
        """End the checks, and leave no timer. May be called without `start`."""
        if self._looking.running:
            self._looking.stop()
        if self._checks is not None:
            self._checks.stop()

    def _failed(self, failure: Failure) -> None:
        self.log.failure("looking for {file}", failure, file=self._file)

    def _file_exists(self) -> bool:
        return self._file is not None and os.path.exists(self._file)

    def _look_for_file(self) -> None:
        exists = self._file_exists()
        if exists and _FILE not in self._reasons:
            self._add_reason(_FILE, f"{self._file} is there")
        elif not exists and _FILE in self._reasons:
            self._remove_reason(_FILE, f"{self._file} is gone")

    def _checked(self, is_healthy: bool, reason: str) -> None:
        """The health of the service is known, or has changed."""
        if not is_healthy:
            self._add_reason(_SERVICE, f"the service fails its check ({reason})")
        elif _SERVICE in self._reasons:
            self._remove_reason(_SERVICE, "the service passes its check again")
        if self._agent.held_back:
            self._agent.release()

    def _add_reason(self, kind: str, reason: str) -> None:
        self._reasons[kind] = reason
        if not self._agent.draining:
            self._agent.drain()
        self._log(reason, "asking for no new clients")

    def _remove_reason(self, kind: str, event: str) -> None:
        del self._reasons[kind]
        if self._reasons:
            self._log(event, f"still asking for no new clients, as {' and '.join(self._reasons.values())}")
        else:
            self._agent.drain(False)
            self._log(event, "clients may come")

    def _log(self, event: str, consequence: str) -> None:
        self.log.info("{event}: {consequence}", event=event, consequence=consequence)
