"""The TLS of a service, made of the files that its configuration names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from rproxy.config.model import ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.net.tls_settings import TlsConfig, TlsFileError

if TYPE_CHECKING:
    from rproxy.net.tls_client import ClientTls
    from rproxy.net.tls_server import ServerTls

_MISSING: Final = "TLS needs pyOpenSSL, which 'pip install rproxy[tls]' brings"
_NO_EXECUTABLE: Final = "pyOpenSSL needs memory that is writable and executable (MemoryDenyWriteExecute=no in the unit)"
_Made = TypeVar("_Made")


def server_key(config: ServiceConfig, text: str) -> str:
    """The key of the TLS of the listener that has that text."""
    return config.key(f"listen[{config.listen.index(text)}].tls" if text in config.listen_tls else "tls")


def client_key(config: ServiceConfig) -> str:
    """The key of the TLS to back-ends."""
    return config.key("send-tls")


def server_tls(config: ServiceConfig, text: str, before: ServerTls | None = None) -> ServerTls | None:
    """TLS of the listener that has that text; None for plain TCP.

    If there is one from `before`, that is returned with what the configuration and its files say now. Raises
    `ConfigError`, and then leaves `before` as it was.
    """
    settings = _server_settings(config, text)
    if settings is None:
        return None
    several = len(settings.certificates) > 1

    def make() -> ServerTls:
        from rproxy.net.tls_server import ServerTls

        if before is None:
            return ServerTls(settings)
        before.apply(settings)
        return before

    return _made(make, server_key(config, text), several=several)


def client_tls(config: ServiceConfig, before: ClientTls | None = None) -> ClientTls | None:
    """TLS to the service's back-ends; None for plain TCP. `before` and what is raised are as for `server_tls`."""
    settings = config.send_tls
    if settings is None:
        return None

    def make() -> ClientTls:
        from rproxy.net.tls_client import ClientTls

        if before is None:
            return ClientTls(settings)
        before.apply(settings)
        return before

    return _made(make, client_key(config), several=False)


def unusable(config: ServiceConfig) -> Iterator[ConfigError]:
    """Everything that is wrong with the files of a service's TLS, of which what is made of them tells the first only.

    They are read one by one; what only OpenSSL finds, or that it is missing, is not among it.
    """
    try:
        from rproxy.net.tls_files import read_authorities, read_identity
    except ImportError:
        return
    for key, settings in {server_key(config, text): _server_settings(config, text) for text in config.listen}.items():
        if settings is not None:
            several = len(settings.certificates) > 1
            for number, files in enumerate(settings.certificates):
                yield from _wrong(partial(read_identity, *files, number), key, several=several)
            if settings.client_ca is not None:
                yield from _wrong(partial(read_authorities, "client-ca", settings.client_ca), key)
    send, key = config.send_tls, client_key(config)
    if send is not None and send.certificate is not None:
        yield from _wrong(partial(read_identity, send.certificate, send.key or send.certificate), key)
    if send is not None and send.ca is not None:
        yield from _wrong(partial(read_authorities, "ca", send.ca), key)


def _wrong(read: Callable[[], object], key: str, *, several: bool = False) -> Iterator[ConfigError]:
    try:
        _made(read, key, several=several)
    except ConfigError as error:
        yield error


def _server_settings(config: ServiceConfig, text: str) -> TlsConfig | None:
    """Of the listener that has that text."""
    return config.listen_tls.get(text, config.tls)


def _made(make: Callable[[], _Made], key: str, *, several: bool) -> _Made:
    """What `make` returns. Raises `ConfigError` for a key below `key`, with a number if there are several of it."""
    try:
        return make()
    except ImportError:
        raise ConfigError(_MISSING, key) from None
    except MemoryError:  # of cffi, for callbacks
        raise ConfigError(_NO_EXECUTABLE, key) from None
    except TlsFileError as error:
        which = f"[{error.number}]" if several and error.part in ("certificate", "key") else ""
        raise ConfigError(error.reason, f"{key}.{error.part}{which}", error.path) from None
