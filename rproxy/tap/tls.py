"""The TLS of a service as it runs: made at the start, and read again while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from twisted.logger import Logger

from rproxy.config.model import ServiceConfig
from rproxy.config.tls import client_key, client_tls, server_key, server_tls
from rproxy.config.validators import ConfigError
from rproxy.observe.service_log import logger_of

if TYPE_CHECKING:
    from rproxy.net.tls_client import ClientTls
    from rproxy.net.tls_files import Identity
    from rproxy.net.tls_server import ServerTls


class ServiceTls:
    """What a service's listeners and its connections to back-ends use for TLS.

    A listener keeps what it was given: that changes within when files are read again.
    """

    log = Logger()

    def __init__(self, config: ServiceConfig) -> None:
        """Reads the files. Raises `ConfigError`."""
        self.log = logger_of(config.name, self.log)
        self._config = config
        self._listeners = {text: server_tls(config, text) for text in config.listen}
        """By their text in the configuration; None for plain TCP."""
        self.to_backends = client_tls(config)
        """None for plain TCP."""
        self.kept: list[str] = []
        """Errors of the last reading: a line for each listener, and for back-ends, whose earlier TLS is still used."""
        self._warn()

    def listener(self, text: str) -> ServerTls | None:
        """For the listener that has that text in the configuration; None for plain TCP."""
        return self._listeners.get(text)

    def prepared(self, config: ServiceConfig) -> Callable[[], None]:
        """Load TLS that is new in `config`; return a function that reads all files again, for later connections.

        A listener that stays, and the connections to back-ends, keep what they have if it cannot be replaced, which is
        logged. Raises `ConfigError` for what is new, and changes nothing then.
        """
        before = {text: self._listeners.get(text) for text in config.listen}
        made = {text: server_tls(config, text) for text, tls in before.items() if tls is None}
        made_to_backends = client_tls(config) if self.to_backends is None else None

        def apply() -> None:
            self.kept = []
            self._listeners = {
                text: made[text] if tls is None else self._server(config, text, tls) for text, tls in before.items()
            }
            self.to_backends = made_to_backends if self.to_backends is None else self._client(config, self.to_backends)
            self._config = config
            self._tell()
            self._warn()

        return apply

    def apply(self, config: ServiceConfig) -> None:
        """Do both parts of `prepared` at once."""
        self.prepared(config)()

    def _server(self, config: ServiceConfig, text: str, before: ServerTls) -> ServerTls | None:
        try:
            return server_tls(config, text, before)
        except ConfigError as error:
            self._keep(f"{error}; clients get the certificates that they got before")
            return before

    def _client(self, config: ServiceConfig, before: ClientTls) -> ClientTls | None:
        try:
            return client_tls(config, before)
        except ConfigError as error:
            self._keep(f"{error}; TLS to back-ends stays as it was")
            return before

    def _keep(self, why: str) -> None:
        self.kept.append(why)
        self.log.error("{why}", why=why)

    def _identities(self) -> Iterator[tuple[str, Identity]]:
        """The certificates in use, each with its key in the configuration. Listeners may have the same."""
        seen = set()
        for text, tls in self._listeners.items():
            key = server_key(self._config, text)
            if tls is not None and key not in seen:
                seen.add(key)
                yield from ((f"{key}.certificate", each) for each in tls.identities)
        if self.to_backends is not None:
            yield from ((f"{client_key(self._config)}.certificate", each) for each in self.to_backends.identities)

    def _warn(self) -> None:
        """Log which certificates are not valid now."""
        now = datetime.now(UTC)
        for key, identity in self._identities():
            reason = identity.untimely(now)
            if reason is not None:
                self.log.warn("{key} {path}: {reason}", key=key, path=identity.path, reason=reason)

    def _tell(self) -> None:
        """Log that certificates were read again."""
        identities = [identity for _, identity in self._identities()]
        if identities:
            first = min(identities, key=lambda each: each.expires)
            self.log.info(
                "TLS certificates read again: {number}; {path} expires first, on {date:%Y-%m-%d}",
                number=len(identities),
                path=first.path,
                date=first.expires,
            )
