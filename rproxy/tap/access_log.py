"""The access log as a part of the proxy: what is logged of sessions, in which format, and where it goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import time
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred

from rproxy.config.model import ACCESS_HAPROXY, ACCESS_JOURNAL, ACCESS_JSON, ACCESS_STDOUT, ProxyConfig
from rproxy.observe.access_formats import (
    HaproxyLines,
    Lines,
    SessionCounts,
    json_lines,
    no_header,
    syslog_header,
    text_lines,
)
from rproxy.observe.access_log import AccessLog
from rproxy.sessions.observers import SessionObserver
from rproxy.tap.access_targets import Descriptor, Target, open_target
from rproxy.tap.access_writer import AccessWriter
from rproxy.tap.parts import Part
from rproxy.tap.startup import StartupError
from rproxy.timing.background import Worker

_PROGRAM: Final = "rproxy"


class LoggedService(Protocol):
    """A service whose sessions are logged."""

    def log_accesses(self) -> None:
        """Called when `observers` or `shows_scores` may have changed."""


class AccessLogPart(Part):
    """Opens the access log before privileges are shed, and writes what is left of it last of all."""

    def __init__(self, reactor: Any, config: ProxyConfig, sessions: SessionCounts) -> None:
        """Opens nothing. `sessions` is for the format of HAProxy."""
        self._reactor = reactor
        self._config = config
        self._sessions = sessions
        self.is_daemon = False
        """Whether the process has no standard output."""
        self._target: Target | None = None
        """The one that was opened last."""
        self._worker = Worker(reactor, "access log")
        self._writer: AccessWriter | None = None
        self._ending: list[AccessWriter] = []
        """Those that a reload has stopped, while they write what is left."""
        self._lost_before = 0
        """Records lost by those that had been stopped before."""
        self._log: AccessLog | None = None
        self._use(config)

    def _use(self, config: ProxyConfig) -> None:
        self._config = config
        if config.access_log is None:
            self._log = None
        elif self._log is None:
            self._log = AccessLog(self._reactor, time, self._lines(config), self._put)
        else:
            self._log.lines = self._lines(config)

    def _lines(self, config: ProxyConfig) -> Lines:
        if config.access_log_format == ACCESS_HAPROXY:
            is_headed = config.access_log != ACCESS_JOURNAL
            header = syslog_header(socket.gethostname(), _PROGRAM, os.getpid()) if is_headed else no_header
            return HaproxyLines(header, self._sessions)
        return json_lines if config.access_log_format == ACCESS_JSON else text_lines

    @property
    def observers(self) -> tuple[SessionObserver, ...]:
        """What is to be told of the ends of all sessions."""
        return () if self._log is None else (self._log,)

    @property
    def shows_scores(self) -> bool:
        """Whether sessions are to note what the policy compared."""
        return self._log is not None and self._config.access_log_format == ACCESS_JSON

    @property
    def files(self) -> list[tuple[str, int]]:
        """The path and the descriptor of its file, if it has one."""
        target = self._target
        return [(target.path, target.descriptor)] if isinstance(target, Descriptor) and target.path else []

    @property
    def lost(self) -> int:
        """How many records are lost since the start."""
        writers = self._ending if self._writer is None else [*self._ending, self._writer]
        return self._lost_before + sum(writer.lost for writer in writers)

    def privilegedStartService(self) -> None:
        """As `Part`."""
        if self._config.access_log is not None and self._target is None:
            self._write_to(self._opened(self._config))

    def _opened(self, config: ProxyConfig) -> Target:
        """Raises `StartupError`."""
        where = config.access_log
        assert where is not None
        try:
            if where == ACCESS_STDOUT and self.is_daemon:
                raise OSError(None, "a daemon has no standard output; twistd -n keeps it in the foreground")
            return open_target(where)
        except OSError as error:
            raise StartupError(f"cannot write {config.key('access-log')} {where}: {error.strerror}") from None

    def _write_to(self, target: Target) -> None:
        self._target = target
        if self._writer is None:
            self._writer = AccessWriter(self._reactor, target, self._worker)
        else:
            self._writer.replace(target)

    def _put(self, lines: list[str]) -> None:
        if self._writer is not None:
            self._writer.put(lines)

    @contextmanager
    def changing(self, config: ProxyConfig, services: Iterable[LoggedService]) -> Iterator[None]:
        """Do what `config` says once the block has ended without an exception. Raises `StartupError` before it."""
        where, now = config.access_log, self._config.access_log
        target = None if where is None or where == now else self._opened(config)
        try:
            yield
        except BaseException:
            if target is not None:
                target.close()
            raise
        self._flush()
        if target is not None:
            self._write_to(target)
        elif where is None and self._writer is not None:
            self._retire(self._writer)
            self._writer = self._target = None
        self._use(config)
        for each in services:
            each.log_accesses()

    def _retire(self, writer: AccessWriter) -> None:
        def retired(_: None) -> None:
            self._ending.remove(writer)
            self._lost_before += writer.lost

        self._ending.append(writer)
        writer.stop().addCallback(retired)

    def reopen(self) -> None:
        """Open the file again: it has been renamed."""
        self._flush()
        if self._writer is not None:
            self._writer.reopen()

    def _flush(self) -> None:
        if self._log is not None:
            self._log.flush()

    def stopService(self) -> Deferred[None] | None:
        """As `Part`: the sessions have ended."""
        super().stopService()
        self._flush()
        writer, self._writer = self._writer, None
        return None if writer is None else writer.stop().addCallback(lambda _: self._worker.stop())
