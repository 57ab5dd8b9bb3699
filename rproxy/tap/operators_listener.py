"""The listener for operators: a TCP port, or a Unix socket."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IListeningPort

from rproxy.admin.http_server import BACKLOG, AdminSite
from rproxy.config.model import UNIX, ProxyConfig
from rproxy.net.addresses import Address, written
from rproxy.net.binding import Binding
from rproxy.net.own_listeners import OwnListeners
from rproxy.net.tcp_port import listen_tcp
from rproxy.net.unix_listener import UnixPort
from rproxy.tap.listeners import Listeners
from rproxy.tap.parts import address_of
from rproxy.tap.startup import StartupError, cannot_listen


class OperatorsListener(Listeners):
    """The operators' HTTP port. Their connections stay until the sessions have ended."""

    def __init__(self, reactor: Any, config: ProxyConfig, site: AdminSite, own: OwnListeners) -> None:
        super().__init__(reactor, own)
        self._config = config
        self._site = site
        self._socket: UnixPort | None = None

    def privilegedStartService(self) -> None:
        config = self._config
        if config.admin_path is not None:
            self._listen(f"{UNIX}{config.admin_path}", partial(self._unix, config.admin_path))
            self.log.info("status at unix:{path}", path=config.admin_path)
        elif config.admin is not None:
            try:
                port = self._listen(written(config.admin), partial(self._tcp, config.admin))
            except StartupError as error:
                if not config.admin_is_default:
                    raise
                self.log.warn("no status: {error}; --admin HOST:PORT names another port", error=error)
            else:
                self.log.info("status at http://{address}/", address=address_of(port))

    def _listen(self, place: str, opened: Callable[[], IListeningPort]) -> IListeningPort:
        """Raises `StartupError`."""
        try:
            port = opened()
            self._add(port)
        except Exception as error:
            raise cannot_listen(f"{self._config.key('admin')} {place}", error) from error
        return port

    def _tcp(self, address: Address) -> IListeningPort:
        host, port = address
        binding = Binding(host, freebind=self._config.freebind, reuse_port=self._config.reuse_port)
        return listen_tcp(self._reactor, port, self._site, binding, BACKLOG)

    def _unix(self, path: str) -> IListeningPort:
        takes_over = self._config.reuse_port
        self._socket = port = UnixPort(path, self._site, BACKLOG, self._reactor, takes_over=takes_over)
        port.startListening()
        return port

    def give(self, uid: int, gid: int) -> None:
        """Have the Unix socket, if it is one, belong to another user and group; -1 for the present one."""
        if self._socket is not None:
            self._socket.give(uid, gid)

    def stopService(self) -> None:
        super().stopService()
        self._site.stop()
