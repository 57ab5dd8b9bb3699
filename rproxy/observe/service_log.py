"""Which service a log line is about, where the configuration names services."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger, LogLevel

from rproxy.sessions.service import DEFAULT


class ServiceLogger(Logger):
    """Begins each line with the service's name."""

    def __init__(self, service: str, namespace: str) -> None:
        super().__init__(namespace)
        self._service = service

    def emit(self, level: LogLevel, format: str | None = None, **kwargs: Any) -> None:  # noqa: A002 - Twisted's name
        super().emit(level, f"{{service}}: {format}", service=self._service, **kwargs)


def logger_of(service: str, logger: Logger) -> Logger:
    """`logger` for lines about a service. That of the command line has no name to be told from others by."""
    return logger if service == DEFAULT else ServiceLogger(service, logger.namespace)
